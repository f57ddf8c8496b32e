// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"maps"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// endpoints keeps those of Services as they were converted. They are converted again when a
// slice of the Service is new or gone, and all when the weight of a node changes.
type endpoints struct {
	// slices are known with the Service that each is of.
	slices  memo[*discoveryv1.EndpointSlice, loadbalancer.ServiceKey]
	weights map[loadbalancer.NodeName]uint16
	// known is not changed once made.
	known map[loadbalancer.ServiceKey]loadbalancer.Endpoints
}

// matter says whether a plan depends on the endpoints of a record's Service: under the Local
// policy they tell who may announce, and IPVS forwards to them.
func matter(r loadbalancer.Record) bool {
	return r.Policy == loadbalancer.Local || r.DataPlane == loadbalancer.IPVS
}

// readEndpoints returns the endpoints of all Services that have a record and matter. Others
// says that records changed.
func (i *Intake) readEndpoints(ctx context.Context, weights map[loadbalancer.NodeName]uint16, others bool) map[loadbalancer.ServiceKey]loadbalancer.Endpoints {
	e := &i.endpoints
	stale := make(map[loadbalancer.ServiceKey]struct{})
	e.slices.changed = func(key loadbalancer.ServiceKey) { stale[key] = struct{}{} }
	n := 0
	for s := range each[*discoveryv1.EndpointSlice](i.slices) {
		n++
		e.slices.get(s, serviceOfSlice)
	}
	e.slices.end(n)
	switch {
	case e.known == nil || !maps.Equal(e.weights, weights):
		e.known, e.weights = nil, weights
	case others:
	case len(stale) == 0:
		return e.known
	default:
		e.known = maps.Clone(e.known)
		for key := range stale {
			if _, matters := e.known[key]; matters {
				e.known[key] = i.convertEndpoints(ctx, key)
			}
		}
		return e.known
	}
	known := make(map[loadbalancer.ServiceKey]loadbalancer.Endpoints, len(i.last.Records))
	for _, r := range i.last.Records {
		if !matter(r) {
			continue
		}
		value, ok := e.known[r.Service]
		if _, old := stale[r.Service]; old || !ok {
			value = i.convertEndpoints(ctx, r.Service)
		}
		known[r.Service] = value
	}
	e.known = known
	return known
}

// serviceOfSlice is the zero key for a slice without a Service.
func serviceOfSlice(s *discoveryv1.EndpointSlice) loadbalancer.ServiceKey {
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		return loadbalancer.ServiceKey{Namespace: s.Namespace, Name: name}
	}
	return loadbalancer.ServiceKey{}
}

func (i *Intake) convertEndpoints(ctx context.Context, key loadbalancer.ServiceKey) loadbalancer.Endpoints {
	slices := client.Indexed[discoveryv1.EndpointSlice](i.slices, byService, key.String())
	out := convert.EndpointsOf(slices)
	var err error
	out.Backends, err = convert.BackendsOf(slices, i.endpoints.weights)
	i.report(ctx, "EndpointSlices of "+key.String(), err)
	return out
}
