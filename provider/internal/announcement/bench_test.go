// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
)

// sim is the controller's part in a cluster of equal nodes, of which an advertisement
// selects nine in ten, without an API: claims are as the controller proposed them.
type sim struct {
	*Controller
	world  *world
	ad     *advertisement
	groups []loadbalancer.Group
}

func newSim(tb testing.TB, nodes, groups int) *sim {
	tb.Helper()
	claims := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{}).Informer()
	if err := claims.AddIndexers(cache.Indexers{groupIndex: byGroup}); err != nil {
		tb.Fatal(err)
	}
	s := &sim{Controller: &Controller{opts: Options{Informers: Informers{Claims: claims}}, ledger: newLedger()}}
	for i := range groups {
		s.groups = append(s.groups, loadbalancer.Group(fmt.Sprintf("172.%d.%d.%d", 16+i/62500, i/250%250, i%250)))
	}
	names := make([]string, 0, nodes)
	for i := range nodes {
		names = append(names, fmt.Sprintf("node%04d", i))
	}
	s.setNodes(tb, names)
	return s
}

func (s *sim) setNodes(tb testing.TB, names []string) {
	tb.Helper()
	s.world = &world{}
	for i, name := range names {
		n := convertNode(testNode(name, nil), testAgent(name, fmt.Sprintf("172.20.%d.%d/16", i/200, 1+i%200)))
		n.index = i
		s.world.nodes = append(s.world.nodes, n)
	}
	s.ad = selectNodes(testAd(tb, v1alpha1.L2AdvertisementSpec{NodeSelectors: selector("kubernetes.io/os", "linux")}), s.world.nodes)
	for i, name := range names {
		s.ad.nodes[i] = name[len(name)-1] != '0'
	}
}

// pass proposes for every group once and returns those whose head moved, with the new one.
func (s *sim) pass() map[loadbalancer.Group]loadbalancer.NodeName {
	moved := map[loadbalancer.Group]loadbalancer.NodeName{}
	wishes := []wish{{addrs: []netip.Addr{vip()}, ads: []*advertisement{s.ad}}}
	for _, g := range s.groups {
		before := s.ledger.heads[g][0]
		names := s.successors(g, s.world, wishes, true)
		after := head{loadbalancer.NodeName(names[0]), loadbalancer.NodeName(names[1])}
		s.ledger.set(g, after) // as the claim's event would
		if after[0] != before {
			moved[g] = after[0]
		}
	}
	return moved
}

// loads returns the least and the most groups of a selected node.
func (s *sim) loads() (least, most int) {
	least = len(s.groups)
	for i, n := range s.world.nodes {
		if s.ad.nodes[i] {
			load := s.ledger.load[s.ledger.id(n.name)]
			least, most = min(least, load), max(most, load)
		}
	}
	return least, most
}

// What the controller computes when a node changes: each group's list anew.
func BenchmarkNodeChange(b *testing.B) {
	for _, size := range []struct{ nodes, groups int }{{3, 300}, {500, 1000}, {1000, 10000}, {1000, 100000}} {
		b.Run(fmt.Sprintf("%dNodes%dGroups", size.nodes, size.groups), func(b *testing.B) {
			s := newSim(b, size.nodes, size.groups)
			s.pass()
			for b.Loop() {
				s.pass()
			}
		})
	}
}

// The life of 100,000 groups on 1,000 nodes: they are in balance, a node that comes moves
// none, one that goes moves its own, evenly. It is a benchmark because of the time it takes.
func BenchmarkLifeOf100000Groups(b *testing.B) {
	const nodes = 1000
	for b.Loop() {
		s := newSim(b, nodes, 100000)
		s.pass()
		if least, most := s.loads(); most-least > 1 {
			b.Fatalf("between %d and %d groups per node", least, most)
		}
		names := make([]string, 0, nodes+1)
		for _, n := range s.world.nodes {
			names = append(names, string(n.name))
		}
		s.setNodes(b, append(names, "node1001"))
		if moved := s.pass(); len(moved) > 0 {
			b.Fatalf("%d groups move because a node came", len(moved))
		}
		const dead = 123
		lost := s.ledger.load[s.ledger.id(s.world.nodes[dead].name)]
		s.setNodes(b, slices.Delete(append(names, "node1001"), dead, dead+1))
		moved := s.pass()
		gained := map[loadbalancer.NodeName]int{}
		for _, n := range moved {
			gained[n]++
		}
		if len(moved) != lost || len(gained) != lost {
			b.Fatalf("%d groups move to %d nodes because one with %d went, want each to another", len(moved), len(gained), lost)
		}
	}
}
