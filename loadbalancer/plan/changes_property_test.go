// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// neighbours is a world whose Services are told by BGP, announced on layer 2, or both.
type neighbours struct {
	*routers
	// calm worlds seldom change in what all groups follow from.
	calm bool
	// before is what members claimed before they last claimed something else.
	before map[loadbalancer.NodeName]map[loadbalancer.Group]uint64
}

func newNeighbours(seed uint64) *neighbours {
	n := &neighbours{routers: newRouters(seed), before: map[loadbalancer.NodeName]map[loadbalancer.Group]uint64{}}
	n.Highest = map[loadbalancer.Group]uint64{}
	n.Advertisements = map[string]loadbalancer.Advertisement{}
	for i := range 3 {
		n.l2(i)
	}
	for range 20 {
		n.step()
	}
	n.calm = seed%2 == 0
	return n
}

// step changes something, and leaves what plans have seen as it is.
func (n *neighbours) step() {
	forwards := n.Forwards
	does := n.IntN(10)
	if n.calm && n.IntN(20) != 0 {
		does = 2 + n.IntN(6)
	}
	switch does {
	case 0, 1:
		n.routers.step()
	case 2:
		n.member(nodeName(n.IntN(worldNodes)))
	case 3, 4, 5:
		n.claim()
	case 6:
		n.epoch()
	case 7:
		n.record()
	case 8:
		n.global()
	default:
		n.routers.endpoints(n.IntN(worldServices))
		n.settle()
	}
	n.Forwards = forwards != (n.IntN(40) == 0)
	n.Claims = slices.Clone(n.Claims)
	for i := range n.Claims {
		if c := &n.Claims[i]; c.Group == "" {
			c.Group = c.Name
		}
	}
}

func (n *neighbours) l2(i int) {
	n.Advertisements = maps.Clone(n.Advertisements)
	ad := loadbalancer.Advertisement{Name: fmt.Sprintf("l2-%d", i), AllNodes: n.coin(), Nodes: nodeSet(nodeName(n.IntN(worldNodes)), nodeName(n.IntN(worldNodes)))}
	if n.coin() {
		ad.Interfaces = []string{pick(n.world, "eth0", "eth1")}
	}
	n.Advertisements[ad.Name] = ad
}

// member tells something else.
func (n *neighbours) member(name loadbalancer.NodeName) {
	n.Members = maps.Clone(n.Members)
	if n.IntN(8) == 0 && name != n.Self && !n.calm {
		delete(n.Members, name)
		return
	}
	m := n.Members[name]
	switch {
	case n.IntN(20) == 0 && !n.calm:
		m.Absent, m.Known, m.Leaving = m.Absent != n.coin(), m.Known != n.coin(), m.Leaving != n.coin()
	case m.Interfaces == nil || n.IntN(8) == 0 && !n.calm:
		m = plan.Member{Known: n.IntN(8) != 0, Leaving: n.IntN(8) == 0, Absent: n.IntN(8) == 0, Claims: m.Claims}
		own := netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + n.IntN(20))})
		m.Interfaces = []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(own, 24)}, NoIPv4: n.IntN(8) == 0}, {Name: "eth1"}}
	}
	was := m.Claims
	m.Claims = map[loadbalancer.Group]uint64{}
	maps.Copy(m.Claims, was)
	times := n.IntN(4)
	if n.IntN(3) == 0 {
		m.Claims, times = n.before[name], 0
	}
	n.before[name] = was
	for range times {
		if g := n.name(); n.IntN(3) == 0 {
			delete(m.Claims, g)
		} else {
			m.Claims[g] = uint64(n.IntN(4))
		}
	}
	n.Members[name] = m
}

// name is that of a claim or of a group.
func (n *neighbours) name() loadbalancer.Group {
	if len(n.Claims) == 0 || n.IntN(4) == 0 {
		return pick(n.world, loadbalancer.Group("g1"), "g2")
	}
	if n.calm {
		return n.Claims[n.IntN(min(len(n.Claims), 4))].Name // which often are again what they were
	}
	return n.Claims[n.IntN(len(n.Claims))].Name
}

// claim changes one.
func (n *neighbours) claim() {
	if len(n.Claims) == 0 {
		return
	}
	n.Claims = slices.Clone(n.Claims)
	c := &n.Claims[n.IntN(len(n.Claims))]
	switch n.IntN(4) {
	case 0:
		c.Group = n.name()
	case 1:
		c.Successors = []loadbalancer.NodeName{nodeName(n.IntN(worldNodes)), nodeName(n.IntN(worldNodes))}
	case 2:
		c.Persisted = loadbalancer.Ownership{Node: nodeName(n.IntN(worldNodes + 1)), Epoch: uint64(n.IntN(4))}
	default:
		c.Releasing = !c.Releasing
	}
}

func (n *neighbours) epoch() {
	n.Highest = maps.Clone(n.Highest)
	for range n.IntN(3) {
		if g := n.name(); n.IntN(4) == 0 {
			delete(n.Highest, g)
		} else {
			n.Highest[g] = uint64(n.IntN(5))
		}
	}
}

// record has a Service announced on layer 2 too, or only there, or not.
func (n *neighbours) record() {
	uid := loadbalancer.ServiceUID(fmt.Sprintf("u%d", n.IntN(worldServices)))
	if r, ok := n.Records[uid]; ok {
		r.Advertisements = pick(n.world, nil, []string{"l2-0"}, []string{"l2-1", "l2-2"}, []string{"l2-3"})
		if n.IntN(3) == 0 {
			r.BGPAdvertisements = nil
		}
		n.Records = maps.Clone(n.Records)
		n.Records[uid] = r
	}
}

// global changes what all groups follow from.
func (n *neighbours) global() {
	switch n.IntN(5) {
	case 0:
		n.l2(n.IntN(3))
	case 1:
		n.Guard = pick(n.world, "", "", reason.Minority, reason.Listening)
	case 2:
		n.Hold = n.coin()
	case 3:
		n.Awaited = pick(n.world, nil, nodeSet(nodeName(n.IntN(worldNodes))))
	default:
		n.Nodes = maps.Clone(n.Nodes)
		node := n.Nodes[nodeName(n.IntN(worldNodes))]
		node.Ready, node.Cordoned = n.IntN(4) != 0, n.IntN(4) == 0
		n.Nodes[node.Name] = node
	}
}

// follower has the objects of a world in maps of its own, which it changes, and says how.
type follower struct {
	claims  map[loadbalancer.Group]*loadbalancer.Claim
	objects plan.Snapshot
	changed *loadbalancer.Changes
}

func newFollower() *follower {
	return &follower{
		claims: map[loadbalancer.Group]*loadbalancer.Claim{}, changed: &loadbalancer.Changes{},
		objects: plan.Snapshot{
			Records: map[loadbalancer.ServiceUID]loadbalancer.Record{}, Endpoints: map[loadbalancer.ServiceKey]loadbalancer.Endpoints{},
			Highest: map[loadbalancer.Group]uint64{},
		},
	}
}

// follow catches up.
func (f *follower) follow(s plan.Snapshot) {
	var is loadbalancer.Changes
	now := make(map[loadbalancer.Group]*loadbalancer.Claim)
	for _, c := range s.Claims {
		if now[c.Name] = f.claims[c.Name]; now[c.Name] == nil || !reflect.DeepEqual(*now[c.Name], c) {
			is.Claim(c.Name, loadbalancer.ClaimChange{Before: now[c.Name], Now: &c})
			now[c.Name] = &c
		}
	}
	for name, c := range f.claims {
		if now[name] == nil {
			is.Claim(name, loadbalancer.ClaimChange{Before: c})
		}
	}
	f.claims, f.objects.Claims = now, f.objects.Claims[:0]
	for _, c := range now {
		f.objects.Claims = append(f.objects.Claims, *c)
	}
	services := make(map[loadbalancer.ServiceKey]struct{})
	differ(f.objects.Endpoints, s.Endpoints, func(key loadbalancer.ServiceKey) { services[key] = struct{}{} })
	for _, records := range []map[loadbalancer.ServiceUID]loadbalancer.Record{f.objects.Records, s.Records} {
		for uid, r := range records {
			if _, others := services[r.Service]; others {
				is.Record(uid)
			}
		}
	}
	differ(f.objects.Records, s.Records, is.Record)
	differ(f.objects.Highest, s.Highest, is.Epoch)
	f.changed.Then(&is)
}

// differ makes the first map the second and tells the keys whose values were others.
func differ[K comparable, V any](was, is map[K]V, tell func(K)) {
	for k := range was {
		if _, still := is[k]; !still {
			delete(was, k)
			tell(k)
		}
	}
	for k, v := range is {
		if before, known := was[k]; !known || !reflect.DeepEqual(before, v) {
			was[k] = v
			tell(k)
		}
	}
}

// snapshot is that of a world with the follower's objects, and what changed since the last.
func (f *follower) snapshot(s plan.Snapshot) plan.Snapshot {
	s.Claims, s.Records, s.Endpoints, s.Highest = f.objects.Claims, f.objects.Records, f.objects.Endpoints, f.objects.Highest
	s.Changed, f.changed = f.changed, &loadbalancer.Changes{}
	return s
}

// A plan of what changed is the plan of all, whatever happened before.
func TestChangesLeadToTheSamePlan(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		n, m, f := newNeighbours(seed), new(plan.Memory), newFollower()
		for step := range 120 {
			f.follow(n.Snapshot)
			if n.IntN(4) != 0 { // else several changes are one
				s := f.snapshot(n.Snapshot)
				s.Changed.All = n.IntN(40) == 0
				got, want := m.For(s), plan.For(n.Snapshot)
				if diff := cmp.Diff(want.String(), got.String()); diff != "" || !reflect.DeepEqual(got.Groups, want.Groups) {
					t.Fatalf("seed %d, step %d, changed %+v (-anew +changed):\n%s%s", seed, step, *s.Changed, diff, cmp.Diff(want.Groups, got.Groups))
				}
			}
			n.step()
		}
	}
}

// Nobody looks again at what did not change.
func TestChangesAreAllThatIsLookedAt(t *testing.T) {
	t.Parallel()
	s := manyRoutes(3, 50)
	for i := range s.Claims {
		s.Claims[i].Group = s.Claims[i].Name
	}
	s.Changed = &loadbalancer.Changes{}
	var m plan.Memory
	before := m.For(s).BGP.Routes["peer-0"]
	for _, i := range []int{7, 8} { // of which nobody says so
		oneEndpointLess(s, i)
	}
	s.Claims[9].Releasing = true
	if again := m.For(s).BGP.Routes["peer-0"]; &again[0] != &before[0] {
		t.Error("the plan was made again though nothing changed")
	}
	s.Changed.Record(s.Claims[7].Services[0])
	after := m.For(s).BGP.Routes["peer-0"]
	if len(after) != len(before) {
		t.Fatalf("%d routes, want %d", len(after), len(before))
	}
	for i := range after {
		if same := equalRoutes(after[i], before[i]); same != (after[i].Prefix.Addr() != s.Claims[7].Addr) {
			t.Errorf("the route to %s is the same: %t", after[i].Prefix, same)
		}
	}
}
