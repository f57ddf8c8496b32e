// SPDX-License-Identifier: Apache-2.0

package gossipkey_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/gossipkey"
)

// store is an informer's, filled by hand.
type store struct{ cache.Store }

func newStore() store                 { return store{cache.NewStore(cache.MetaNamespaceKeyFunc)} }
func (s store) GetStore() cache.Store { return s.Store }
func (store) HasSynced() bool         { return true }

func (s store) put(t *testing.T, o ...any) {
	t.Helper()
	for _, obj := range o {
		if err := s.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func agent(name string, ids ...string) *v1alpha1.NodeAgent {
	return &v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     v1alpha1.NodeAgentStatus{Gossip: v1alpha1.GossipStatus{KeyIDs: ids}},
	}
}

func keyOf(b byte) []byte { return bytes.Repeat([]byte{b}, gossipkey.KeySize) }

func lines(keys ...[]byte) string {
	out := ""
	for _, k := range keys {
		out += base64.StdEncoding.EncodeToString(k) + "\n"
	}
	return out
}

// cluster is a controller that may crash, the agents, and the Secret between them.
type cluster struct {
	t             *testing.T
	client        *fake.Clientset
	agents, nodes store
	recorder      *record.FakeRecorder
	stop          func()
}

func rotating(t *testing.T, script func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{
			t: t, client: fake.NewClientset(secretWith(lines(keyOf(1)))), agents: newStore(), nodes: newStore(),
			recorder: record.NewFakeRecorder(64),
		}
		c.nodes.put(t, node("a", corev1.ConditionTrue), node("b", corev1.ConditionTrue))
		c.read("a", "b")
		c.start()
		script(c)
		c.stop()
	})
}

func (c *cluster) start() {
	c.t.Helper()
	k, err := gossipkey.New(gossipkey.Options{
		Client: c.client, Namespace: namespace, Recorder: c.recorder, Agents: c.agents, Nodes: c.nodes,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	}
	wait(c.t, 10*time.Second)
}

// ids are the keys of the Secret as agents name them.
func (c *cluster) ids() []string {
	c.t.Helper()
	keys, err := gossipkey.ParseKeys(get(c.t, c.client).Data[gossipkey.DataKey])
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, k := range keys {
		out = append(out, gossipkey.KeyID(k))
	}
	return out
}

// read has agents read the Secret.
func (c *cluster) read(names ...string) {
	c.t.Helper()
	for _, n := range names {
		c.agents.put(c.t, agent(n, c.ids()...))
	}
}

func (c *cluster) request(value string) {
	c.t.Helper()
	s := get(c.t, c.client)
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[gossipkey.AnnotationRotate] = value
	c.write(s)
}

func (c *cluster) write(s *corev1.Secret) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Secrets(namespace).Update(c.t.Context(), s, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	wait(c.t, 10*time.Second)
}

// expect checks the Secret: "1" is the first key, "2" the one that is not.
func (c *cluster) expect(when, want string) {
	c.t.Helper()
	got := ""
	for _, id := range c.ids() {
		if id == gossipkey.KeyID(keyOf(1)) {
			got += "1"
		} else {
			got += "2"
		}
	}
	if got != want {
		c.t.Errorf("%s: keys %s, want %s", when, got, want)
	}
}

func (c *cluster) events() string {
	var out []string
	for len(c.recorder.Events) > 0 {
		out = append(out, strings.Fields(<-c.recorder.Events)[1])
	}
	return strings.Join(out, " ")
}

// A rotation waits at each step for each agent, and for nobody else; a controller that
// crashes between any two steps goes on where it was.
func TestRotation(t *testing.T) {
	for name, crash := range map[string]func(c *cluster){
		"one controller":  func(*cluster) {},
		"crash each step": func(c *cluster) { c.stop(); c.start() },
	} {
		t.Run(name, func(t *testing.T) {
			rotating(t, func(c *cluster) {
				c.nodes.put(c.t, node("down", corev1.ConditionUnknown))
				c.agents.put(c.t, agent("down", "00000000"), agent("deleted", "00000000"))
				c.expect("before", "1")
				c.request("2026-11-22")
				crash(c)
				c.expect("at once", "12")
				c.read("a")
				crash(c)
				wait(c.t, time.Minute)
				c.expect("while b has not read it", "12")
				c.read("b")
				wait(c.t, 10*time.Second)
				crash(c)
				c.expect("when all have", "21")
				c.read("b")
				crash(c)
				wait(c.t, time.Minute)
				c.expect("while a does not use it", "21")
				c.read("a")
				wait(c.t, 10*time.Second)
				crash(c)
				c.expect("when all use it", "2")
				c.read("a", "b")
				wait(c.t, time.Hour)
				crash(c)
				c.expect("an hour later", "2")
				if got := c.events(); got != "KeyRotationStarted KeyRotated" {
					c.t.Errorf("events %q", got)
				}
				c.request("again")
				if got := c.ids(); len(got) != 2 {
					c.t.Errorf("a second request has keys %v", got)
				}
			})
		})
	}
}

// Each write may fail, or reach the Secret without the controller's learning of it.
func TestRotationWithFailingWrites(t *testing.T) {
	rotating(t, func(c *cluster) {
		failures := 0
		c.client.PrependReactor("update", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			u, ok := a.(clienttesting.UpdateAction)
			if !ok {
				return false, nil, nil
			}
			if failures++; failures%3 == 0 {
				return false, nil, nil
			}
			if failures%3 == 1 {
				return true, nil, errors.New("injected")
			}
			// It was written, and the answer got lost.
			if err := c.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), u.GetObject(), namespace); err != nil {
				c.t.Error(err)
			}
			return true, nil, errors.New("injected after the write")
		})
		s := get(c.t, c.client)
		s.Annotations = map[string]string{gossipkey.AnnotationRotate: "x"}
		if err := c.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), s, namespace); err != nil {
			c.t.Fatal(err)
		}
		var seen []int
		for range 60 {
			wait(c.t, 10*time.Second)
			c.read("a", "b")
			seen = append(seen, len(c.ids()))
		}
		c.expect("in the end", "2")
		if slices.Max(seen) > 2 {
			c.t.Errorf("up to %d keys at a time, want 2", slices.Max(seen))
		}
	})
}

func TestRotationTellsForWhomItWaits(t *testing.T) {
	rotating(t, func(c *cluster) {
		c.request("x")
		c.read("a")
		wait(c.t, 2*time.Minute)
		c.events()
		wait(c.t, 30*time.Minute)
		if got := c.events(); got != "KeyRotationWaits" {
			c.t.Errorf("events %q, want one that says that it waits", got)
		}
	})
}

func TestRotationIsNotBegunWithoutNeed(t *testing.T) {
	rotating(t, func(c *cluster) {
		wait(c.t, time.Hour)
		c.expect("without a request", "1")
		s := get(c.t, c.client)
		var many [][]byte
		for i := range 8 {
			many = append(many, keyOf(byte(i+1)))
		}
		s.Data[gossipkey.DataKey] = []byte(lines(many...))
		c.write(s)
		c.request("x")
		if got := c.ids(); len(got) != 8 {
			c.t.Errorf("%d keys, agents read 8 at most", len(got))
		}
		if got := c.events(); got != "KeyRotationRefused" {
			c.t.Errorf("events %q", got)
		}
	})
}

// Whoever takes the new key out has another made.
func TestRotationOverwrittenByHand(t *testing.T) {
	rotating(t, func(c *cluster) {
		c.request("x")
		c.expect("at once", "12")
		s := get(c.t, c.client)
		s.Data[gossipkey.DataKey] = []byte(lines(keyOf(1)))
		c.write(s)
		c.expect("after a hand took it out", "12")
	})
}

// A Secret that is deleted in the middle comes back and the rotation goes on.
func TestRotationOfADeletedSecret(t *testing.T) {
	rotating(t, func(c *cluster) {
		c.request("x")
		before := c.ids()
		if err := c.client.CoreV1().Secrets(namespace).Delete(c.t.Context(), gossipkey.SecretName, metav1.DeleteOptions{}); err != nil {
			c.t.Fatal(err)
		}
		wait(c.t, time.Minute)
		if got := c.ids(); !slices.Equal(got, before) {
			c.t.Errorf("keys %v, want %v", got, before)
		}
		c.read("a", "b")
		wait(c.t, 10*time.Second)
		c.expect("when all have read it", "21")
	})
}

// Agents name keys alike: the digest is part of the protocol.
func TestKeyID(t *testing.T) {
	if got := gossipkey.KeyID(keyOf(1)); got != "72cd6e84" {
		t.Errorf("key id %s", got)
	}
}
