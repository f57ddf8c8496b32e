// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// world makes clusters at random, a small one so that all cases meet.
type world struct {
	*rand.Rand
	plan.Snapshot
}

const (
	worldNodes    = 5
	worldServices = 12
)

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7))}
	w.Snapshot = plan.Snapshot{
		Self: nodeName(0), Forwards: true,
		Records: map[loadbalancer.ServiceUID]loadbalancer.Record{}, Nodes: map[loadbalancer.NodeName]loadbalancer.Node{},
		Endpoints: map[loadbalancer.ServiceKey]loadbalancer.Endpoints{}, Members: map[loadbalancer.NodeName]plan.Member{}, Dead: nodeSet(),
	}
	for i := range worldNodes {
		n := loadbalancer.Node{Name: nodeName(i), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}}
		if i > 0 {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1)))
		}
		w.Nodes[n.Name] = n
		w.Members[n.Name] = plan.Member{Known: true}
	}
	for i := range worldServices {
		w.service(i)
		w.endpoints(i)
	}
	return w
}

func (w *world) coin() bool { return w.IntN(2) == 0 }

func pick[T any](w *world, of ...T) T { return of[w.IntN(len(of))] }

func serviceKey(i int) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: "d", Name: fmt.Sprintf("svc-%d", i)}
}

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }

func vip6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i)) }

// service gives the i-th Service a new record and new claims, or none.
func (w *world) service(i int) {
	uid := loadbalancer.ServiceUID(fmt.Sprintf("u%d", i))
	w.Claims = slices.DeleteFunc(slices.Clone(w.Claims), func(c loadbalancer.Claim) bool { return slices.Contains(c.Services, uid) })
	w.Records = maps.Clone(w.Records)
	delete(w.Records, uid)
	if w.IntN(8) == 0 {
		return
	}
	r := loadbalancer.Record{
		UID: uid, Service: serviceKey(i), Addrs: []netip.Addr{vip(i)}, DataPlane: pick(w, loadbalancer.IPVS, loadbalancer.IPVS, loadbalancer.KubeProxy),
		Policy: pick(w, loadbalancer.Cluster, loadbalancer.Local), Targets: pick(w, loadbalancer.TargetPod, loadbalancer.TargetNodePort),
		Scheduler: pick(w, "", "wrr", "mh"), Affinity: pick(w, 0, time.Minute), Revision: fmt.Sprint(w.IntN(100)),
		Ports: []loadbalancer.ServicePort{{Name: "a", Protocol: loadbalancer.TCP, Port: 80, NodePort: uint16(w.IntN(2) * 30080)}},
	}
	if w.coin() {
		r.Ports = append(r.Ports, loadbalancer.ServicePort{Name: "b", Protocol: loadbalancer.UDP, Port: 53})
	}
	if w.coin() {
		r.Addrs = append(r.Addrs, vip6(i))
	}
	if w.IntN(4) == 0 { // a node's own, granted; or not
		r.NodeAddrs = append(r.NodeAddrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(7))}))
		r.Addrs = append(r.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(7))}))
	}
	w.Records[uid] = r
	for _, a := range r.Addrs {
		if !slices.ContainsFunc(w.Claims, func(c loadbalancer.Claim) bool { return c.Addr == a }) {
			w.Claims = append(w.Claims, loadbalancer.Claim{Name: loadbalancer.Group(a.String()), Addr: a, Services: []loadbalancer.ServiceUID{uid}, Releasing: w.IntN(8) == 0})
		}
	}
}

// endpoints gives the i-th Service others.
func (w *world) endpoints(i int) {
	var e loadbalancer.Endpoints
	for j := range w.IntN(5) {
		b := loadbalancer.Backend{
			Addr: netip.AddrFrom4([4]byte{172, 16, byte(i), byte(j)}), PortName: "a", Protocol: loadbalancer.TCP, Port: 8080, Weight: uint16(1 + w.IntN(3)),
			Ready: w.coin(), Serving: w.coin(), Terminating: w.coin(), Node: pick(w, "", nodeName(0), nodeName(1), nodeName(2), nodeName(3), "gone"),
		}
		if w.IntN(3) == 0 {
			b.Addr = netip.MustParseAddr(fmt.Sprintf("fd01::%d:%d", i, j))
		}
		e.Backends = append(e.Backends, b)
		b.PortName, b.Protocol, b.Port = "b", loadbalancer.UDP, 53
		e.Backends = append(e.Backends, b)
	}
	w.Endpoints = maps.Clone(w.Endpoints)
	w.Endpoints[serviceKey(i)] = e
}

// step changes something; slices and maps that a plan has seen stay as they are.
func (w *world) step() {
	switch w.IntN(10) {
	case 0:
		w.service(w.IntN(worldServices))
	case 6, 7:
		w.tweak(w.IntN(worldServices))
	case 1:
		w.Dead = nodeSet()
		for range w.IntN(4) {
			w.Dead[nodeName(w.IntN(worldNodes))] = struct{}{}
		}
	case 2:
		w.Nodes = maps.Clone(w.Nodes)
		n := w.Nodes[nodeName(w.IntN(worldNodes))]
		n.Addrs = slices.Clone(n.Addrs[:1+w.IntN(len(n.Addrs))])
		if w.coin() {
			n.Addrs = append(n.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(7))}))
		}
		n.PodCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(w.IntN(4)), 0}), 24)}
		w.Nodes[n.Name] = n
	case 3:
		w.Claims = slices.Clone(w.Claims)
		if len(w.Claims) > 0 {
			c := &w.Claims[w.IntN(len(w.Claims))]
			c.Releasing = !c.Releasing
		}
	case 4:
		if w.IntN(5) == 0 {
			w.Self = nodeName(w.IntN(worldNodes))
		}
		w.Forwards = w.IntN(20) != 0
	case 5: // a sharer
		w.Claims = slices.Clone(w.Claims)
		if uid := loadbalancer.ServiceUID(fmt.Sprintf("u%d", w.IntN(worldServices))); len(w.Claims) > 0 {
			c := &w.Claims[w.IntN(len(w.Claims))]
			r, ok := w.Records[uid]
			if ok && !slices.Contains(c.Services, uid) {
				c.Services = append(slices.Clone(c.Services), uid)
				r.Addrs = append(slices.Clone(r.Addrs), c.Addr)
				w.Records = maps.Clone(w.Records)
				w.Records[uid] = r
			}
		}
	default:
		w.endpoints(w.IntN(worldServices))
	}
}

// tweak changes one thing of the i-th Service's record.
func (w *world) tweak(i int) {
	uid := loadbalancer.ServiceUID(fmt.Sprintf("u%d", i))
	r, ok := w.Records[uid]
	if !ok {
		return
	}
	switch w.IntN(9) {
	case 0:
		r.Policy = loadbalancer.Local - r.Policy
	case 1:
		r.Targets = loadbalancer.TargetNodePort - r.Targets
	case 2:
		r.Scheduler = pick(w, "", "wrr", "mh")
	case 3:
		r.Affinity = pick(w, 0, time.Minute)
	case 4:
		r.Flags ^= loadbalancer.SchedPort
	case 5:
		r.Ports = slices.Clone(r.Ports)
		r.Ports[0].NodePort ^= 1
	case 6:
		r.Sources = pick(w, nil, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")})
	case 7:
		r.DataPlane = loadbalancer.IPVS - r.DataPlane
	default:
		r.NodeAddrs = pick(w, nil, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})})
	}
	w.Records = maps.Clone(w.Records)
	w.Records[uid] = r
}

// dump has everything of a forwarding.
func dump(f loadbalancer.Forwarding) string { return plan.NodeState{Forwarding: f}.String() }

// What a memory remembers changes nothing of the plan.
func TestMemoryChangesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		w, m := newWorld(seed), new(plan.Memory)
		for step := range 60 {
			if got, want := dump(m.For(w.Snapshot).Forwarding), dump(plan.For(w.Snapshot).Forwarding); got != want {
				t.Fatalf("seed %d, step %d (-anew +remembered):\n%s", seed, step, cmp.Diff(want, got))
			}
			w.step()
		}
	}
}

// An unchanged plan is the same slices, and a change leaves those of other records alone.
func TestMemoryKeepsWhatDidNotChange(t *testing.T) {
	t.Parallel()
	s := forwarding(3, 50)
	var m plan.Memory
	before := m.For(s).Forwarding
	if again := m.For(s).Forwarding; &before.VirtualServers[0] != &again.VirtualServers[0] || &before.Served[0] != &again.Served[0] {
		t.Error("the plan was made again though nothing changed")
	}
	key := s.Records[s.Claims[7].Services[0]].Service
	e := s.Endpoints[key]
	e.Backends = slices.Clone(e.Backends)
	e.Backends[0].Ready = false
	s.Endpoints[key] = e
	after := m.For(s).Forwarding
	changed := 0
	for i, v := range after.VirtualServers {
		if len(v.Reals) != 3 {
			changed++
		} else if &v.Reals[0] != &before.VirtualServers[i].Reals[0] {
			t.Errorf("the real servers of %s were made again", v.Service)
		}
	}
	if changed != 2 {
		t.Errorf("%d virtual servers lost a real server, want those from outside and from within", changed)
	}
}

// The order in which things are learned does not matter, and nothing is in a plan twice.
func TestForwardingIsOrdered(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		w := newWorld(seed)
		for range 20 {
			w.step()
		}
		want := plan.For(w.Snapshot).Forwarding
		w.Claims = slices.Clone(w.Claims)
		w.Shuffle(len(w.Claims), func(i, j int) { w.Claims[i], w.Claims[j] = w.Claims[j], w.Claims[i] })
		for i := range worldServices {
			e := w.Endpoints[serviceKey(i)]
			e.Backends = slices.Clone(e.Backends)
			w.Shuffle(len(e.Backends), func(i, j int) { e.Backends[i], e.Backends[j] = e.Backends[j], e.Backends[i] })
			w.Endpoints[serviceKey(i)] = e
		}
		got := plan.For(w.Snapshot).Forwarding
		if dump(want) != dump(got) {
			t.Fatalf("seed %d depends on the order (-want +got):\n%s", seed, cmp.Diff(dump(want), dump(got)))
		}
		checkOrder(t, got)
	}
}

func checkOrder(t *testing.T, f loadbalancer.Forwarding) {
	t.Helper()
	ascends := func(what string, compare ...int) {
		for _, c := range compare {
			if c < 0 {
				return
			}
			if c > 0 {
				break
			}
		}
		t.Errorf("%s does not ascend", what)
	}
	for i := 1; i < len(f.VIPs); i++ {
		ascends("VIPs", f.VIPs[i-1].Compare(f.VIPs[i]))
	}
	for i := 1; i < len(f.VirtualServers); i++ {
		a, b := f.VirtualServers[i-1], f.VirtualServers[i]
		ascends("VirtualServers", a.Addr.Compare(b.Addr), int(a.Protocol)-int(b.Protocol), int(a.Port)-int(b.Port), int(int64(a.Mark)-int64(b.Mark)))
	}
	for i := 1; i < len(f.Served); i++ {
		a, b := f.Served[i-1], f.Served[i]
		ascends("Served", a.Addr.Compare(b.Addr), int(a.Protocol)-int(b.Protocol), int(a.Port)-int(b.Port))
	}
	for i := 1; i < len(f.LocalReals); i++ {
		ascends("LocalReals", f.LocalReals[i-1].Compare(f.LocalReals[i]))
	}
	for _, v := range f.VirtualServers {
		for i := 1; i < len(v.Reals); i++ {
			ascends("Reals", v.Reals[i-1].Addr.Compare(v.Reals[i].Addr), int(v.Reals[i-1].Port)-int(v.Reals[i].Port))
		}
	}
}

// Every virtual server with real servers has one that gets connections, of its own family;
// every one is served, and no address that is a node's is virtual.
func TestForwardingServes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		w := newWorld(seed)
		for range 20 {
			w.step()
		}
		f := plan.For(w.Snapshot).Forwarding
		marks, fronts := map[uint32]bool{}, map[loadbalancer.VirtualServerKey]bool{}
		for _, s := range f.Served {
			marks[s.Mark] = true
			fronts[loadbalancer.VirtualServerKey{Addr: s.Addr, Protocol: s.Protocol, Port: s.Port}] = true
		}
		for _, v := range f.VirtualServers {
			if v.Mark != 0 && !marks[v.Mark] || v.Mark == 0 && !fronts[v.VirtualServerKey] {
				t.Errorf("seed %d: %s %s is not served", seed, v.Service, v.Addr)
			}
			live := false
			for _, r := range v.Reals {
				live = live || r.Weight > 0
				if r.Addr.Is6() != v.Addr.Is6() {
					t.Errorf("seed %d: %s has the real server %s", seed, v.Addr, r.Addr)
				}
			}
			if !live && len(v.Reals) > 0 {
				t.Errorf("seed %d: %s %s has real servers, and none gets connections: %v", seed, v.Service, v.Addr, v.Reals)
			}
		}
		for _, n := range w.Nodes {
			for _, a := range n.Addrs {
				if slices.Contains(f.VIPs, a) {
					t.Errorf("seed %d: %s is a node's", seed, a)
				}
			}
		}
	}
}

// Every node forwards the same but for what is local: pods of its own under the Local
// policy and for node ports, and its own addresses.
func TestNodesForwardTheSame(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		w := newWorld(seed)
		for range 20 {
			w.step()
		}
		w.Forwards = true
		delete(w.Dead, nodeName(0))
		delete(w.Dead, nodeName(1)) // one that is dead thinks otherwise
		at := func(n loadbalancer.NodeName) loadbalancer.Forwarding {
			w.Self = n
			f := plan.For(w.Snapshot).Forwarding
			f.LocalReals = nil
			f.Served = slices.DeleteFunc(slices.Clone(f.Served), func(s loadbalancer.Served) bool { return !slices.Contains(f.VIPs, s.Addr) })
			f.VirtualServers = slices.DeleteFunc(slices.Clone(f.VirtualServers), func(v loadbalancer.VirtualServer) bool {
				r := w.Records[uidOf(w, v.Service)]
				return v.Mark == 0 && (r.Policy == loadbalancer.Local || r.Targets == loadbalancer.TargetNodePort || !slices.Contains(f.VIPs, v.Addr)) ||
					v.Mark != 0 && len(r.NodeAddrs) > 0
			})
			return f
		}
		if one, other := dump(at(nodeName(0))), dump(at(nodeName(1))); one != other {
			t.Fatalf("seed %d (-one +other):\n%s", seed, cmp.Diff(one, other))
		}
	}
}

func uidOf(w *world, key loadbalancer.ServiceKey) loadbalancer.ServiceUID {
	for uid, r := range w.Records {
		if r.Service == key {
			return uid
		}
	}
	return ""
}
