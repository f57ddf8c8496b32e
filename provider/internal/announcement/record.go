// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// eventAnnouncing is the reason of the event that tells a new owner. It is the one
// event reason that answers no "why not", hence not part of package reason.
const eventAnnouncing = "Announcing"

// failureGrace is how long a failure is remembered of a Service that the caches do not
// have, or not yet.
const failureGrace = time.Minute

// failure is an allocation that did not succeed, as allocation reported it.
type failure struct {
	at      time.Time
	uid     types.UID
	reason  reason.Reason
	message string
}

// writtenStatus is our latest write of a record's status, kept until the cache has it.
type writtenStatus struct {
	uid             types.UID
	resourceVersion string
	status          v1alpha1.LoadBalancerStatus
}

// AllocationFailed remembers why a Service has not every address it asked for; the
// record's Allocated condition says so until AllocationSucceeded. The memory does not
// outlive the process, the condition does.
func (c *Controller) AllocationFailed(svc *corev1.Service, r reason.Reason, message string) {
	key := loadbalancer.ServiceKey{Namespace: svc.Namespace, Name: svc.Name}
	c.mu.Lock()
	delete(c.settled, key)
	c.failures[key] = failure{at: time.Now(), uid: svc.UID, reason: r, message: message}
	c.mu.Unlock()
	c.queue.Add(item{recordItem, key.String()})
}

// AllocationSucceeded ends what AllocationFailed said, in this process or an earlier one.
func (c *Controller) AllocationSucceeded(key loadbalancer.ServiceKey) {
	c.mu.Lock()
	known := c.settled[key]
	c.settled[key] = true
	delete(c.failures, key)
	c.mu.Unlock()
	if !known {
		c.queue.Add(item{recordItem, key.String()})
	}
}

// syncRecord corrects a record's advertisements and status.
func (c *Controller) syncRecord(ctx context.Context, name string) (time.Duration, error) {
	r := client.Get[v1alpha1.LoadBalancer](c.opts.Informers.Records, name)
	if r == nil {
		return c.forgetFailure(name), nil
	}
	if r.DeletionTimestamp != nil {
		return 0, nil
	}
	w := c.worlds.get()
	wanted := wishOf(w, r.Spec.Addresses, c.serviceOf(r))
	if refs := wanted.references(r.Spec.Advertisements); !equality.Semantic.DeepEqual(refs, r.Spec.Advertisements) {
		doc := document("LoadBalancer", r, "spec", map[string]any{"advertisements": refs})
		if err := apply(ctx, c.opts.Records(r.Namespace), doc); err != nil {
			return 0, fmt.Errorf("apply advertisements of record %s: %w", name, err)
		}
	}
	s := c.situationOf(r, w, wanted)
	if wait := c.holdBack(r, s); wait > 0 {
		return wait, nil
	}
	f := assessForwarded(s)
	want := assess(s, f)
	if wait := c.tooSoon(r, want, s); wait > 0 {
		c.settleForwarded(r.UID, name, f, false)
		if f.again > 0 {
			wait = min(wait, f.again)
		}
		return wait, nil
	}
	err := c.writeStatus(ctx, r, want, s)
	relapsed := err == nil && !f.ok && f.reason != reason.LeftToKubeProxy && meta.IsStatusConditionTrue(s.previous, v1alpha1.ConditionForwarded)
	c.settleForwarded(r.UID, name, f, relapsed)
	return f.again, err
}

// forgetFailure ends the memory of a failure whose Service and record are both gone. It
// returns when to look again, zero for never.
func (c *Controller) forgetFailure(name string) time.Duration {
	if client.Get[corev1.Service](c.opts.Informers.Services, name) != nil {
		return 0 // the record is about to come
	}
	key := loadbalancer.ServiceKey{}
	key.Namespace, key.Name, _ = strings.Cut(name, "/")
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.settled, key)
	f, ok := c.failures[key]
	if !ok {
		return 0
	}
	if wait := failureGrace - time.Since(f.at); wait > 0 {
		return wait
	}
	delete(c.failures, key)
	return 0
}

// serviceOf returns a record's Service, nil when it is gone.
func (c *Controller) serviceOf(r *v1alpha1.LoadBalancer) *corev1.Service {
	svc := client.Get[corev1.Service](c.opts.Informers.Services, r.Namespace+"/"+r.Name)
	if svc == nil || svc.UID != r.Spec.ServiceUID {
		return nil
	}
	return svc
}

// holdBack returns how long a record's first status must still wait for an owner.
func (c *Controller) holdBack(r *v1alpha1.LoadBalancer, s situation) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(r.Status.Conditions) > 0 || s.owned() || s.failure != nil || s.wish.onlyBGP() && assessAnnounced(s).ok {
		delete(c.firstSeen, r.UID)
		return 0
	}
	now := time.Now()
	first, ok := c.firstSeen[r.UID]
	if !ok {
		first = now
		c.firstSeen[r.UID] = now
	}
	if awaited(s) {
		return awaitedDelay - now.Sub(first)
	}
	return firstWriteDelay - now.Sub(first)
}

// situationOf gathers from the caches what a record's conditions depend on.
func (c *Controller) situationOf(r *v1alpha1.LoadBalancer, w *world, wanted wish) situation {
	base := c.base(r)
	key := loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}
	s := situation{
		addresses:  r.Spec.Addresses,
		wish:       wanted,
		policy:     r.Spec.ExternalTrafficPolicy,
		generation: r.Generation,
		previous:   base.Conditions,
		nodes:      w.nodes,
		endpoints:  c.endpointsOf(key.String()),
		now:        time.Now(),
		sessions:   c.sessions.get(),
		vain:       vainOverrides(r.Spec.BGP, wanted.bgp, w.aliases),
		peers:      w.peers,
		onNodes:    r.Spec.NodeAddresses,
		forwarding: c.forwardingOf(r),
	}
	c.mu.Lock()
	s.settled = c.settled[key]
	if f, ok := c.failures[key]; ok && f.uid == r.Spec.ServiceUID {
		s.failure = &f
	}
	c.mu.Unlock()
	for _, a := range wanted.addrs {
		h := c.holdingOf(a, r.Spec.ServiceUID, w)
		if wanted.onlyBGP() {
			h.owner = nil // of a sharer, or of what was wanted before: nobody is asked by layer 2
		} else if h.bound {
			h.conflicts = c.conflictsOf(h.addr, h.owner, w)
		}
		if len(wanted.bgp) > 0 {
			h.sharers = c.sharersOf(a, r.Spec.ServiceUID, w)
		}
		s.held = append(s.held, h)
	}
	for i := range s.held {
		if len(wanted.bgp) > 0 && s.held[i].bound {
			s.held[i].tellers = s.tellers(s.held[i])
		}
	}
	if !s.owned() && !wanted.onlyBGP() {
		var claims []*v1alpha1.IPClaim
		for _, g := range c.groupsOf(r.Spec.Addresses) {
			claims = append(claims, boundOf(c.claimsOf(g))...)
		}
		s.targets = targetsOf(append(c.wishesOf(claims, w, r.Spec.ServiceUID), wanted))
	}
	return s
}

// holdingOf says how a Service holds one of its addresses.
func (c *Controller) holdingOf(addr netip.Addr, uid types.UID, w *world) holding {
	h := holding{addr: addr.String()}
	claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, v1alpha1.ClaimName(addr))
	if claim == nil {
		return h
	}
	if claim.Spec.Phase == v1alpha1.ClaimRetained {
		h.retainUntil = claim.Spec.RetainUntil
	}
	h.bound = claim.Spec.Phase == v1alpha1.ClaimBound &&
		slices.ContainsFunc(claim.Spec.Services, func(s v1alpha1.ServiceReference) bool { return s.UID == uid })
	if o := claim.Status.Owner; h.bound && o != nil && w.known[loadbalancer.NodeName(o.Node)] {
		h.owner = o
	}
	return h
}

// base returns the record's status as it is on the server as far as we know: the
// cache's, or our own later write.
func (c *Controller) base(r *v1alpha1.LoadBalancer) v1alpha1.LoadBalancerStatus {
	key := loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.written[key]
	if !ok {
		return r.Status
	}
	order, err := resourceversion.CompareResourceVersion(r.ResourceVersion, w.resourceVersion)
	if w.uid == r.UID && err == nil && order < 0 {
		return w.status
	}
	delete(c.written, key)
	return r.Status
}

// writeStatus writes a status that differs from what the server has, and tells the
// Service about what a person would want to know of the difference.
func (c *Controller) writeStatus(ctx context.Context, r *v1alpha1.LoadBalancer, want v1alpha1.LoadBalancerStatus, s situation) error {
	base := c.base(r)
	if equality.Semantic.DeepEqual(base, want) {
		return nil
	}
	content := map[string]any{"conditions": want.Conditions}
	if want.Owner != nil {
		content["owner"] = want.Owner
	}
	stored, err := applyGet(ctx, c.opts.Records(r.Namespace), document("LoadBalancer", r, "status", content), "status")
	if err != nil {
		return fmt.Errorf("apply status of record %s/%s: %w", r.Namespace, r.Name, err)
	}
	if stored == nil {
		return nil // gone
	}
	c.mu.Lock()
	c.written[loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}] = writtenStatus{
		uid: r.UID, resourceVersion: stored.ResourceVersion, status: want,
	}
	c.mu.Unlock()
	c.spoke(r.UID, s.now)
	klog.FromContext(ctx).V(2).Info("Wrote record status", "record", klog.KObj(r), "owner", ownerNode(want.Owner))
	c.tell(r, base, want, s)
	return nil
}

// tell emits events for a status that was written, which follows from s.
func (c *Controller) tell(r *v1alpha1.LoadBalancer, before, after v1alpha1.LoadBalancerStatus, s situation) {
	note := s.wish.note()
	svc := &corev1.ObjectReference{
		Kind: "Service", APIVersion: "v1", Namespace: r.Namespace, Name: r.Name, UID: r.Spec.ServiceUID,
	}
	if node := ownerNode(after.Owner); node != "" && node != ownerNode(before.Owner) {
		addresses, _ := s.list(func(h holding) bool { return ownerNode(h.owner) == node })
		c.opts.Recorder.Eventf(svc, corev1.EventTypeNormal, eventAnnouncing,
			"announcing %s from node %q by layer 2", addresses, node)
	}
	if announcedSays(after, byBGP) && !announcedSays(before, byBGP) {
		c.opts.Recorder.Event(svc, corev1.EventTypeNormal, eventAnnouncing, eventBGP(s))
	}
	c.tellConflicts(r, svc, before, s)
	if cause, message, ok := newFault(before.Conditions, after.Conditions); ok {
		c.opts.Recorder.Event(svc, corev1.EventTypeWarning, cause, message)
	} else if announcedSays(after, notByBGP) && !announcedSays(before, notByBGP) {
		why := assessBGP(s)
		c.opts.Recorder.Event(svc, corev1.EventTypeWarning, why.reason.String(), why.message)
	} else if note != "" && announcedSays(after, note) && !announcedSays(before, note) {
		c.opts.Recorder.Event(svc, corev1.EventTypeWarning, reason.NoAdvertisement.String(), strings.TrimPrefix(note, "; "))
	}
}

// announcedSays reports whether the Announced condition's message holds a text.
func announcedSays(s v1alpha1.LoadBalancerStatus, text string) bool {
	cond := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAnnounced)
	return cond != nil && strings.Contains(cond.Message, text)
}

func ownerNode(o *v1alpha1.Owner) string {
	if o == nil {
		return ""
	}
	return o.Node
}
