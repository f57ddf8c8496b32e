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
	slices  mirror[discoveryv1.EndpointSlice, loadbalancer.ServiceKey]
	weights map[loadbalancer.NodeName]uint16
}

// matter says whether a plan depends on the endpoints of a record's Service: under the Local
// policy they tell who may announce, and IPVS forwards to them.
func matter(r loadbalancer.Record) bool {
	return r.Policy == loadbalancer.Local || r.DataPlane == loadbalancer.IPVS
}

// readEndpoints keeps the endpoints of all Services that have a record and matter. Others says
// that nodes changed, services those whose records did.
func (i *Intake) readEndpoints(ctx context.Context, all, others bool, services map[loadbalancer.ServiceKey]struct{}) {
	e := &i.endpoints
	e.slices.read(all, serviceOfSlice, func(before, now *loadbalancer.ServiceKey) {
		for _, key := range []*loadbalancer.ServiceKey{before, now} {
			if key != nil {
				services[*key] = struct{}{}
			}
		}
	})
	if i.last.Endpoints == nil {
		i.last.Endpoints = make(map[loadbalancer.ServiceKey]loadbalancer.Endpoints)
	}
	if others {
		if weights := i.weights(); !maps.Equal(weights, e.weights) {
			e.weights = weights
			for _, known := range i.knownRecords.known {
				services[known.value.Service] = struct{}{}
			}
		}
	}
	for key := range services {
		r, ok := i.knownRecords.known[key.String()]
		if !ok || !matter(*r.value) {
			delete(i.last.Endpoints, key)
			continue
		}
		i.last.Endpoints[key] = i.convertEndpoints(ctx, key)
		i.last.Changed.Record(r.value.UID)
	}
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
