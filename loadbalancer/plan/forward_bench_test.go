// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// forwarding is a cluster whose Services have one port and three endpoints each.
func forwarding(nodes, services int) plan.Snapshot {
	s := cluster(nodes, services)
	s.Forwards = true
	s.Endpoints = make(map[loadbalancer.ServiceKey]loadbalancer.Endpoints, services)
	for i, c := range s.Claims {
		r := s.Records[c.Services[0]]
		r.Service = loadbalancer.ServiceKey{Namespace: "d", Name: fmt.Sprintf("svc-%05d", i)}
		r.DataPlane, r.Ports = loadbalancer.IPVS, []loadbalancer.ServicePort{{Protocol: loadbalancer.TCP, Port: 80, NodePort: 30080}}
		s.Records[r.UID] = r
		var e loadbalancer.Endpoints
		for j := range 3 {
			e.Backends = append(e.Backends, loadbalancer.Backend{
				Addr: netip.AddrFrom4([4]byte{172, byte(16 + j), byte(i >> 8), byte(i)}), Port: 8080, Protocol: loadbalancer.TCP,
				Node: nodeName((i + j) % nodes), Weight: 1, Ready: true, Serving: true,
			})
		}
		s.Endpoints[r.Service] = e
	}
	return s
}

const manyServices = 10000

// The whole plan of 10,000 Services with three endpoints each, from nothing.
func BenchmarkForwarding(b *testing.B) {
	s := forwarding(50, manyServices)
	for b.Loop() {
		plan.For(s)
	}
}

// The same, of which a memory knows all but one endpoint.
func BenchmarkForwardingAfterOneEndpoint(b *testing.B) {
	s := forwarding(50, manyServices)
	var m plan.Memory
	m.For(s)
	key := s.Records[s.Claims[77].Services[0]].Service
	for b.Loop() {
		e := s.Endpoints[key]
		e.Backends = slices.Clone(e.Backends)
		e.Backends[0].Ready = !e.Backends[0].Ready
		s.Endpoints[key] = e
		m.For(s)
	}
}

// What the layer-2 part of the same plan costs alone.
func BenchmarkForwardingOff(b *testing.B) {
	s := forwarding(50, manyServices)
	s.Forwards = false
	var m plan.Memory
	for b.Loop() {
		m.For(s)
	}
}
