// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// settle is how long a claim without an owner stays Releasing: an agent that took
	// the address over a moment ago may not have told the API yet. One second for that,
	// one more because the API keeps whole seconds of releasingSince.
	settle = 2 * time.Second
	// quarantine is how long an address may still be answered for by a node that the
	// API server has lost sight of: 60 s for its agent to notice and stop, after the
	// 40 s that a Node lease lives.
	quarantine = 100 * time.Second
	// patience is how long a node that looks alive may hold an address that is being
	// released. An agent that runs lets go within a second, so one that has not done so
	// by then no longer runs on its healthy node, and with it nothing answers ARP.
	patience = 5 * time.Minute
	// useCheck is how often a claim being released is looked at while a Service still
	// shows its address, for patience at most: a status is written within seconds.
	useCheck = time.Second
)

// liveness is what the API knows of the node that owns an address.
type liveness struct {
	live bool
	// since is when a lost node was lost, zero when that is not known.
	since time.Time
}

// decide says when to look at a claim being released again, zero when it may be deleted
// now, and whether a live owner holds it for longer than it should. Pure.
func decide(claim *v1alpha1.IPClaim, owner liveness, now time.Time) (wait time.Duration, held bool) {
	since := released(claim)
	age := settle
	if claim.Status.Owner != nil {
		if owner.live {
			if wait = since.Add(quarantine).Sub(now); wait > 0 {
				return wait, false
			}
			return max(0, since.Add(patience).Sub(now)), true
		}
		if owner.since.After(since) {
			since = owner.since
		}
		age = quarantine
	}
	return max(0, since.Add(age).Sub(now)), false
}

// released is when a claim became Releasing.
func released(claim *v1alpha1.IPClaim) time.Time {
	if claim.Spec.ReleasingSince != nil {
		return claim.Spec.ReleasingSince.Time
	}
	return claim.CreationTimestamp.Time
}

// livenessOf reads a node's liveness: it is live while the Node and the NodeAgent
// exist and are Ready.
func livenessOf(node *corev1.Node, agent *v1alpha1.NodeAgent) liveness {
	if node == nil || agent == nil {
		return liveness{}
	}
	out := liveness{live: true}
	lost := func(t time.Time) {
		out.live = false
		if out.since.IsZero() || t.Before(out.since) {
			out.since = t
		}
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
			lost(cond.LastTransitionTime.Time)
		}
	}
	cond := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
	if cond != nil && cond.Status != metav1.ConditionTrue {
		lost(cond.LastTransitionTime.Time)
	}
	return out
}

// sync brings one claim forward and returns when to look again, zero for "on the next event".
func (c *Controller) sync(ctx context.Context, name string) (time.Duration, error) {
	claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, name)
	if claim == nil || claim.DeletionTimestamp != nil {
		return 0, nil
	}
	switch claim.Spec.Phase {
	case v1alpha1.ClaimBound:
		return c.collect(ctx, claim)
	case v1alpha1.ClaimRetained:
		return c.retain(ctx, claim)
	case v1alpha1.ClaimReleasing:
		return c.release(ctx, claim)
	default:
		return 0, nil // of a later release, which knows what to do with it
	}
}

// release deletes a claim whose address nobody can answer for any more.
func (c *Controller) release(ctx context.Context, claim *v1alpha1.IPClaim) (time.Duration, error) {
	var owner liveness
	if o := claim.Status.Owner; o != nil {
		owner = livenessOf(client.Get[corev1.Node](c.opts.Informers.Nodes, o.Node), client.Get[v1alpha1.NodeAgent](c.opts.Informers.NodeAgents, o.Node))
	}
	wait, held := decide(claim, owner, time.Now())
	if held {
		c.reportHeld(ctx, claim)
	}
	if wait > 0 {
		return wait, nil
	}
	if released(claim).Add(patience).After(time.Now()) {
		if inUse, err := c.inUse(ctx, claim); err != nil || inUse {
			return useCheck, err
		}
	}
	// The resource version makes sure that nobody took the address over meanwhile.
	err := c.opts.Claims.Delete(ctx, claim.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &claim.UID, ResourceVersion: &claim.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("delete claim %s: %w", claim.Name, err)
	}
	klog.FromContext(ctx).Info("Released address", "claim", claim.Name, "pool", claim.Spec.Pool)
	return 0, nil
}

// inUse asks the server whether a Service that is not being deleted still shows the
// address, or its record still lists it: of two leaders that allocated for it at once,
// one may have written that after the other had released the claim. Allocation sees the
// same and moves the Service away; until then nobody else may have the address.
func (c *Controller) inUse(ctx context.Context, claim *v1alpha1.IPClaim) (bool, error) {
	for _, s := range claim.Spec.Services {
		svc, err := c.opts.GetService(ctx, s.Namespace, s.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("get Service %s/%s: %w", s.Namespace, s.Name, err)
		}
		if svc.UID != s.UID || svc.DeletionTimestamp != nil {
			continue
		}
		if statusHas(svc, claim) {
			return true, nil
		}
		r, err := c.opts.GetRecord(ctx, s.Namespace, s.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("get record %s/%s: %w", s.Namespace, s.Name, err)
		}
		if err == nil && recordUses(r, s, claim) {
			return true, nil
		}
	}
	return false, nil
}

// reportHeld says once that a live node does not let an address go.
func (c *Controller) reportHeld(ctx context.Context, claim *v1alpha1.IPClaim) {
	c.mu.Lock()
	told := c.reported[claim.UID]
	c.reported[claim.UID] = true
	c.mu.Unlock()
	if told {
		return
	}
	node := claim.Status.Owner.Node
	klog.FromContext(ctx).Info("Address is being released but a live node still owns it", "claim", claim.Name, "node", node)
	c.opts.Recorder.Eventf(claim, corev1.EventTypeWarning, reason.AddressReleasing.String(),
		"node %q has not let %s go; the address stays reserved until its agent does, for %s at most: look whether that agent runs",
		node, claim.Spec.Address, patience)
}
