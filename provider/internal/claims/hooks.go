// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// hook registers the event handlers, which only mark claims.
func (c *Controller) hook() error {
	in := c.opts.Informers
	if err := in.Claims.AddIndexers(cache.Indexers{serviceIndex: byService, ownerIndex: byOwner}); err != nil {
		return fmt.Errorf("index claims: %w", err)
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		mark     func(obj any)
	}{
		{in.Claims, c.claimChanged},
		{in.Records, c.recordChanged},
		{in.NodeAgents, c.agentChanged},
		{in.Nodes, c.nodeChanged},
		{in.Services, c.serviceChanged},
	} {
		reg, err := h.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: h.mark,
			UpdateFunc: func(old, obj any) {
				h.mark(old) // what it no longer refers to
				h.mark(obj)
			},
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				h.mark(obj)
			},
		})
		if err != nil {
			return fmt.Errorf("add event handler: %w", err)
		}
		c.synced = append(c.synced, reg.HasSynced)
	}
	return nil
}

func (c *Controller) claimChanged(obj any) {
	claim, ok := obj.(*v1alpha1.IPClaim)
	if !ok {
		return
	}
	c.queue.Add(claim.Name)
	if _, found, err := c.opts.Informers.Claims.GetStore().GetByKey(claim.Name); err == nil && !found {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.leavingSince, claim.UID)
		delete(c.reported, claim.UID)
	}
}

func (c *Controller) recordChanged(obj any) {
	if r, ok := obj.(*v1alpha1.LoadBalancer); ok {
		for _, a := range r.Spec.Addresses {
			c.queue.Add(a.Claim)
		}
	}
}

func (c *Controller) serviceChanged(obj any) {
	if svc, ok := obj.(*corev1.Service); ok && svc.UID != "" {
		c.markIndexed(serviceIndex, string(svc.UID))
	}
}

func (c *Controller) nodeChanged(obj any) {
	if n, ok := obj.(*corev1.Node); ok {
		c.markIndexed(ownerIndex, n.Name)
	}
}

func (c *Controller) agentChanged(obj any) {
	if a, ok := obj.(*v1alpha1.NodeAgent); ok {
		c.markIndexed(ownerIndex, a.Name)
	}
}

func (c *Controller) markIndexed(index, value string) {
	names, err := c.opts.Informers.Claims.GetIndexer().IndexKeys(index, value)
	if err != nil {
		return // only for an unknown index, which New has added
	}
	for _, name := range names {
		c.queue.Add(name)
	}
}

func byService(obj any) ([]string, error) {
	claim, ok := obj.(*v1alpha1.IPClaim)
	if !ok {
		return nil, fmt.Errorf("index claims: unexpected %T", obj)
	}
	uids := make([]string, 0, len(claim.Spec.Services))
	for _, s := range claim.Spec.Services {
		uids = append(uids, string(s.UID))
	}
	return uids, nil
}

// byOwner indexes claims being released by the node that may still answer for them;
// nobody waits for the owner of a bound claim.
func byOwner(obj any) ([]string, error) {
	claim, ok := obj.(*v1alpha1.IPClaim)
	if !ok {
		return nil, fmt.Errorf("index claims: unexpected %T", obj)
	}
	if claim.Spec.Phase != v1alpha1.ClaimReleasing || claim.Status.Owner == nil {
		return nil, nil
	}
	return []string{claim.Status.Owner.Node}, nil
}
