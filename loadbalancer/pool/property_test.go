// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// drawAddr draws from a space so small that collisions are common.
func drawAddr() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		last := byte(rapid.IntRange(0, 40).Draw(t, "last"))
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 0xd, 0xb8, 15: last})
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, 220 + last%36})
	})
}

func drawSpecs() *rapid.Generator[[]pool.Spec] {
	return rapid.Custom(func(t *rapid.T) []pool.Spec {
		var out []pool.Spec
		for i := range rapid.IntRange(0, 4).Draw(t, "pools") {
			s := pool.Spec{
				Name:          fmt.Sprintf("p%d", i),
				Created:       loadbalancer.Since(rapid.IntRange(0, 2).Draw(t, "created")),
				AutoAssign:    rapid.Bool().Draw(t, "auto"),
				AvoidBuggyIPs: rapid.Bool().Draw(t, "avoid"),
			}
			for range rapid.IntRange(1, 3).Draw(t, "ranges") {
				iv := drawInterval(t)
				s.Addresses = append(s.Addresses, iv.From.String()+"-"+iv.To.String())
			}
			for range rapid.IntRange(0, 1).Draw(t, "exclude") {
				iv := drawInterval(t)
				s.Excluded = append(s.Excluded, iv.From.String()+"-"+iv.To.String())
			}
			if rapid.IntRange(0, 2).Draw(t, "restrict") == 0 {
				s.Allocation = &pool.Allocation{Priority: rapid.IntRange(0, 2).Draw(t, "priority"), Namespaces: rapid.SampledFrom([][]string{nil, {"x"}, {"x", "y"}}).Draw(t, "for")}
			}
			s.Disabled = rapid.IntRange(0, 4).Draw(t, "disabled") == 0
			out = append(out, s)
		}
		return out
	})
}

func drawInterval(t *rapid.T) pool.Interval {
	a, b := drawAddr().Draw(t, "from"), drawAddr().Draw(t, "to")
	if a.Is4() != b.Is4() {
		b = a
	}
	if b.Less(a) {
		a, b = b, a
	}
	return pool.Interval{From: a, To: b}
}

// Pools of ledgers in these tests may overlap cluster ranges and exclude addresses.
func drawRanges() *rapid.Generator[[]pool.ClusterRange] {
	return rapid.Custom(func(t *rapid.T) []pool.ClusterRange {
		var out []pool.ClusterRange
		for i := range rapid.IntRange(0, 2).Draw(t, "ranges") {
			out = append(out, pool.ClusterRange{
				Interval: drawInterval(t), Kind: rapid.SampledFrom([]pool.RangeKind{pool.PodRange, pool.ServiceRange}).Draw(t, "kind"),
				Created: loadbalancer.Since(rapid.IntRange(0, 4).Draw(t, "range created")), Object: fmt.Sprintf("node %d", i),
			})
		}
		return out
	})
}

// world is a controller's ledger beside a naive model of it, and the claims as the API
// server has them.
type world struct {
	t        *rapid.T
	specs    []pool.Spec
	set      *pool.Set
	ledger   *pool.Ledger
	reserved map[netip.Addr]string
	claims   map[netip.Addr]pool.Holding
	// services by UID: what they asked for last.
	services map[loadbalancer.ServiceUID]*pool.Request
	born     int
}

// requestOf draws a Service. Few names, keys and ports make clashes common.
func (w *world) request() *pool.Request {
	t := w.t
	w.born++
	name := fmt.Sprintf("s%d", rapid.IntRange(0, 5).Draw(t, "name"))
	req := &pool.Request{
		Service:  loadbalancer.ServiceKey{Namespace: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "namespace"), Name: name},
		UID:      loadbalancer.ServiceUID(fmt.Sprintf("%s-%d", name, w.born)),
		Families: rapid.SampledFrom([][]pool.Family{{pool.IPv4}, {pool.IPv6}, {pool.IPv6, pool.IPv4}}).Draw(t, "families"),
	}
	for uid, old := range w.services {
		if old.Service == req.Service {
			w.leave(uid)
			delete(w.services, uid)
		}
	}
	w.wish(req)
	return req
}

// wish draws what a Service asks for.
func (w *world) wish(req *pool.Request) {
	t := w.t
	req.AnyFamily = rapid.Bool().Draw(t, "any")
	req.Count = rapid.IntRange(0, 3).Draw(t, "count")
	req.SharingKey = rapid.SampledFrom([]string{"", "k", "l"}).Draw(t, "key")
	req.Backends = rapid.SampledFrom([]string{"", "", "b"}).Draw(t, "backends")
	req.Ports = rapid.SampledFrom([][]pool.Port{tcp(80), tcp(443), tcp(80, 443), {{Protocol: "UDP", Number: 80}}}).Draw(t, "ports")
	req.Addresses, req.Pool = nil, ""
	if rapid.IntRange(0, 3).Draw(t, "ask") == 0 {
		req.Addresses = []netip.Addr{drawAddr().Draw(t, "asked")}
	}
	if rapid.IntRange(0, 3).Draw(t, "ask pool") == 0 {
		req.Pool = rapid.SampledFrom([]string{"p0", "p1", "p9"}).Draw(t, "pool")
	}
	req.Preferred = rapid.SliceOfN(drawAddr(), 0, 1).Draw(t, "shown")
}

// put writes a claim and tells the ledger.
func (w *world) put(a netip.Addr, h pool.Holding) {
	w.claims[a] = h
	w.ledger.Hold(a, h)
}

// leave takes a Service off its addresses; the last one retains, releases or frees them.
func (w *world) leave(uid loadbalancer.ServiceUID) {
	for _, a := range slices.SortedFunc(maps.Keys(w.claims), netip.Addr.Compare) {
		w.leaveOne(uid, a)
	}
}

func (w *world) leaveOne(uid loadbalancer.ServiceUID, a netip.Addr) {
	h := w.claims[a]
	if h.State != pool.Bound || !h.Names(uid) {
		return
	}
	if len(h.Tenants) > 1 {
		h.Tenants = slices.DeleteFunc(slices.Clone(h.Tenants), func(t pool.Tenant) bool { return t.UID == uid })
		w.put(a, h)
		return
	}
	switch rapid.IntRange(0, 2).Draw(w.t, "then") {
	case 0:
		h.State = pool.Retained
		w.put(a, h)
	case 1:
		h.State = pool.Releasing
		w.put(a, h)
	default:
		delete(w.claims, a)
		w.ledger.Release(a)
	}
}

// ensure does what the controller does with a Service: decide, and write the claims.
func (w *world) ensure(req *pool.Request) {
	before := maps.Clone(w.claims)
	req.Held = nil
	for _, a := range slices.SortedFunc(maps.Keys(w.claims), netip.Addr.Compare) {
		if h := w.claims[a]; h.State == pool.Bound && h.Names(req.UID) {
			req.Held = append(req.Held, pool.Assignment{Addr: a, Pool: "p0", Rule: pool.RuleAutoAssign})
		}
	}
	got, err := pool.Allocate(w.set, w.ledger, req)
	if (err == nil) != (len(got) > 0) {
		w.t.Fatalf("%d addresses with error %v", len(got), err)
	}
	if err != nil {
		if err.Message == "" || err.Reason == "" {
			w.t.Fatalf("error without a reason or message: %+v", err)
		}
		// It keeps what it may keep, with its ports of now: others must not join on them.
		for _, h := range req.Held {
			if pool.Fits(w.claims[h.Addr], req.Tenant(), req.SharingKey) != nil {
				w.leaveOne(req.UID, h.Addr)
			} else {
				w.stay(req, h.Addr)
			}
		}
		return
	}
	w.check(req, got, before)
	for _, g := range got {
		w.stay(req, g.Addr)
	}
	for _, h := range req.Held {
		if !slices.ContainsFunc(got, func(g pool.Assignment) bool { return g.Addr == h.Addr }) {
			w.leaveOne(req.UID, h.Addr)
		}
	}
}

// stay makes a claim say that the Service has the address, as it is now.
func (w *world) stay(req *pool.Request, a netip.Addr) {
	h := w.claims[a]
	if h.State != pool.Bound || !h.Names(req.UID) && len(h.Tenants) == 1 && h.Tenants[0].Service == req.Service {
		h = pool.Holding{}
	}
	h.Tenants = slices.DeleteFunc(slices.Clone(h.Tenants), func(t pool.Tenant) bool { return t.UID == req.UID })
	if len(h.Tenants) == 0 {
		h.SharingKey = req.SharingKey
	}
	h.Tenants = append(h.Tenants, req.Tenant())
	w.put(a, h)
}

// check compares a decision with what the claims allow.
func (w *world) check(req *pool.Request, got []pool.Assignment, before map[netip.Addr]pool.Holding) {
	count := make(map[pool.Family]int)
	for i, g := range got {
		count[pool.FamilyOf(g.Addr)]++
		if slices.ContainsFunc(got[:i], func(o pool.Assignment) bool { return o.Addr == g.Addr }) {
			w.t.Fatalf("%s given twice", g.Addr)
		}
		if !slices.Contains(req.Families, pool.FamilyOf(g.Addr)) {
			w.t.Fatalf("%s is of no family of the Service", g.Addr)
		}
		h, taken := before[g.Addr]
		if taken && h.State == pool.Bound && h.Names(req.UID) {
			continue
		}
		p, valid := w.set.ByName(g.Pool)
		if !valid || !p.Contains(g.Addr) || w.reserved[g.Addr] != "" {
			w.t.Fatalf("%+v given: pool valid %v, reserved %q", g, valid, w.reserved[g.Addr])
		}
		if taken && h.State == pool.Releasing {
			w.t.Fatalf("%s given while it is released", g.Addr)
		}
		if !taken && w.set.Disabled(g.Pool) && g.Rule != pool.RuleShown {
			w.t.Fatalf("%+v given by a disabled pool", g)
		}
	}
	for f, n := range count {
		if want := max(req.Count, 1); n > want {
			w.t.Fatalf("%d %s addresses given, %d needed", n, f, want)
		}
	}
	for _, f := range req.Families {
		if count[f] < max(req.Count, 1) && !req.AnyFamily {
			w.t.Fatalf("%d %s addresses given, %d needed", count[f], f, req.Count)
		}
	}
	for _, a := range req.Addresses {
		if !slices.ContainsFunc(got, func(g pool.Assignment) bool { return g.Addr == a }) {
			w.t.Fatalf("%s asked for, %v given", a, got)
		}
	}
}

// invariant: per address no port and protocol twice, and all tenants of one key and of
// the same backends.
func (w *world) invariant() {
	for a, h := range w.claims {
		if h.State != pool.Bound {
			continue
		}
		ports := make(map[pool.Port]loadbalancer.ServiceUID)
		for _, t := range h.Tenants {
			if len(h.Tenants) > 1 && (h.SharingKey == "" || w.services[t.UID].SharingKey != h.SharingKey) || t.Backends != h.Tenants[0].Backends {
				w.t.Fatalf("%s is shared by %+v under %q", a, h.Tenants, h.SharingKey)
			}
			for _, p := range t.Ports {
				if other, clash := ports[p]; clash {
					w.t.Fatalf("%s port %v belongs to %s and %s", a, p, other, t.UID)
				}
				ports[p] = t.UID
			}
		}
	}
	w.counters()
}

// counters compares the ledger's with a walk over the claims.
func (w *world) counters() {
	for _, s := range w.specs {
		p, ok := w.set.ByName(s.Name)
		if !ok {
			continue
		}
		var held, unavailable, own [2]int64
		tenants := make(map[string]int64)
		usable := func(a netip.Addr) bool { return p.Contains(a) && !w.excluded(s, a) }
		for a, h := range w.claims {
			if !p.Contains(a) {
				continue
			}
			f := b2i(a.Is6())
			held[f]++
			unavailable[f] += int64(b2i(usable(a)))
			seen := make(map[string]bool)
			for _, t := range h.Tenants {
				if !seen[t.Service.Namespace] {
					tenants[t.Service.Namespace]++
				}
				seen[t.Service.Namespace] = true
			}
		}
		for a := range w.reserved {
			if usable(a) {
				own[b2i(a.Is6())]++
				if _, also := w.claims[a]; !also {
					unavailable[b2i(a.Is6())]++
				}
			}
		}
		for i, f := range []pool.Family{pool.IPv4, pool.IPv6} {
			h, u := w.ledger.Count(p, f)
			if o := w.ledger.Own(p, f); h != held[i] || u != unavailable[i] || o != own[i] {
				w.t.Fatalf("pool %s %s: held %d, unavailable %d, own %d; want %d, %d, %d", s.Name, f, h, u, o, held[i], unavailable[i], own[i])
			}
		}
		got := make(map[string]int64)
		for _, c := range w.ledger.Tenants(p, 9) {
			got[c.Namespace] = c.Addresses
		}
		if diff := cmp.Diff(tenants, got); diff != "" {
			w.t.Fatalf("tenants of %s (-want +got):\n%s", s.Name, diff)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// excluded is what a pool never hands out, the slow way.
func (w *world) excluded(s pool.Spec, a netip.Addr) bool {
	last := a.AsSlice()[len(a.AsSlice())-1]
	if s.AvoidBuggyIPs && a.Is4() && (last == 0 || last == 255) {
		return true
	}
	for _, text := range s.Excluded {
		if iv, err := pool.ParseInterval(text); err == nil && iv.Contains(a) {
			return true
		}
	}
	return slices.ContainsFunc(w.set.RangeConflicts(), func(c pool.RangeConflict) bool {
		return c.Pool == s.Name && c.Range.Interval.Contains(a)
	})
}

// restart reads the claims into a new ledger, in another order: it must decide as the
// old one does.
func (w *world) restart() {
	fresh := pool.NewLedger()
	pools := rapid.Permutation(w.specs).Draw(w.t, "pool order")
	set := pool.Compile(pools, nil)
	if rapid.Bool().Draw(w.t, "pools first") {
		fresh.SetPools(set)
	}
	fresh.SetReserved(w.reserved)
	for _, a := range rapid.Permutation(slices.SortedFunc(maps.Keys(w.claims), netip.Addr.Compare)).Draw(w.t, "claim order") {
		fresh.Hold(a, w.claims[a])
	}
	fresh.SetPools(w.set)
	probe := &pool.Request{Service: loadbalancer.ServiceKey{Namespace: "x", Name: "s0"}, UID: "probe", Families: []pool.Family{pool.IPv4, pool.IPv6}}
	w.wish(probe)
	a, errA := pool.Allocate(w.set, w.ledger, probe)
	b, errB := pool.Allocate(w.set, fresh, probe)
	if diff := cmp.Diff(fmt.Sprint(a, errA), fmt.Sprint(b, errB)); diff != "" {
		w.t.Fatalf("after a restart (-before +after):\n%s", diff)
	}
	old := w.ledger
	w.ledger = fresh
	w.counters()
	w.ledger = old
}

// edit changes the pools under what is held.
func (w *world) edit() {
	w.specs = drawSpecs().Draw(w.t, "pools")
	w.set = pool.Compile(w.specs, drawRanges().Draw(w.t, "cluster"))
	w.ledger.SetPools(w.set)
}

// Services come, change, share and go, pools and node addresses change: no two Services
// ever have one port of one address, nothing is given that must not be, counters are
// right, and a restarted controller decides as this one.
func TestAllocationIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, ledger: pool.NewLedger(), claims: make(map[netip.Addr]pool.Holding), services: make(map[loadbalancer.ServiceUID]*pool.Request)}
		w.edit()
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			uids := slices.Sorted(maps.Keys(w.services))
			switch step := rapid.IntRange(0, 9).Draw(t, "step"); {
			case step == 0:
				w.edit()
			case step == 1:
				w.reserved = make(map[netip.Addr]string)
				for range rapid.IntRange(0, 4).Draw(t, "reserved") {
					w.reserved[drawAddr().Draw(t, "node address")] = "n"
				}
				w.ledger.SetReserved(maps.Clone(w.reserved))
			case step == 2 && len(uids) > 0:
				uid := rapid.SampledFrom(uids).Draw(t, "who goes")
				w.leave(uid)
				delete(w.services, uid)
			case step <= 4 && len(uids) > 0:
				req := w.services[rapid.SampledFrom(uids).Draw(t, "who changes")]
				w.wish(req)
				w.ensure(req)
			default:
				req := w.request()
				w.services[req.UID] = req
				w.ensure(req)
			}
			w.invariant()
			w.restart()
		}
	})
}

// Neither the order of pools nor the history of the ledger matters.
func TestAllocationHasNoHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs().Draw(t, "pools")
		taken := rapid.SliceOf(drawAddr()).Draw(t, "taken")
		extra := rapid.SliceOf(drawAddr()).Draw(t, "taken for a while")
		hold := func(l *pool.Ledger, as []netip.Addr) {
			for _, a := range as {
				l.Hold(a, heldBy("x"))
			}
		}
		plain, odd := pool.NewLedger(), pool.NewLedger()
		odd.SetPools(pool.Compile(drawSpecs().Draw(t, "pools before"), nil))
		hold(plain, taken)
		hold(odd, rapid.Permutation(extra).Draw(t, "extra order"))
		for _, a := range extra {
			odd.Release(a)
		}
		hold(odd, rapid.Permutation(taken).Draw(t, "order"))
		req := pool.Request{Service: key("w"), UID: "w", Families: []pool.Family{pool.IPv4, pool.IPv6}, AnyFamily: true}
		a, errA := pool.Allocate(pool.Compile(specs, nil), plain, &req)
		b, errB := pool.Allocate(pool.Compile(rapid.Permutation(specs).Draw(t, "pool order"), nil), odd, &req)
		if diff := cmp.Diff(fmt.Sprint(a, errA), fmt.Sprint(b, errB)); diff != "" {
			t.Fatal(diff)
		}
	})
}
