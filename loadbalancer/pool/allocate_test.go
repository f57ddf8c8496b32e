// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func key(name string) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: "default", Name: name}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// auto is a pool that serves every Service.
func auto(name string, addresses ...string) pool.Spec {
	return pool.Spec{Name: name, Addresses: addresses, AutoAssign: true}
}

func selector(t *testing.T, s string) []labels.Selector {
	t.Helper()
	sel, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return []labels.Selector{sel}
}

// book returns a ledger where others hold some addresses.
func book(held ...string) *pool.Ledger {
	l := pool.NewLedger()
	for _, a := range held {
		l.Hold(addr(a), heldBy("other"))
	}
	return l
}

func v4(change func(*pool.Request)) pool.Request {
	r := pool.Request{Service: key("web"), UID: "web", Families: []pool.Family{pool.IPv4}}
	if change != nil {
		change(&r)
	}
	return r
}

func dual(r *pool.Request) { r.Families = []pool.Family{pool.IPv4, pool.IPv6} }

// heldBy is what one Service alone holds.
func heldBy(name string) pool.Holding {
	return pool.Holding{Tenants: []pool.Tenant{{Service: key(name), UID: loadbalancer.ServiceUID(name)}}}
}

func TestAllocate(t *testing.T) {
	t.Parallel()
	reserved := func(l *pool.Ledger) *pool.Ledger {
		l.SetReserved(map[netip.Addr]string{addr("192.0.2.1"): "worker"})
		return l
	}
	releasing := func() *pool.Ledger {
		l := pool.NewLedger()
		l.Hold(addr("192.0.2.1"), pool.Holding{State: pool.Releasing, Tenants: heldBy("old").Tenants})
		return l
	}
	wanted := func(uid loadbalancer.ServiceUID) *pool.Ledger {
		l := pool.NewLedger()
		l.Want(addr("192.0.2.1"), key("old"), uid)
		return l
	}
	alloc := func(name string, a pool.Allocation, addresses ...string) pool.Spec {
		s := auto(name, addresses...)
		s.Allocation = &a
		return s
	}
	tests := []struct {
		name   string
		pools  []pool.Spec
		ledger *pool.Ledger
		req    pool.Request
		want   string
		reason reason.Reason
	}{
		{name: "the lowest free address", pools: []pool.Spec{auto("a", "192.0.2.1-192.0.2.4")}, ledger: book("192.0.2.1", "192.0.2.3"), req: v4(nil), want: "192.0.2.2@a"},
		{name: "later ranges when the first is full", pools: []pool.Spec{auto("a", "192.0.2.9/32", "192.0.2.1/32")}, ledger: book("192.0.2.1"), req: v4(nil), want: "192.0.2.9@a"},
		{name: "pools by name", pools: []pool.Spec{auto("b", "192.0.2.1/32"), auto("a", "192.0.2.2/32")}, req: v4(nil), want: "192.0.2.2@a"},
		{name: "the next pool when one is full", pools: []pool.Spec{auto("a", "192.0.2.1/32"), auto("b", "192.0.2.2/32")}, ledger: book("192.0.2.1"), req: v4(nil), want: "192.0.2.2@b"},
		{
			name:  "a matching serviceAllocation before open pools",
			pools: []pool.Spec{auto("a", "192.0.2.1/32"), alloc("z", pool.Allocation{Namespaces: []string{"default"}}, "192.0.2.9/32")},
			req:   v4(nil), want: "192.0.2.9@z",
		},
		{
			name: "priority: lower first, 0 last",
			pools: []pool.Spec{
				alloc("a", pool.Allocation{}, "192.0.2.1/32"),
				alloc("b", pool.Allocation{Priority: 50}, "192.0.2.2/32"),
				alloc("c", pool.Allocation{Priority: 20}, "192.0.2.3/32"),
			},
			req: v4(nil), want: "192.0.2.3@c",
		},
		{
			name:  "serviceAllocation by namespace label",
			pools: []pool.Spec{alloc("a", pool.Allocation{NamespaceSelectors: selector(t, "tier=gold")}, "192.0.2.1/32")},
			req:   v4(func(r *pool.Request) { r.NamespaceLabels = labels.Set{"tier": "gold"} }), want: "192.0.2.1@a",
		},
		{
			name:  "serviceAllocation needs namespace and service to match",
			pools: []pool.Spec{alloc("a", pool.Allocation{Namespaces: []string{"default"}, ServiceSelectors: selector(t, "app=x")}, "192.0.2.1/32")},
			req:   v4(func(r *pool.Request) { r.Labels = labels.Set{"app": "y"} }), reason: reason.NoPool,
		},
		{
			name:  "a pool asked for, whatever its autoAssign",
			pools: []pool.Spec{auto("a", "192.0.2.1/32"), {Name: "b", Addresses: []string{"192.0.2.2/32"}}},
			req:   v4(func(r *pool.Request) { r.Pool = "b" }), want: "192.0.2.2@b",
		},
		{name: "autoAssign false serves nobody unasked", pools: []pool.Spec{{Name: "b", Addresses: []string{"192.0.2.2/32"}}}, req: v4(nil), reason: reason.NoPool},
		{name: "no pool at all", req: v4(nil), reason: reason.NoPool},
		{name: "only invalid pools", pools: []pool.Spec{auto("a", "nonsense")}, req: v4(nil), reason: reason.NoPool},
		{name: "a pool asked for that is not there", pools: []pool.Spec{auto("a", "192.0.2.1/32")}, req: v4(func(r *pool.Request) { r.Pool = "b" }), reason: reason.PoolNotFound},
		{name: "a pool asked for that is not valid", pools: []pool.Spec{auto("a", "192.0.2.1/33")}, req: v4(func(r *pool.Request) { r.Pool = "a" }), reason: reason.PoolNotFound},
		{name: "every pool full", pools: []pool.Spec{auto("a", "192.0.2.1/32")}, ledger: book("192.0.2.1"), req: v4(nil), reason: reason.PoolExhausted},
		{name: "no address of the family", pools: []pool.Spec{auto("a", "2001:db8::/64")}, req: v4(nil), reason: reason.NoAddressOfFamily},
		{
			name: "an address asked for", pools: []pool.Spec{auto("a", "192.0.2.0/24")},
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("192.0.2.77")} }), want: "192.0.2.77@a",
		},
		{
			name: "an address asked for and in use is never replaced", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ledger: book("192.0.2.77"),
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("192.0.2.77")} }), reason: reason.AddressInUse,
		},
		{
			name: "an address asked for in no pool", pools: []pool.Spec{auto("a", "192.0.2.0/24")},
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("198.51.100.1")} }), reason: reason.AddressNotInPool,
		},
		{
			name: "an address asked for that is a node's", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ledger: reserved(book()),
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("192.0.2.1")} }), reason: reason.AddressReserved,
		},
		{
			name: "an address asked for that is avoided", pools: []pool.Spec{{Name: "a", Addresses: []string{"192.0.2.0/24"}, AutoAssign: true, AvoidBuggyIPs: true}},
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("192.0.2.255")} }), reason: reason.AddressReserved,
		},
		{
			name: "an address asked for that is being released", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ledger: releasing(),
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("192.0.2.1")} }), reason: reason.AddressReleasing,
		},
		{
			name: "address and pool asked for that do not fit", pools: []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "198.51.100.0/24")},
			req: v4(func(r *pool.Request) { r.Pool, r.Addresses = "b", []netip.Addr{addr("192.0.2.1")} }), reason: reason.ConflictingRequests,
		},
		{
			name: "an address asked for of a family that the Service has not", pools: []pool.Spec{auto("a", "2001:db8::/64")},
			req: v4(func(r *pool.Request) { r.Addresses = []netip.Addr{addr("2001:db8::1")} }), reason: reason.FamilyMismatch,
		},
		{name: "released addresses are not handed out", pools: []pool.Spec{auto("a", "192.0.2.1-192.0.2.2")}, ledger: releasing(), req: v4(nil), want: "192.0.2.2@a"},
		{name: "a node's address is not handed out", pools: []pool.Spec{auto("a", "192.0.2.1-192.0.2.2")}, ledger: reserved(book()), req: v4(nil), want: "192.0.2.2@a"},
		{name: "an address in another Service's status is not handed out", pools: []pool.Spec{auto("a", "192.0.2.1-192.0.2.2")}, ledger: wanted("old"), req: v4(nil), want: "192.0.2.2@a"},
		{
			name: "the address in one's own status comes back", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ledger: wanted("web"),
			req: v4(func(r *pool.Request) { r.Preferred = []netip.Addr{addr("192.0.2.1")} }), want: "192.0.2.1@a",
		},
		{
			name: "an address in one's own status that is taken is replaced", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ledger: book("192.0.2.7"),
			req: v4(func(r *pool.Request) { r.Preferred = []netip.Addr{addr("192.0.2.7")} }), want: "192.0.2.0@a",
		},
		{
			name: "what is held stays, though its pool is gone", pools: []pool.Spec{auto("a", "192.0.2.0/24")},
			req: v4(func(r *pool.Request) { r.Held = []pool.Assignment{{Addr: addr("203.0.113.9"), Pool: "gone"}} }), want: "203.0.113.9@gone",
		},
		{
			name: "what is held moves to the pool asked for", pools: []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "198.51.100.1/32")},
			req: v4(func(r *pool.Request) { r.Pool, r.Held = "b", []pool.Assignment{{Addr: addr("192.0.2.9"), Pool: "a"}} }), want: "198.51.100.1@b",
		},
		{
			name: "what is held moves to the address asked for", pools: []pool.Spec{auto("a", "192.0.2.0/24")},
			req: v4(func(r *pool.Request) {
				r.Addresses, r.Held = []netip.Addr{addr("192.0.2.8")}, []pool.Assignment{{Addr: addr("192.0.2.9"), Pool: "a"}}
			}), want: "192.0.2.8@a",
		},
		{
			name: "avoidBuggyIPs skips .0 and .255", pools: []pool.Spec{{Name: "a", Addresses: []string{"192.0.2.255-192.0.3.1"}, AutoAssign: true, AvoidBuggyIPs: true}},
			req: v4(nil), want: "192.0.3.1@a",
		},
		{
			name: "avoidBuggyIPs with nothing else left", pools: []pool.Spec{{Name: "a", Addresses: []string{"192.0.2.255-192.0.3.0"}, AutoAssign: true, AvoidBuggyIPs: true}},
			req: v4(nil), reason: reason.PoolExhausted,
		},
		{
			name: "two families from two pools", pools: []pool.Spec{auto("a", "192.0.2.1/32"), auto("b", "2001:db8::/64")},
			req: v4(dual), want: "192.0.2.1@a 2001:db8::@b",
		},
		{name: "RequireDualStack needs both", pools: []pool.Spec{auto("a", "192.0.2.1/32")}, req: v4(dual), reason: reason.NoAddressOfFamily},
		{
			name: "PreferDualStack takes what there is", pools: []pool.Spec{auto("a", "192.0.2.1/32")},
			req: v4(func(r *pool.Request) { dual(r); r.AnyFamily = true }), want: "192.0.2.1@a",
		},
		{
			name: "PreferDualStack takes the other family too", pools: []pool.Spec{auto("a", "2001:db8::1/128")},
			req: v4(func(r *pool.Request) { dual(r); r.AnyFamily = true }), want: "2001:db8::1@a",
		},
		{name: "PreferDualStack needs one", req: v4(func(r *pool.Request) { dual(r); r.AnyFamily = true }), reason: reason.NoPool},
		{
			name: "PreferDualStack does not forgive a mistake", pools: []pool.Spec{auto("a", "192.0.2.1/32")},
			req: v4(func(r *pool.Request) { dual(r); r.AnyFamily, r.Addresses = true, []netip.Addr{addr("2001:db8::9")} }), reason: reason.AddressNotInPool,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.ledger == nil {
				tt.ledger = pool.NewLedger()
			}
			got, err := pool.Allocate(pool.Compile(tt.pools, nil), tt.ledger, &tt.req)
			if err != nil {
				if err.Reason != tt.reason || err.Message == "" {
					t.Errorf("Allocate = %s %q, want reason %q", err.Reason, err.Message, tt.reason)
				}
				return
			}
			var text []string
			for _, g := range got {
				text = append(text, fmt.Sprintf("%s@%s", g.Addr, g.Pool))
			}
			if diff := cmp.Diff(tt.want, strings.Join(text, " ")); diff != "" {
				t.Errorf("Allocate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompileFaults(t *testing.T) {
	t.Parallel()
	older := auto("older", "192.0.2.0/28")
	younger := auto("a-younger", "192.0.2.15-192.0.2.20")
	younger.Created = 5
	twin := auto("z-twin", "198.51.100.0/24")
	first := auto("twin", "198.51.100.7/32")
	bad := auto("bad", "192.0.2.9-192.0.2.1", "x")
	fault := auto("fault", "203.0.113.1/32")
	fault.Fault = &pool.Error{Reason: reason.InvalidSelector, Message: "m"}
	s := pool.Compile([]pool.Spec{younger, older, twin, first, bad, fault, auto("none")}, nil)
	want := map[string]reason.Reason{
		"older": "", "a-younger": reason.Overlap, "twin": "", "z-twin": reason.Overlap,
		"bad": reason.InvalidAddresses, "fault": reason.InvalidSelector, "none": reason.InvalidAddresses,
	}
	got := make(map[string]reason.Reason)
	for name := range want {
		got[name] = ""
		if f := s.Fault(name); f != nil {
			got[name] = f.Reason
		}
		if _, valid := s.ByName(name); valid != (s.Fault(name) == nil) {
			t.Errorf("pool %s: valid %v with fault %v", name, valid, s.Fault(name))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestUsable(t *testing.T) {
	t.Parallel()
	tests := []struct {
		spec   pool.Spec
		v4, v6 int64
	}{
		{spec: auto("a", "192.0.2.0/24", "192.0.2.128-192.0.3.0"), v4: 257},
		{spec: pool.Spec{Name: "a", Addresses: []string{"192.0.2.0/23"}, AvoidBuggyIPs: true}, v4: 508},
		{spec: pool.Spec{Name: "a", Addresses: []string{"0.0.0.0/0"}, AvoidBuggyIPs: true}, v4: 1<<32 - 1<<25},
		{spec: auto("a", "2001:db8::/64", "192.0.2.1/32"), v4: 1, v6: 1<<63 - 1},
		{spec: auto("a", "2001:db8::/112", "2001:db8:1::/65"), v6: 1<<63 - 1},
		{spec: auto("a", "2001:db8::ffff-2001:db8::1:0000"), v6: 2},
	}
	for _, tt := range tests {
		p, ok := pool.Compile([]pool.Spec{tt.spec}, nil).ByName("a")
		if !ok {
			t.Fatalf("pool %v is not valid", tt.spec.Addresses)
		}
		if g4, g6 := p.Usable(pool.IPv4), p.Usable(pool.IPv6); g4 != tt.v4 || g6 != tt.v6 {
			t.Errorf("Usable of %v = %d, %d, want %d, %d", tt.spec.Addresses, g4, g6, tt.v4, tt.v6)
		}
	}
}

// Filling a /16 is quick because the next free address is not looked for among the
// used ones.
func TestFillLargePool(t *testing.T) {
	t.Parallel()
	s := pool.Compile([]pool.Spec{auto("a", "10.0.0.0/16")}, nil)
	l := pool.NewLedger()
	var last netip.Addr
	for range 1 << 16 {
		req := v4(nil)
		got, err := pool.Allocate(s, l, &req)
		if err != nil {
			t.Fatal(err)
		}
		last = got[0].Addr
		l.Hold(last, heldBy("u"))
	}
	if last != addr("10.0.255.255") {
		t.Errorf("last address is %s", last)
	}
	req := v4(nil)
	if _, err := pool.Allocate(s, l, &req); err == nil || err.Reason != reason.PoolExhausted {
		t.Errorf("a full pool gives %v", err)
	}
}
