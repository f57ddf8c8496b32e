// SPDX-License-Identifier: Apache-2.0

package gossipkey

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// AnnotationRotate on the Secret asks for a new key: any value that it did not have at
	// the last rotation, as the date.
	AnnotationRotate = "fairlead.dev/rotate-key"
	// annotationRotating is the rotation under way: the digest of the new key, a space,
	// and the value of AnnotationRotate that asked for it.
	annotationRotating = "fairlead.dev/rotating-key"
	// annotationRotated is the value of AnnotationRotate that the last rotation fulfilled.
	annotationRotated = "fairlead.dev/rotated-key"
)

const (
	// maxKeys is what node agents accept.
	maxKeys = 8
	// lookAgain is how often agents that have not told of a key yet are looked at.
	lookAgain = 5 * time.Second
	// waitingTooLong is when an event says for whom a rotation waits: a kubelet brings a
	// Secret's new content within about a minute.
	waitingTooLong = 3 * time.Minute
	// lostForGood is how long a node has not been ready before nobody waits for its agent:
	// longer than outages and reboots take.
	lostForGood = 10 * time.Minute
)

// The events of a rotation.
const (
	eventStarted = "KeyRotationStarted"
	eventDone    = "KeyRotated"
	eventWaiting = "KeyRotationWaits"
	eventRefused = "KeyRotationRefused"
)

// KeyID is a digest that tells keys apart without giving them away; node agents report the
// same in NodeAgent.status.gossip.keyIDs.
func KeyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// rotate brings a rotation one step forward: each step is one update of the Secret, which
// alone holds how far it is, so that any controller can go on after a crash.
//
//  1. The new key is added last: agents learn to read it.
//  2. Once every agent lists it, it becomes the first: agents write with it.
//  3. Once every agent lists it first, the others are removed.
func (c *Controller) rotate(ctx context.Context, secret *corev1.Secret, keys [][]byte) (time.Duration, error) {
	want := secret.Annotations[AnnotationRotate]
	id, value, under := strings.Cut(secret.Annotations[annotationRotating], " ")
	i := slices.IndexFunc(keys, func(k []byte) bool { return KeyID(k) == id })
	switch {
	case under && i < 0:
		// Somebody took the new key out: begin again, or forget it.
		return 0, c.update(ctx, secret, keys, "", secret.Annotations[annotationRotated])
	case !under && (want == "" || want == secret.Annotations[annotationRotated]):
		return 0, nil
	case !under:
		return c.start(ctx, secret, keys, want)
	}
	if missing := c.missing(func(ids []string) bool {
		return len(ids) > 0 && (ids[0] == id || i > 0 && slices.Contains(ids, id))
	}); len(missing) > 0 {
		c.waiting(ctx, secret, missing)
		return lookAgain, nil
	}
	c.since = time.Time{}
	if i > 0 {
		keys = slices.Concat(keys[i:i+1], keys[:i], keys[i+1:])
		klog.FromContext(ctx).Info("Every agent has the new gossip key: making it the first", "secret", klog.KObj(secret), "keyID", id)
		return lookAgain, c.update(ctx, secret, keys, secret.Annotations[annotationRotating], secret.Annotations[annotationRotated])
	}
	if err := c.update(ctx, secret, keys[:1], "", value); err != nil {
		return 0, err
	}
	klog.FromContext(ctx).Info("Gossip key rotated", "secret", klog.KObj(secret), "keyID", id)
	c.opts.Recorder.Eventf(secret, corev1.EventTypeNormal, eventDone, "the gossip key is %s, the former ones are removed", id)
	return 0, nil
}

// start adds a new key.
func (c *Controller) start(ctx context.Context, secret *corev1.Secret, keys [][]byte, want string) (time.Duration, error) {
	if len(keys) >= maxKeys {
		if c.refused != want {
			c.refused = want
			c.opts.Recorder.Eventf(secret, corev1.EventTypeWarning, eventRefused,
				"%q holds %d keys, and node agents read at most %d: remove those that no agent uses", DataKey, len(keys), maxKeys)
		}
		return 0, nil
	}
	key := make([]byte, KeySize)
	if _, err := io.ReadFull(c.opts.Rand, key); err != nil {
		return 0, fmt.Errorf("read random bytes: %w", err)
	}
	id := KeyID(key)
	if err := c.update(ctx, secret, append(slices.Clone(keys), key), id+" "+want, secret.Annotations[annotationRotated]); err != nil {
		return 0, err
	}
	klog.FromContext(ctx).Info("Added a gossip key", "secret", klog.KObj(secret), "keyID", id)
	c.opts.Recorder.Eventf(secret, corev1.EventTypeNormal, eventStarted,
		"added key %s; it will be used once every node agent has it", id)
	return lookAgain, nil
}

// missing are the nodes whose agents do not satisfy ok, ascending. Agents that left, and
// those of nodes that are gone or have not been ready for long, are not waited for: they
// read the Secret when they are back.
func (c *Controller) missing(ok func(keyIDs []string) bool) []string {
	var out []string
	now := time.Now()
	for _, obj := range c.opts.Agents.GetStore().List() {
		agent, is := obj.(*v1alpha1.NodeAgent)
		if is && !left(agent) && c.counts(agent.Name, now) && !ok(agent.Status.Gossip.KeyIDs) {
			out = append(out, agent.Name)
		}
	}
	slices.Sort(out)
	return out
}

// left reports whether an agent said that it leaves for good.
func left(agent *v1alpha1.NodeAgent) bool {
	ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.Status == metav1.ConditionFalse && ready.Reason == reason.Leaving.String()
}

// counts reports whether a node's agent is to be waited for. One that is not ready counts
// for a while: its agent may go on without its kubelet, and after an outage of the API
// server no node is ready, for a moment.
func (c *Controller) counts(node string, now time.Time) bool {
	n := client.Get[corev1.Node](c.opts.Nodes, node)
	if n == nil {
		return false
	}
	i := slices.IndexFunc(n.Status.Conditions, func(cond corev1.NodeCondition) bool { return cond.Type == corev1.NodeReady })
	if i < 0 {
		return now.Sub(n.CreationTimestamp.Time) < lostForGood
	}
	ready := &n.Status.Conditions[i]
	return ready.Status == corev1.ConditionTrue || now.Sub(ready.LastTransitionTime.Time) < lostForGood
}

// waiting says once for whom a rotation waits, when that takes long.
func (c *Controller) waiting(ctx context.Context, secret *corev1.Secret, missing []string) {
	now := time.Now()
	if c.since.IsZero() {
		c.since, c.complained = now, false
	}
	klog.FromContext(ctx).V(2).Info("Waiting for agents to read the gossip keys", "secret", klog.KObj(secret), "nodes", missing)
	if c.complained || now.Sub(c.since) < waitingTooLong {
		return
	}
	c.complained = true
	shown := strings.Join(missing[:min(len(missing), 5)], ", ")
	c.opts.Recorder.Eventf(secret, corev1.EventTypeWarning, eventWaiting,
		"the node agents of %d nodes (%s) have not read the new key yet; the former key stays in use until they have, or their nodes have not been ready for %s, or their NodeAgents are deleted",
		len(missing), shown, lostForGood)
}

// update writes keys and the two annotations, if the Secret is still as it was read.
func (c *Controller) update(ctx context.Context, secret *corev1.Secret, keys [][]byte, rotating, rotated string) error {
	s := secret.DeepCopy()
	var value bytes.Buffer
	for _, k := range keys {
		value.WriteString(base64.StdEncoding.EncodeToString(k))
		value.WriteByte('\n')
	}
	s.Data[DataKey] = value.Bytes()
	if s.Annotations == nil {
		s.Annotations = make(map[string]string)
	}
	for name, v := range map[string]string{annotationRotating: rotating, annotationRotated: rotated} {
		if v == "" {
			delete(s.Annotations, name)
		} else {
			s.Annotations[name] = v
		}
	}
	if _, err := c.opts.Client.CoreV1().Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update Secret %s: %w", SecretName, err)
	}
	return nil
}

// rotation are the annotations of a Secret that tell how far a rotation is.
func rotation(s *corev1.Secret) map[string]string {
	out := maps.Clone(s.Annotations)
	maps.DeleteFunc(out, func(k, _ string) bool {
		return k != AnnotationRotate && k != annotationRotating && k != annotationRotated
	})
	return out
}
