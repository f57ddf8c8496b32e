// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// hook registers the event handlers. Handlers only mark work: they run on the
// informers' goroutines and must not block.
func (c *Controller) hook() error {
	in := c.opts.Informers
	if err := in.Claims.AddIndexers(cache.Indexers{groupIndex: byGroup}); err != nil {
		return fmt.Errorf("index claims by group: %w", err)
	}
	if err := in.NodeAgents.AddIndexers(cache.Indexers{conflictIndex: byConflict}); err != nil {
		return fmt.Errorf("index node agents by conflict: %w", err)
	}
	if err := in.EndpointSlices.AddIndexers(cache.Indexers{serviceIndex: byService}); err != nil {
		return fmt.Errorf("index endpoint slices by service: %w", err)
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{in.Claims, handle(c.claimChanged)},
		{in.Records, handle(c.recordChanged)},
		{in.Services, handle(c.serviceChanged)},
		{in.EndpointSlices, handle(c.endpointSliceChanged)},
		{in.Nodes, handle(c.nodeChanged)},
		{in.NodeAgents, handle(c.nodeAgentChanged)},
		{in.Pools, handle(c.poolChanged)},
		{in.Advertisements, handle(c.advertisementChanged)},
		{in.BGP.Peers, handle(c.peerChanged)},
		{in.BGP.Advertisements, handle(c.bgpAdvertisementChanged)},
		{in.BGP.Profiles, handle(c.profileChanged)},
		{in.BGP.Communities, handle(c.communityChanged)},
	} {
		reg, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return fmt.Errorf("add event handler: %w", err)
		}
		c.synced = append(c.synced, reg.HasSynced)
	}
	return nil
}

// handle adapts one function over (old, new) to the three kinds of events; old is nil
// for a new object, new is nil for a deleted one.
func handle[T any](changed func(before, after *T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if after, ok := obj.(*T); ok {
				changed(nil, after)
			}
		},
		UpdateFunc: func(old, obj any) {
			before, ok := old.(*T)
			after, ok2 := obj.(*T)
			if ok && ok2 {
				changed(before, after)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if before, ok := obj.(*T); ok {
				changed(before, nil)
			}
		},
	}
}

func (c *Controller) claimChanged(before, after *v1alpha1.IPClaim) {
	c.mu.Lock()
	if before != nil && (after == nil || after.Spec.Group != before.Spec.Group) &&
		len(c.claimsOf(loadbalancer.Group(before.Spec.Group))) == 0 {
		c.ledger.forget(loadbalancer.Group(before.Spec.Group))
	}
	if after != nil && after.Spec.Phase == v1alpha1.ClaimBound {
		c.ledger.observe(after)
	}
	if after == nil {
		delete(c.proposed, before.UID)
	}
	c.mu.Unlock()
	delay := time.Duration(0)
	if after != nil && after.Spec.Phase != v1alpha1.ClaimBound {
		delay = releaseDelay
	}
	for _, claim := range []*v1alpha1.IPClaim{before, after} {
		if claim == nil {
			continue
		}
		c.queue.Add(item{groupItem, claim.Spec.Group})
		for _, s := range claim.Spec.Services {
			c.queue.AddAfter(item{recordItem, s.Namespace + "/" + s.Name}, delay)
		}
	}
}

func (c *Controller) recordChanged(before, after *v1alpha1.LoadBalancer) {
	if after != nil {
		c.noteSpec(after)
	}
	if after == nil {
		c.forget(before)
		return
	}
	c.queue.Add(item{recordItem, after.Namespace + "/" + after.Name})
	if before == nil || !equality.Semantic.DeepEqual(before.Spec.Addresses, after.Spec.Addresses) ||
		!equality.Semantic.DeepEqual(before.Spec.Advertisements, after.Spec.Advertisements) {
		c.markGroupOf(after)
		c.markSharers(after, 0)
		c.markContradictions(before, after)
	} else if before.Spec.ExternalTrafficPolicy != after.Spec.ExternalTrafficPolicy {
		c.markSharers(after, 0)
		c.markContradictions(before, after)
	}
}

// forget drops what was remembered about a record.
func (c *Controller) forget(gone *v1alpha1.LoadBalancer) {
	key := loadbalancer.ServiceKey{Namespace: gone.Namespace, Name: gone.Name}
	c.markContradictions(gone, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.firstSeen, gone.UID)
	delete(c.told, gone.UID)
	delete(c.spoken, gone.UID)
	delete(c.specs, gone.UID)
	delete(c.relapsed, gone.UID)
	delete(c.pending, key.String())
	delete(c.settled, key)
	if w, ok := c.written[key]; ok && w.uid == gone.UID {
		delete(c.written, key)
	}
	if f, ok := c.failures[key]; ok && f.uid == gone.Spec.ServiceUID {
		delete(c.failures, key)
	}
}

func (c *Controller) markGroupOf(r *v1alpha1.LoadBalancer) {
	if len(r.Spec.Addresses) > 0 {
		c.queue.Add(item{groupItem, string(groupOf(r.Spec.Addresses))})
	}
	for _, g := range c.groupsOf(r.Spec.Addresses) {
		c.queue.Add(item{groupItem, string(g)}) // another one where addresses are shared
	}
}

func (c *Controller) serviceChanged(before, after *corev1.Service) {
	if before == nil || after == nil || maps.Equal(before.Labels, after.Labels) &&
		before.Annotations[v1alpha1.AnnotationAdvertisements] == after.Annotations[v1alpha1.AnnotationAdvertisements] {
		return // a Service's life is told by its claim and its record
	}
	c.queue.Add(item{recordItem, after.Namespace + "/" + after.Name})
}

func (c *Controller) endpointSliceChanged(before, after *discoveryv1.EndpointSlice) {
	for _, s := range []*discoveryv1.EndpointSlice{before, after} {
		if s == nil {
			continue
		}
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
			c.queue.AddAfter(item{recordItem, s.Namespace + "/" + name}, worldDelay)
			if r := client.Get[v1alpha1.LoadBalancer](c.opts.Informers.Records, s.Namespace+"/"+name); r != nil &&
				r.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal {
				c.markSharers(r, worldDelay)
			}
		}
	}
}

func (c *Controller) nodeChanged(before, after *corev1.Node) {
	if before != nil && after != nil && sameNode(before, after) {
		return // a heartbeat
	}
	c.worldChanged()
}

func (c *Controller) nodeAgentChanged(before, after *v1alpha1.NodeAgent) {
	c.conflictsChanged(before, after)
	c.planeChanged(before, after)
	c.sessionsChanged(before, after)
	if before != nil && after != nil && sameAgent(before, after) {
		return // counters
	}
	c.worldChanged()
}

func (c *Controller) poolChanged(before, after *v1alpha1.IPAddressPool) {
	if before != nil && after != nil && maps.Equal(before.Labels, after.Labels) &&
		slices.Equal(defaultAdvertisements(before), defaultAdvertisements(after)) {
		return // counters, or what matters to allocation only
	}
	c.worldChanged()
	for _, obj := range c.opts.Informers.Advertisements.GetStore().List() {
		if ad, ok := obj.(*v1alpha1.L2Advertisement); ok {
			c.queue.AddAfter(item{advertisementItem, ad.Name}, worldDelay)
		}
	}
	c.markBGPAdvertisements()
}

func (c *Controller) advertisementChanged(before, after *v1alpha1.L2Advertisement) {
	if after != nil {
		c.queue.Add(item{advertisementItem, after.Name})
	}
	if before != nil && after != nil && before.Generation == after.Generation && after.Generation != 0 {
		return // our own status write
	}
	c.worldChanged()
}

// worldChanged re-examines every group and record shortly.
func (c *Controller) worldChanged() {
	c.worlds.invalidate()
	c.planes.invalidate()
	c.queue.AddAfter(item{kind: sessionsItem}, worldDelay)
	c.markAll(worldDelay)
}

func (c *Controller) markAll(delay time.Duration) {
	for _, group := range c.opts.Informers.Claims.GetIndexer().ListIndexFuncValues(groupIndex) {
		c.queue.AddAfter(item{groupItem, group}, delay)
	}
	for _, key := range c.opts.Informers.Records.GetStore().ListKeys() {
		c.queue.AddAfter(item{recordItem, key}, delay)
	}
}

func byGroup(obj any) ([]string, error) {
	claim, ok := obj.(*v1alpha1.IPClaim)
	if !ok {
		return nil, fmt.Errorf("index claims: unexpected %T", obj)
	}
	return []string{claim.Spec.Group}, nil
}

func byService(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, fmt.Errorf("index endpoint slices: unexpected %T", obj)
	}
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

// claimsOf returns a group's claims from the cache, in no particular order.
func (c *Controller) claimsOf(group loadbalancer.Group) []*v1alpha1.IPClaim {
	return client.Indexed[v1alpha1.IPClaim](c.opts.Informers.Claims, groupIndex, string(group))
}
