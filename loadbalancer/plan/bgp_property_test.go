// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// routers is a world whose Services are told by BGP.
type routers struct{ *world }

const (
	worldAds   = 4
	worldPeers = 4
)

func newRouters(seed uint64) *routers {
	r := &routers{newWorld(seed)}
	r.Forwards = false
	r.BGP.Advertisements = map[string]loadbalancer.BGPAdvertisement{}
	for i := range worldPeers {
		r.BGP.Sessions = append(r.BGP.Sessions, loadbalancer.BGPSession{Peer: fmt.Sprintf("peer-%d", i), MyASN: 1, IPv4: true, IPv6: true})
		r.session(i)
	}
	for i := range worldAds {
		r.advertisement(i)
	}
	for range 20 {
		r.step()
	}
	return r
}

// step changes something, and leaves what plans have seen as it is.
func (r *routers) step() {
	switch r.IntN(5) {
	case 0:
		r.world.step()
	case 1:
		r.advertisement(r.IntN(worldAds))
	case 2:
		r.session(r.IntN(worldPeers))
	case 3:
		r.drain()
	default:
		r.endpoints(r.IntN(worldServices))
	}
	r.settle()
}

// settle gives every Service advertisements, and its endpoints their nodes.
func (r *routers) settle() {
	r.Forwards = false
	r.Records, r.Endpoints = maps.Clone(r.Records), maps.Clone(r.Endpoints)
	for i := range worldServices {
		uid := loadbalancer.ServiceUID(fmt.Sprintf("u%d", i))
		if record, ok := r.Records[uid]; ok && (len(record.BGPAdvertisements) == 0 || r.IntN(30) == 0) {
			record.BGPAdvertisements = []string{fmt.Sprintf("ad-%d", r.IntN(worldAds))}
			if r.coin() {
				record.BGPAdvertisements = append(record.BGPAdvertisements, fmt.Sprintf("ad-%d", r.IntN(worldAds+1)))
			}
			record.BGP = loadbalancer.BGPOverrides{
				LocalPref: uint32(r.IntN(3)), HasLocalPref: r.IntN(3) == 0, MED: uint32(r.IntN(3)), HasMED: r.IntN(3) == 0,
				Prepend: uint8(r.IntN(20)), HasPrepend: r.IntN(3) == 0, Communities: pick(r.world, nil, nil, []string{"no-export", "nonsense"}),
			}
			r.Records[uid] = record
		}
		e := r.Endpoints[serviceKey(i)]
		ready := slices.ContainsFunc(e.Backends, func(b loadbalancer.Backend) bool { return b.Ready })
		e.Nodes, e.Any = nodeSet(), false
		for _, b := range e.Backends {
			if b.Ready || !ready && b.Serving {
				e.Nodes[b.Node], e.Any = struct{}{}, true
			}
		}
		r.Endpoints[serviceKey(i)] = e
	}
}

func (r *routers) session(i int) {
	r.BGP.Sessions = slices.Clone(r.BGP.Sessions)
	s := &r.BGP.Sessions[i]
	s.PeerASN, s.IPv4, s.IPv6 = uint32(1+r.IntN(2)), r.IntN(8) != 0, r.IntN(8) != 0
}

func (r *routers) advertisement(i int) {
	ad := loadbalancer.BGPAdvertisement{
		Name: fmt.Sprintf("ad-%d", i), Here: r.IntN(6) != 0, Bits4: pick(r.world, 32, 32, 24, 28), Bits6: pick(r.world, 128, 64),
		ServiceLocalPref: r.coin(), ServiceMED: r.coin(), ServicePrepend: r.coin(), ServiceCommunities: r.coin(),
		Attributes: loadbalancer.BGPAttributes{
			LocalPref: uint32(r.IntN(3)), HasLocalPref: r.IntN(3) == 0, MED: uint32(r.IntN(3)), HasMED: r.IntN(3) == 0, Prepend: uint8(r.IntN(3)),
			Communities: pick(r.world, nil, []loadbalancer.Community{community(1)}, []loadbalancer.Community{community(1), community(2)}),
		},
	}
	if r.IntN(3) == 0 {
		ad.Peers = []string{"peer-0", fmt.Sprintf("peer-%d", 1+r.IntN(worldPeers))}
	}
	r.BGP.Advertisements = maps.Clone(r.BGP.Advertisements)
	r.BGP.Advertisements[ad.Name] = ad
}

func (r *routers) drain() {
	r.Drain = pick(r.world, loadbalancer.BGPDrain{}, loadbalancer.BGPDrain{}, loadbalancer.BGPDrain{Reason: reason.NodeCordoned.String()})
	r.Nodes = maps.Clone(r.Nodes)
	n := r.Nodes[r.Self]
	n.Excluded = r.IntN(8) == 0
	r.Nodes[r.Self] = n
}

func dumpRoutes(s plan.NodeState) string { return plan.NodeState{BGP: s.BGP}.String() }

// What a memory remembers changes nothing of what is told.
func TestMemoryChangesNothingOfWhatIsTold(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r, m := newRouters(seed), new(plan.Memory)
		for step := range 60 {
			if got, want := dumpRoutes(m.For(r.Snapshot)), dumpRoutes(plan.For(r.Snapshot)); got != want {
				t.Fatalf("seed %d, step %d (-anew +remembered):\n%s", seed, step, cmp.Diff(want, got))
			}
			r.step()
		}
	}
}

// The order in which things are learned does not matter, least of all for who is right.
func TestWhatIsToldDoesNotDependOnOrder(t *testing.T) {
	t.Parallel()
	conflicts := 0
	for seed := range uint64(300) {
		r := newRouters(seed)
		want := plan.For(r.Snapshot)
		conflicts += len(want.BGP.Faults)
		r.Claims = slices.Clone(r.Claims)
		r.Shuffle(len(r.Claims), func(i, j int) { r.Claims[i], r.Claims[j] = r.Claims[j], r.Claims[i] })
		for i := range r.Claims {
			r.Claims[i].Services = slices.Clone(r.Claims[i].Services)
			slices.Reverse(r.Claims[i].Services)
		}
		for uid, record := range r.Records {
			record.BGPAdvertisements = slices.Clone(record.BGPAdvertisements)
			slices.Reverse(record.BGPAdvertisements)
			r.Records[uid] = record
		}
		if diff := cmp.Diff(dumpRoutes(want), dumpRoutes(plan.For(r.Snapshot))); diff != "" {
			t.Fatalf("seed %d depends on the order (-want +got):\n%s", seed, diff)
		}
		checkRoutes(t, seed, r.Snapshot, want.BGP)
	}
	if conflicts < 100 {
		t.Errorf("%d conflicts are too few to have shown anything", conflicts)
	}
}

// checkRoutes looks at what is true of every plan.
func checkRoutes(t *testing.T, seed uint64, s plan.Snapshot, p loadbalancer.BGPPlan) {
	t.Helper()
	for _, session := range p.Sessions {
		routes := p.Routes[session.Peer]
		for i, route := range routes {
			if i > 0 && routes[i-1].Prefix.Compare(route.Prefix) >= 0 {
				t.Errorf("seed %d: routes do not ascend: %v", seed, routes)
			}
			if route.Prefix != route.Prefix.Masked() || route.Prefix.Addr().Is4() && !session.IPv4 || route.Prefix.Addr().Is6() && !session.IPv6 {
				t.Errorf("seed %d: %s is told %s", seed, session.Peer, route.Prefix)
			}
			if route.LinkBandwidth > 0 && !route.Prefix.IsSingleIP() || route.Prepend > 16 {
				t.Errorf("seed %d: %s says %+v", seed, route.Prefix, route.BGPAttributes)
			}
			if !slices.IsSortedFunc(route.Addrs, netip.Addr.Compare) || len(route.Addrs) == 0 {
				t.Errorf("seed %d: %s is for %v", seed, route.Prefix, route.Addrs)
			}
			for _, a := range route.Addrs {
				if !route.Prefix.Contains(a) || !bound(s, a) || p.Silent[a] != "" {
					t.Errorf("seed %d: %s is told for %s", seed, route.Prefix, a)
				}
			}
			if n := len(slices.Compact(loadbalancer.SortCommunities(route.Communities...))); n != len(route.Communities) {
				t.Errorf("seed %d: %s has communities %v", seed, route.Prefix, route.Communities)
			}
		}
	}
}

func bound(s plan.Snapshot, a netip.Addr) bool {
	return slices.ContainsFunc(s.Claims, func(c loadbalancer.Claim) bool { return c.Addr == a && !c.Releasing })
}

// Whatever routers know of aggregates, they send to nodes that serve: an address of a Service
// with the Local policy is reached where its endpoints are, if any node has them.
func TestAggregatesDoNotAttractWhatOthersServe(t *testing.T) {
	t.Parallel()
	checked := 0
	for seed := range uint64(400) {
		r := newRouters(seed)
		r.Drain = loadbalancer.BGPDrain{}
		for name, ad := range r.BGP.Advertisements { // all nodes and routers are alike
			ad.Here, ad.Peers = true, nil
			r.BGP.Advertisements[name] = ad
		}
		for i := range r.BGP.Sessions {
			r.BGP.Sessions[i].IPv4, r.BGP.Sessions[i].IPv6 = true, true
		}
		told := map[loadbalancer.NodeName][]loadbalancer.BGPRoute{}
		for n, v := range r.Nodes {
			v.Excluded = false
			r.Nodes[n], r.Self = v, n
			told[n] = plan.For(r.Snapshot).BGP.Routes["peer-0"]
		}
		for _, c := range r.Claims {
			serving := nodesThatServe(r.Snapshot, c)
			if len(serving) == 0 || !bound(r.Snapshot, c.Addr) || ofNode(r.Snapshot, c.Addr) {
				continue
			}
			for n := range attracting(told, c.Addr) {
				checked++
				if _, ok := serving[n]; !ok {
					t.Errorf("seed %d: %s is attracted by %s, and served by %v:\n%v", seed, c.Addr, n, serving, told)
				}
			}
		}
	}
	if checked < 1000 {
		t.Errorf("%d routes are too few to have shown anything", checked)
	}
}

func ofNode(s plan.Snapshot, a netip.Addr) bool {
	for _, n := range s.Nodes {
		if slices.Contains(n.Addrs, a) {
			return true
		}
	}
	return false
}

// nodesThatServe are the nodes on which all Services with the Local policy that have any
// endpoint and share an address have one; empty, too, where there are no such Services.
func nodesThatServe(s plan.Snapshot, c loadbalancer.Claim) map[loadbalancer.NodeName]struct{} {
	var out map[loadbalancer.NodeName]struct{}
	for _, uid := range c.Services {
		record := s.Records[uid]
		e := s.Endpoints[record.Service]
		if record.Policy != loadbalancer.Local || !e.Any || !slices.Contains(record.Addrs, c.Addr) {
			continue
		}
		if out == nil {
			out = maps.Clone(e.Nodes)
			maps.DeleteFunc(out, func(n loadbalancer.NodeName, _ struct{}) bool { _, node := s.Nodes[n]; return !node })
		}
		maps.DeleteFunc(out, func(n loadbalancer.NodeName, _ struct{}) bool { _, ok := e.Nodes[n]; return !ok })
	}
	return out
}

// attracting are the nodes that tell the longest prefix that has an address.
func attracting(told map[loadbalancer.NodeName][]loadbalancer.BGPRoute, a netip.Addr) map[loadbalancer.NodeName]struct{} {
	out, bits := map[loadbalancer.NodeName]struct{}{}, -1
	for n, routes := range told {
		for _, route := range routes {
			if !route.Prefix.Contains(a) || route.Prefix.Bits() < bits {
				continue
			}
			if route.Prefix.Bits() > bits {
				out, bits = map[loadbalancer.NodeName]struct{}{}, route.Prefix.Bits()
			}
			out[n] = struct{}{}
		}
	}
	return out
}

// A node that is drained tells the same prefixes for the same addresses, and nothing of them
// changes but what makes routers prefer others.
func TestDrainingChangesAttributesOnly(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := newRouters(seed)
		n := r.Nodes[r.Self]
		n.Excluded = false
		r.Nodes[r.Self], r.Drain = n, loadbalancer.BGPDrain{}
		before := plan.For(r.Snapshot).BGP
		n.Excluded = true
		r.Nodes[r.Self], r.Drain.Reason = n, reason.NodeExcluded.String()
		after := plan.For(r.Snapshot).BGP
		for _, s := range r.BGP.Sessions {
			want := slices.Clone(before.Routes[s.Peer])
			for i := range want {
				want[i].LocalPref, want[i].HasLocalPref = 0, true
				want[i].Communities = loadbalancer.SortCommunities(append(slices.Clone(want[i].Communities), loadbalancer.GracefulShutdown())...)
				if s.PeerASN != s.MyASN {
					want[i].Prepend = min(16, want[i].Prepend+3)
				}
			}
			got := after.Routes[s.Peer]
			if !slices.EqualFunc(want, got, equalRoutes) {
				t.Fatalf("seed %d: drained, %s is told\n%v\nwant\n%v", seed, s.Peer, got, want)
			}
		}
		if !maps.Equal(before.Silent, after.Silent) || !slices.Equal(before.Faults, after.Faults) {
			t.Fatalf("seed %d: draining has other faults or addresses:\n%v\n%v", seed, before, after)
		}
		r.Drain.Over = true
		if over := plan.For(r.Snapshot).BGP; len(over.Routes) > 0 || len(over.Sessions) != worldPeers {
			t.Fatalf("seed %d: drained, %v is told by %d sessions", seed, over.Routes, len(over.Sessions))
		}
	}
}

func equalRoutes(a, b loadbalancer.BGPRoute) bool {
	return a.Prefix == b.Prefix && slices.Equal(a.Addrs, b.Addrs) && a.BGPAttributes.Equal(&b.BGPAttributes)
}

// A Service whose last endpoint on the node goes is withdrawn by the next plan, and comes
// back; the routes of others are the same all the while.
func TestLastLocalEndpoint(t *testing.T) {
	t.Parallel()
	s, m := routed(), new(plan.Memory)
	another(&s, "bgp")
	count := func() int { return len(m.For(s).BGP.Routes["tor"]) }
	for i, nodes := range [][]loadbalancer.NodeName{{"a", "a", "b"}, {"a", "b"}, {"b"}, {}, {"a"}} {
		localPods(&s, "u1", nodes...)
		want := 1
		if slices.Contains(nodes, "a") {
			want = 2
		}
		if got := count(); got != want {
			t.Errorf("step %d, endpoints on %v: %d routes, want %d", i, nodes, got, want)
		}
	}
}

// An unchanged plan is the same slices; a change of one Service leaves the rest alone.
func TestMemoryKeepsWhatIsToldTheSame(t *testing.T) {
	t.Parallel()
	s := manyRoutes(3, 50)
	var m plan.Memory
	before := m.For(s).BGP.Routes["peer-0"]
	if again := m.For(s).BGP.Routes["peer-0"]; &before[0] != &again[0] {
		t.Error("the plan was made again though nothing changed")
	}
	s.BGP.Sessions = slices.Clone(s.BGP.Sessions)
	s.BGP.Sessions[0].Password = "new"
	s.BGP.Faults = []loadbalancer.BGPFault{{Peer: "x"}}
	if again := m.For(s).BGP; &before[0] != &again.Routes["peer-0"][0] || len(again.Faults) != 1 || again.Sessions[0].Password != "new" {
		t.Error("routes were made again because of a password")
	}
	oneEndpointLess(s, 7)
	after := m.For(s).BGP.Routes["peer-0"]
	changed := 0
	for i := range after {
		if !equalRoutes(after[i], before[i]) {
			changed++
		} else if &after[i].Addrs[0] != &before[i].Addrs[0] {
			t.Errorf("the route to %s was made again", after[i].Prefix)
		}
	}
	if changed != 1 {
		t.Errorf("%d routes changed, want 1", changed)
	}
}
