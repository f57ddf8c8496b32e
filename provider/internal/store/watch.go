// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"

	"k8s.io/client-go/tools/cache"
)

// Informers are the caches that feed the store. The caller starts them.
type Informers struct {
	Claims, Records, Pools, NodeAgents, Policies cache.SharedIndexInformer
	Services, Namespaces, Nodes, EndpointSlices  cache.SharedIndexInformer
}

// Watch feeds the store from informers. It returns what [Store.Run] has to wait for:
// each is true once the store has seen its informer's first list.
func (s *Store) Watch(in Informers) ([]cache.InformerSynced, error) {
	var synced []cache.InformerSynced
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{in.Policies, handler(s.ObservePolicy, s.ForgetPolicy)},
		{in.EndpointSlices, handler(s.ObserveEndpointSlice, s.ForgetEndpointSlice)},
		{in.Claims, handler(s.ObserveClaim, s.ForgetClaim)},
		{in.Records, handler(s.ObserveRecord, s.ForgetRecord)},
		{in.Pools, handler(s.ObservePool, s.ForgetPool)},
		{in.NodeAgents, handler(s.ObserveAgent, s.ForgetAgent)},
		{in.Services, handler(s.ObserveService, s.ForgetService)},
		{in.Namespaces, handler(s.ObserveNamespace, s.ForgetNamespace)},
		{in.Nodes, handler(s.ObserveNode, s.ForgetNode)},
	} {
		r, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return nil, fmt.Errorf("watch for the store: %w", err)
		}
		synced = append(synced, r.HasSynced)
	}
	return synced, nil
}

// WatchServiceCIDRs feeds the store from one more informer, which only newer API servers
// have.
func (s *Store) WatchServiceCIDRs(i cache.SharedIndexInformer) (cache.InformerSynced, error) {
	r, err := i.AddEventHandler(handler(s.ObserveServiceCIDR, s.ForgetServiceCIDR))
	if err != nil {
		return nil, fmt.Errorf("watch ServiceCIDRs for the store: %w", err)
	}
	return r.HasSynced, nil
}

// handler turns two typed functions into an informer's handler.
func handler[T any](observe, forget func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				observe(o)
			}
		},
		UpdateFunc: func(_, obj any) {
			if o, ok := obj.(T); ok {
				observe(o)
			}
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if o, ok := obj.(T); ok {
				forget(o)
			}
		},
	}
}
