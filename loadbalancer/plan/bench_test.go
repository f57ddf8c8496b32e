// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// The owner loop plans after every change; a plan that takes longer than the detector's
// interval holds fail-over up.
func BenchmarkFor500Nodes1000Services(b *testing.B) {
	const nodes, services = 500, 1000
	s := plan.Snapshot{
		Self: "n000", Records: map[loadbalancer.ServiceUID]loadbalancer.Record{},
		Advertisements: map[string]loadbalancer.Advertisement{"ad": {Name: "ad", AllNodes: true}},
		Nodes:          map[loadbalancer.NodeName]loadbalancer.Node{},
		Members:        map[loadbalancer.NodeName]plan.Member{},
	}
	name := func(i int) loadbalancer.NodeName { return loadbalancer.NodeName(fmt.Sprintf("n%03d", i)) }
	for i := range nodes {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)})
		s.Nodes[name(i)] = loadbalancer.Node{Name: name(i), Ready: true, Addrs: []netip.Addr{a}}
		s.Members[name(i)] = plan.Member{
			Known: true, Claims: map[loadbalancer.Group]uint64{},
			Interfaces: []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(a, 16)}}},
		}
	}
	for i := range services {
		a := netip.AddrFrom4([4]byte{10, 0, byte(100 + i/250), byte(i % 250)})
		g, uid := loadbalancer.Group(a.String()), loadbalancer.ServiceUID(a.String())
		s.Claims = append(s.Claims, loadbalancer.Claim{
			Name: g, Addr: a, Group: g, Services: []loadbalancer.ServiceUID{uid}, Successors: []loadbalancer.NodeName{name(i % nodes)},
		})
		s.Records[uid] = loadbalancer.Record{UID: uid, Addrs: []netip.Addr{a}, Advertisements: []string{"ad"}}
		s.Members[name(i%nodes)].Claims[g] = 1
	}
	for b.Loop() {
		plan.For(s)
	}
}
