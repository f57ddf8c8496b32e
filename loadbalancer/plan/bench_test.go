// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// The owner loop plans after every change; a plan that takes longer than the detector's
// interval holds fail-over up.
func BenchmarkFor(b *testing.B) {
	for _, size := range []struct{ nodes, groups int }{{3, 300}, {50, 5000}, {500, 1000}, {1000, 10000}, {1000, 100000}} {
		b.Run(fmt.Sprintf("%dNodes%dGroups", size.nodes, size.groups), func(b *testing.B) {
			s := cluster(size.nodes, size.groups)
			for b.Loop() {
				plan.For(s)
			}
		})
	}
}

// The same moment in which an owner of its share of all groups has died.
func BenchmarkForAfterADeath(b *testing.B) {
	s := cluster(1000, 100000)
	delete(s.Members, nodeName(1))
	for b.Loop() {
		plan.For(s)
	}
}

func nodeName(i int) loadbalancer.NodeName { return loadbalancer.NodeName(fmt.Sprintf("n%04d", i)) }

// cluster has groups of one IPv4 address each, spread over the nodes in turn, with as
// many successors as the controller proposes.
func cluster(nodes, groups int) plan.Snapshot {
	s := plan.Snapshot{
		Self: nodeName(0), Records: map[loadbalancer.ServiceUID]loadbalancer.Record{},
		Advertisements: map[string]loadbalancer.Advertisement{"ad": {Name: "ad", AllNodes: true}},
		Nodes:          map[loadbalancer.NodeName]loadbalancer.Node{},
		Members:        map[loadbalancer.NodeName]plan.Member{},
	}
	for i := range nodes {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)})
		s.Nodes[nodeName(i)] = loadbalancer.Node{Name: nodeName(i), Ready: true, Addrs: []netip.Addr{a}}
		s.Members[nodeName(i)] = plan.Member{
			Known: true, Claims: map[loadbalancer.Group]uint64{},
			Interfaces: []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(a, 8)}}},
		}
	}
	for i := range groups {
		a := netip.AddrFrom4([4]byte{10, byte(100 + i/62500), byte(i / 250 % 250), byte(i % 250)})
		g, uid := loadbalancer.Group(a.String()), loadbalancer.ServiceUID(a.String())
		c := loadbalancer.Claim{Name: g, Addr: a, Group: g, Services: []loadbalancer.ServiceUID{uid}}
		for j := range placement.MaxSuccessors {
			c.Successors = append(c.Successors, nodeName((i+j)%nodes))
		}
		s.Claims = append(s.Claims, c)
		s.Records[uid] = loadbalancer.Record{UID: uid, Addrs: []netip.Addr{a}, Advertisements: []string{"ad"}}
		s.Members[nodeName(i%nodes)].Claims[g] = 1
	}
	return s
}
