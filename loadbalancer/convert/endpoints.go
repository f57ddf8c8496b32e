// SPDX-License-Identifier: Apache-2.0

package convert

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// EndpointsOf joins the EndpointSlices of one Service. Ready endpoints count; when no
// endpoint is ready anywhere, terminating ones that still serve do (KEP-1669). A
// condition that is not set means yes, as the API says. Endpoints without a node name,
// such as manual ones of virtual machines, serve but make no node eligible.
func EndpointsOf(slices []*discoveryv1.EndpointSlice) loadbalancer.Endpoints {
	ready, fallback := newEndpoints(), newEndpoints()
	for _, s := range slices {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			switch {
			case isTrue(e.Conditions.Ready):
				add(&ready, e.NodeName)
			case isTrue(e.Conditions.Serving) && e.Conditions.Terminating != nil && *e.Conditions.Terminating:
				add(&fallback, e.NodeName)
			}
		}
	}
	if ready.Any {
		return ready
	}
	return fallback
}

func newEndpoints() loadbalancer.Endpoints {
	return loadbalancer.Endpoints{Nodes: make(map[loadbalancer.NodeName]struct{})}
}

func isTrue(b *bool) bool { return b == nil || *b }

func add(e *loadbalancer.Endpoints, node *string) {
	e.Any = true
	if node != nil && *node != "" {
		e.Nodes[loadbalancer.NodeName(*node)] = struct{}{}
	}
}
