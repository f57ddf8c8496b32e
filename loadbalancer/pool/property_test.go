// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
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
				a, b := drawAddr().Draw(t, "from"), drawAddr().Draw(t, "to")
				if a.Is4() != b.Is4() {
					b = a
				}
				if b.Less(a) {
					a, b = b, a
				}
				s.Addresses = append(s.Addresses, a.String()+"-"+b.String())
			}
			out = append(out, s)
		}
		return out
	})
}

// Whatever happens, an address is given once, from a valid pool, never a node's own and
// never one that is being released; and the compiled pools do not overlap.
func TestAllocationIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs().Draw(t, "pools")
		set, l := pool.Compile(specs, nil), pool.NewLedger()
		reserved := make(map[netip.Addr]string)
		for range rapid.IntRange(0, 4).Draw(t, "reserved") {
			reserved[drawAddr().Draw(t, "node address")] = "n"
		}
		l.SetReserved(reserved)
		held := make(map[netip.Addr]string)
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(held) > 0 && rapid.IntRange(0, 3).Draw(t, "release") == 0 {
				a := rapid.SampledFrom(slices.SortedFunc(maps.Keys(held), netip.Addr.Compare)).Draw(t, "which")
				l.Release(a)
				delete(held, a)
				continue
			}
			uid := fmt.Sprintf("u%d", step)
			req := pool.Request{
				Service: key(uid), UID: loadbalancer.ServiceUID(uid),
				Families:  rapid.SampledFrom([][]pool.Family{{pool.IPv4}, {pool.IPv6}, {pool.IPv6, pool.IPv4}}).Draw(t, "families"),
				AnyFamily: rapid.Bool().Draw(t, "any"),
			}
			if rapid.Bool().Draw(t, "ask") {
				req.Addresses = []netip.Addr{drawAddr().Draw(t, "asked")}
			}
			if rapid.Bool().Draw(t, "ask pool") {
				req.Pool = rapid.SampledFrom([]string{"p0", "p1", "p9"}).Draw(t, "pool")
			}
			got, err := pool.Allocate(set, l, &req)
			if (err == nil) != (len(got) > 0) {
				t.Fatalf("%d addresses with error %v", len(got), err)
			}
			for _, g := range got {
				p, valid := set.ByName(g.Pool)
				if by, taken := held[g.Addr]; taken || reserved[g.Addr] != "" || !valid || !p.Contains(g.Addr) {
					t.Fatalf("%s of pool %q given: held by %q, reserved by %q, pool valid %v", g.Addr, g.Pool, by, reserved[g.Addr], valid)
				}
				if len(req.Addresses) == 1 && req.Addresses[0].Is4() == g.Addr.Is4() && req.Addresses[0] != g.Addr {
					t.Fatalf("%s asked for, %s given", req.Addresses[0], g.Addr)
				}
				h := heldBy(uid)
				if rapid.Bool().Draw(t, "releasing") {
					h.State = pool.Releasing
				}
				l.Hold(g.Addr, h)
				held[g.Addr] = uid
			}
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

func FuzzParseInterval(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "192.0.2.10-192.0.2.20", "2001:db8::/64", "::1-::2", "::ffff:1.2.3.4/120", "fe80::1%eth0-fe80::2%eth0", "1-2", "-", "/", "0.0.0.0/0", "255.255.255.255-255.255.255.255"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		iv, err := pool.ParseInterval(s)
		if err != nil {
			return
		}
		if iv.From.BitLen() != iv.To.BitLen() || iv.To.Less(iv.From) || iv.From.Is4In6() || iv.From.Zone() != "" || iv.Size() < 1 {
			t.Errorf("ParseInterval(%q) = %s", s, iv)
		}
		again, err := pool.ParseInterval(iv.From.String() + "-" + iv.To.String())
		if err != nil || again != iv {
			t.Errorf("%s does not parse back: %v", iv, err)
		}
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && (p.Masked().Addr() != iv.From || !p.Contains(iv.To)) {
			t.Errorf("ParseInterval(%q) = %s", s, iv)
		}
	})
}
