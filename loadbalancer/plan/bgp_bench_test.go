// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// manyRoutes is a cluster whose Services have an endpoint on each of three nodes, the first
// among them, and two more on it; every other Service has the Local policy. Four routers are
// told.
func manyRoutes(nodes, services int) plan.Snapshot {
	s := forwarding(nodes, services)
	s.Forwards = false
	s.BGP.Advertisements = map[string]loadbalancer.BGPAdvertisement{"bgp": {Name: "bgp", Here: true, Bits4: 32, Bits6: 128}}
	for i := range 4 {
		s.BGP.Sessions = append(s.BGP.Sessions, loadbalancer.BGPSession{
			Peer: fmt.Sprintf("peer-%d", i), MyASN: 64512, PeerASN: 64513, IPv4: true, IPv6: true,
		})
	}
	for i, c := range s.Claims {
		r := s.Records[c.Services[0]]
		r.BGPAdvertisements = []string{"bgp"}
		if i%2 == 1 {
			r.Policy = loadbalancer.Local
		}
		s.Records[r.UID] = r
		e := s.Endpoints[r.Service]
		for j := range e.Backends {
			e.Backends[j].Node = nodeName(0)
		}
		e.Nodes, e.Any = nodeSet(nodeName(0)), true
		s.Endpoints[r.Service] = e
	}
	return s
}

// oneEndpointLess changes how many endpoints of the i-th Service are ready.
func oneEndpointLess(s plan.Snapshot, i int) {
	key := s.Records[s.Claims[i].Services[0]].Service
	e := s.Endpoints[key]
	e.Backends = slices.Clone(e.Backends)
	e.Backends[0].Ready = !e.Backends[0].Ready
	s.Endpoints[key] = e
}

// What is told of 10,000 Services to four routers, from nothing; compare with BenchmarkBGPOff.
func BenchmarkBGP(b *testing.B) {
	s := manyRoutes(50, manyServices)
	for b.Loop() {
		plan.For(s)
	}
}

// The same, of which a memory knows all but one endpoint.
func BenchmarkBGPAfterOneEndpoint(b *testing.B) {
	s := manyRoutes(50, manyServices)
	var m plan.Memory
	m.For(s)
	for b.Loop() {
		oneEndpointLess(s, 77)
		m.For(s)
	}
}

// The same, where the snapshot says which Service it is of.
func BenchmarkBGPOfOneEndpoint(b *testing.B) {
	s := manyRoutes(50, manyServices)
	for i := range s.Claims {
		s.Claims[i].Group = s.Claims[i].Name
	}
	s.Changed = &loadbalancer.Changes{}
	var m plan.Memory
	m.For(s)
	for b.Loop() {
		oneEndpointLess(s, 77)
		s.Changed.Record(s.Claims[77].Services[0])
		m.For(s)
	}
}

// The same, within one aggregate of each family.
func BenchmarkBGPAggregateAfterOneService(b *testing.B) {
	s := manyRoutes(50, manyServices)
	s.BGP.Advertisements["bgp"] = loadbalancer.BGPAdvertisement{Name: "bgp", Here: true, Bits4: 8, Bits6: 32}
	var m plan.Memory
	m.For(s)
	for b.Loop() {
		s.Claims[76].Releasing = !s.Claims[76].Releasing
		m.For(s)
	}
}

// What the layer-2 part of the same plan costs alone.
func BenchmarkBGPOff(b *testing.B) {
	s := manyRoutes(50, manyServices)
	s.BGP = loadbalancer.BGPConfig{}
	var m plan.Memory
	for b.Loop() {
		m.For(s)
	}
}
