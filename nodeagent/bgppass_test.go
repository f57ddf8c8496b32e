// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// someRoutes are routes at random for a few addresses, some of them within one prefix.
func someRoutes(r *rand.Rand) []loadbalancer.BGPRoute {
	var out []loadbalancer.BGPRoute
	for base := byte(0); base < 12; base += 4 {
		var addrs []netip.Addr
		for i := range byte(4) {
			if r.IntN(3) != 0 {
				addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, base + i}))
			}
		}
		if r.IntN(3) == 0 && len(addrs) > 0 {
			out = append(out, loadbalancer.BGPRoute{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, base}), 30), Addrs: addrs})
			continue
		}
		for _, a := range addrs {
			out = append(out, loadbalancer.BGPRoute{Prefix: netip.PrefixFrom(a, 32), Addrs: []netip.Addr{a}})
		}
	}
	return out
}

// someLess is a list with one route less, or the same list.
func someLess(r *rand.Rand, of []loadbalancer.BGPRoute) []loadbalancer.BGPRoute {
	if len(of) == 0 || r.IntN(3) == 0 {
		return of
	}
	i := r.IntN(len(of))
	return slices.Delete(slices.Clone(of), i, i+1)
}

// opened is what passes where every address is asked for that has not passed before, and what
// has passed since.
func opened(before map[netip.Addr]bool, routes map[string][]loadbalancer.BGPRoute, shut map[netip.Addr]bool) (told map[string][]loadbalancer.BGPRoute, since map[netip.Addr]bool, waits bool) {
	told, since = make(map[string][]loadbalancer.BGPRoute), make(map[netip.Addr]bool)
	for peer, list := range routes {
		told[peer] = nil
		for _, r := range list {
			some := false
			for _, a := range r.Addrs {
				if before[a] || !shut[a] {
					since[a], some = true, true
				} else {
					waits = true
				}
			}
			if some {
				told[peer] = append(told[peer], r)
			}
		}
	}
	return told, since, waits
}

// Routes that have passed are not looked at again, and nothing passes otherwise for that.
func TestGateOfRoutes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r, tell, passed := rand.New(rand.NewPCG(seed, 3)), telling{}, map[netip.Addr]bool{}
		a, b := someRoutes(r), someRoutes(r)
		for step := range 60 {
			switch r.IntN(4) {
			case 0:
				a = someRoutes(r)
			case 1:
				a = someLess(r, a)
			case 2:
				b = someLess(r, a)
			default:
			}
			routes := map[string][]loadbalancer.BGPRoute{"p": a, "q": a, "r": b}
			if r.IntN(8) == 0 {
				delete(routes, "r")
			}
			shut := map[netip.Addr]bool{}
			for range max(0, r.IntN(8)-4) {
				shut[netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(12))})] = true
			}
			want, since, mayWait := opened(passed, routes, shut)
			got, waits := tell.pass(routes, func(a netip.Addr) bool { return shut[a] })
			diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateComparable(netip.Addr{}))
			if diff != "" || waits != mayWait {
				t.Fatalf("seed %d, step %d, shut %v: waits %t, want %t; told (-want +got):\n%s", seed, step, shut, waits, mayWait, diff)
			}
			passed = since
		}
	}
}

// Of many routes that have passed one that changes is all that is asked for.
func TestGateAsksForWhatIsNew(t *testing.T) {
	t.Parallel()
	list := make([]loadbalancer.BGPRoute, 0, 100)
	for i := range byte(100) {
		a := netip.AddrFrom4([4]byte{192, 0, 2, i})
		list = append(list, loadbalancer.BGPRoute{Prefix: netip.PrefixFrom(a, 32), Addrs: []netip.Addr{a}})
	}
	var tell telling
	asked := 0
	shut := func(netip.Addr) bool { asked++; return false }
	tell.pass(map[string][]loadbalancer.BGPRoute{"p": list[1:], "q": list[1:]}, shut)
	asked = 0
	if told, waits := tell.pass(map[string][]loadbalancer.BGPRoute{"p": list, "q": list}, shut); asked != 1 || waits || !shared(told["q"], list) {
		t.Errorf("asked for %d addresses, waits %t, told %d routes; want 1, false and all", asked, waits, len(told["q"]))
	}
}
