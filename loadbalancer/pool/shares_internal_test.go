// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// The search for an address to join finds what looking at every address finds.
func TestJoinableAgreesWithLookingAtAll(t *testing.T) {
	t.Parallel()
	ports := []Port{{"TCP", 80}, {"UDP", 80}, {"TCP", 443}}
	rapid.Check(t, func(t *rapid.T) {
		set := Compile([]Spec{{Name: "p", Addresses: []string{"192.0.2.0/24"}, AutoAssign: true}}, nil)
		l := NewLedger()
		l.SetPools(set)
		drawPorts := rapid.SliceOfN(rapid.SampledFrom(ports), 0, 3)
		held := make(map[netip.Addr]Holding)
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 15).Draw(t, "addr"))})
			if rapid.IntRange(0, 3).Draw(t, "release") == 0 {
				l.Release(a)
				delete(held, a)
			} else {
				h := Holding{SharingKey: rapid.SampledFrom([]string{"k", "k", "l", ""}).Draw(t, "key")}
				for i := range rapid.IntRange(1, 3).Draw(t, "tenants") {
					uid := fmt.Sprintf("%d-%d", step, i)
					h.Tenants = append(h.Tenants, Tenant{Service: loadbalancer.ServiceKey{Name: uid}, UID: loadbalancer.ServiceUID(uid), Ports: drawPorts.Draw(t, "ports")})
				}
				l.Hold(a, h)
				held[a] = h
			}
			req := &Request{Service: loadbalancer.ServiceKey{Name: "me"}, UID: "me", SharingKey: "k", Ports: drawPorts.Draw(t, "my ports")}
			me := req.Tenant()
			var want, got []netip.Addr
			for a, h := range held {
				if h.SharingKey == "k" && misfitOf(h, &me, "k").kind == fits {
					want = append(want, a)
				}
			}
			slices.SortFunc(want, netip.Addr.Compare)
			for _, list := range l.shares[shareKey{"k", ""}] {
				for at := l.joinable(list, req, 0); at < len(list.addrs); at = l.joinable(list, req, at+1) {
					got = append(got, list.addrs[at])
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("joinable with %v: %v, want %v", req.Ports, got, want)
			}
		}
		for a := range held {
			l.Release(a)
		}
		if len(l.shares) != 0 || len(l.kept) != 0 {
			t.Fatalf("left in an empty ledger: %v, %v", l.shares, l.kept)
		}
	})
}
