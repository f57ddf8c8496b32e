// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
)

// still is a cluster in which nothing happens, as one agent's copies and gossip show it.
type still struct {
	*simKernel
	objs   intake.Objects
	claims map[string]*v1alpha1.IPClaim
	view   member.View
}

func (s *still) Run(context.Context) error                     { return nil }
func (s *still) WaitSynced(context.Context) bool               { return true }
func (s *still) Objects(context.Context) intake.Objects        { return s.objs }
func (s *still) NodeUID(loadbalancer.NodeName) types.UID       { return "" }
func (s *still) View() member.View                             { return s.view }
func (s *still) Publish(member.State)                          {}
func (s *still) SetPeers(map[loadbalancer.NodeName]netip.Addr) {}
func (s *still) BGP(context.Context, []loadbalancer.Interface) loadbalancer.BGPConfig {
	return loadbalancer.BGPConfig{}
}
func (s *still) HasBGP() bool                                 { return false }
func (s *still) Own() ([]kernel.Link, error)                  { return nil, nil }
func (s *still) Ask()                                         {}
func (s *still) Watch(context.Context, func()) error          { return nil }
func (s *still) DefaultRoutes() (kernel.DefaultRoutes, error) { return kernel.DefaultRoutes{}, nil }

func (s *still) Claim(name string) (c *v1alpha1.IPClaim, b bool) { c, b = s.claims[name]; return c, b }

func (s *still) Links() ([]kernel.Link, error) {
	return []kernel.Link{{Name: "eth0", Index: 2, MAC: kernel.MAC{2}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}, nil
}

// BenchmarkRound is what a round costs the owner loop where anything may have changed, and
// BenchmarkRoundOfOne where one claim did: each node announces its share of the addresses.
func BenchmarkRound(b *testing.B) {
	benchmarkRounds(b, func(*still) *loadbalancer.Changes { return nil })
}

func BenchmarkRoundOfOne(b *testing.B) {
	benchmarkRounds(b, func(s *still) *loadbalancer.Changes {
		c := &s.objs.Claims[1]
		return &loadbalancer.Changes{Claims: map[loadbalancer.Group]loadbalancer.ClaimChange{c.Name: {Before: c, Now: c}}}
	})
}

func benchmarkRounds(b *testing.B, changed func(*still) *loadbalancer.Changes) {
	b.Helper()
	for _, size := range []struct{ nodes, claims int }{{3, 1000}, {3, 10000}, {50, 10000}} {
		b.Run(fmt.Sprintf("%dNodes%dClaims", size.nodes, size.claims), func(b *testing.B) {
			s := stillCluster(size.nodes, size.claims)
			l := newBenchLoop(b, s, s)
			l.round(b.Context(), time.Now())
			b.ReportAllocs()
			for b.Loop() {
				s.objs.Changed = changed(s)
				l.round(b.Context(), time.Now())
			}
			if want := (size.claims + size.nodes - 1) / size.nodes; len(l.held) != want {
				b.Errorf("announces %d addresses, want %d", len(l.held), want)
			}
		})
	}
}

func stillCluster(nodes, claims int) *still {
	s := &still{
		simKernel: &simKernel{until: map[kernel.Kept]time.Time{}}, claims: make(map[string]*v1alpha1.IPClaim),
		objs: intake.Objects{
			Records: map[loadbalancer.ServiceUID]loadbalancer.Record{}, Nodes: map[loadbalancer.NodeName]loadbalancer.Node{},
			Advertisements: map[string]loadbalancer.Advertisement{"ad": {Name: "ad", AllNodes: true}},
		},
		view: member.View{Up: true, Settled: true, Members: map[loadbalancer.NodeName]plan.Member{}, Runs: map[loadbalancer.NodeName]member.Run{}},
	}
	names := make([]loadbalancer.NodeName, nodes)
	for i := range names {
		names[i] = loadbalancer.NodeName(fmt.Sprintf("n%02d", i))
		own := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		s.objs.Nodes[names[i]] = loadbalancer.Node{Name: names[i], Ready: true, InternalIPs: []netip.Addr{own}}
		if i > 0 {
			s.view.Members[names[i]] = plan.Member{
				Known: true, Claims: map[loadbalancer.Group]uint64{},
				Interfaces: []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(own, 8)}, MAC: [6]byte{2, 0, 0, 0, 0, byte(i)}}},
			}
			s.view.Runs[names[i]] = member.Run{Boot: 1, Joins: 1}
		}
	}
	for i := range claims {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i / 250), byte(i % 250)})
		name, owner := v1alpha1.ClaimName(addr), names[i%nodes]
		g, uid := loadbalancer.Group(name), loadbalancer.ServiceUID(name)
		s.objs.Claims = append(s.objs.Claims, loadbalancer.Claim{
			Name: g, Group: g, Addr: addr, Services: []loadbalancer.ServiceUID{uid},
			Successors: []loadbalancer.NodeName{owner, names[(i+1)%nodes]}, Persisted: loadbalancer.Ownership{Node: owner, Epoch: 1},
		})
		s.objs.Records[uid] = loadbalancer.Record{UID: uid, Addrs: []netip.Addr{addr}, Advertisements: []string{"ad"}}
		s.claims[name] = &v1alpha1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status:     v1alpha1.IPClaimStatus{Owner: &v1alpha1.Owner{Node: string(owner), Epoch: 2}},
		}
		if i%nodes > 0 {
			s.view.Members[owner].Claims[g] = 1
		}
	}
	return s
}
