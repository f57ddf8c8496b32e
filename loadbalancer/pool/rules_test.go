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

func tcp(ports ...uint16) []pool.Port {
	var out []pool.Port
	for _, p := range ports {
		out = append(out, pool.Port{Protocol: "TCP", Number: p})
	}
	return out
}

// tenant is a Service with ports, of the UID that is its name.
func tenant(name string, ports ...uint16) pool.Tenant {
	return pool.Tenant{Service: key(name), UID: loadbalancer.ServiceUID(name), Ports: tcp(ports...)}
}

func bound(sharingKey string, tenants ...pool.Tenant) pool.Holding {
	return pool.Holding{SharingKey: sharingKey, Tenants: tenants}
}

func in(s pool.State, tenants ...pool.Tenant) pool.Holding {
	return pool.Holding{State: s, Tenants: tenants}
}

func ledgerOf(held map[string]pool.Holding) *pool.Ledger {
	l := pool.NewLedger()
	for a, h := range held {
		l.Hold(addr(a), h)
	}
	return l
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range text {
		out = append(out, addr(a))
	}
	return out
}

func held(text ...string) []pool.Assignment {
	var out []pool.Assignment
	for _, a := range text {
		out = append(out, pool.Assignment{Addr: addr(a), Pool: "a", Rule: pool.RuleAutoAssign})
	}
	return out
}

// rulesText writes assignments as "address rule".
func rulesText(got []pool.Assignment) string {
	var out []string
	for _, g := range got {
		out = append(out, fmt.Sprintf("%s %s", g.Addr, g.Rule))
	}
	return strings.Join(out, ", ")
}

type ruleTest struct {
	name     string
	pools    []pool.Spec
	ranges   []pool.ClusterRange
	held     map[string]pool.Holding
	reserved string
	ask      func(*pool.Request)
	want     string
	reason   reason.Reason
	// mentions must be in the message.
	mentions []string
}

func (tt *ruleTest) run(t *testing.T) {
	t.Parallel()
	l := ledgerOf(tt.held)
	if tt.reserved != "" {
		l.SetReserved(map[netip.Addr]string{addr(tt.reserved): `the gateway of node "n"`})
	}
	req := v4(tt.ask)
	got, err := pool.Allocate(pool.Compile(tt.pools, tt.ranges), l, &req)
	if err == nil {
		if diff := cmp.Diff(tt.want, rulesText(got)); diff != "" || tt.reason != "" {
			t.Errorf("Allocate, want reason %q (-want +got):\n%s", tt.reason, diff)
		}
		return
	}
	if err.Reason != tt.reason {
		t.Errorf("Allocate = %s %q, want %q %q", err.Reason, err.Message, tt.reason, tt.want)
	}
	for _, m := range tt.mentions {
		if !strings.Contains(err.Message, m) {
			t.Errorf("message %q does not mention %q", err.Message, m)
		}
	}
}

func TestSeveralAddresses(t *testing.T) {
	t.Parallel()
	a := []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "2001:db8::/64")}
	mine := tenant("web", 80)
	tests := []ruleTest{
		{name: "the lowest", pools: a, ask: func(r *pool.Request) { r.Count = 3 }, want: "192.0.2.0 AutoAssign, 192.0.2.1 AutoAssign, 192.0.2.2 AutoAssign"},
		{
			name: "of each family", pools: a, ask: func(r *pool.Request) { r.Count = 2; dual(r) },
			want: "192.0.2.0 AutoAssign, 192.0.2.1 AutoAssign, 2001:db8:: AutoAssign, 2001:db8::1 AutoAssign",
		},
		{
			name: "those named count", pools: a, ask: func(r *pool.Request) { r.Count, r.Addresses = 3, addrs("192.0.2.1", "192.0.2.9") },
			want: "192.0.2.1 Requested, 192.0.2.9 Requested, 192.0.2.0 AutoAssign",
		},
		{
			name: "as many as are named", pools: a, ask: func(r *pool.Request) { r.Addresses = addrs("192.0.2.7", "192.0.2.5"); dual(r) },
			want: "192.0.2.7 Requested, 192.0.2.5 Requested, 2001:db8:: AutoAssign",
		},
		{
			name: "what is held first, in its order", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("", mine), "192.0.2.4": bound("", mine)},
			ask:  func(r *pool.Request) { r.Count, r.Held = 3, held("192.0.2.9", "192.0.2.4") },
			want: "192.0.2.9 AutoAssign, 192.0.2.4 AutoAssign, 192.0.2.0 AutoAssign",
		},
		{
			name: "surplus is given up from the end", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("", mine), "192.0.2.4": bound("", mine)},
			ask: func(r *pool.Request) { r.Held = held("192.0.2.9", "192.0.2.4") }, want: "192.0.2.9 AutoAssign",
		},
		{
			name: "from the next pool when one is full", pools: []pool.Spec{auto("a", "192.0.2.1/32"), auto("b", "192.0.2.8/31")},
			ask: func(r *pool.Request) { r.Count = 2 }, want: "192.0.2.1 AutoAssign, 192.0.2.8 AutoAssign",
		},
		{name: "all or nothing", pools: []pool.Spec{auto("a", "192.0.2.1/32")}, ask: func(r *pool.Request) { r.Count = 2 }, reason: reason.PoolExhausted},
		{
			name: "PreferDualStack forgives one family that is short", pools: []pool.Spec{auto("a", "192.0.2.1/32"), auto("b", "2001:db8::/64")},
			ask:  func(r *pool.Request) { dual(r); r.AnyFamily, r.Count = true, 2 },
			want: "2001:db8:: AutoAssign, 2001:db8::1 AutoAssign",
		},
		{
			name: "PreferDualStack keeps what is held of a family that is short", pools: []pool.Spec{auto("a", "192.0.2.1/32"), auto("b", "2001:db8::/64")},
			held: map[string]pool.Holding{"192.0.2.1": bound("", mine)},
			ask:  func(r *pool.Request) { dual(r); r.AnyFamily, r.Count, r.Held = true, 2, held("192.0.2.1") },
			want: "192.0.2.1 AutoAssign, 2001:db8:: AutoAssign, 2001:db8::1 AutoAssign",
		},
		{
			name: "PreferDualStack with both short", pools: []pool.Spec{auto("a", "192.0.2.1/32")},
			held: map[string]pool.Holding{"192.0.2.1": bound("", mine)},
			ask:  func(r *pool.Request) { dual(r); r.AnyFamily, r.Count, r.Held = true, 2, held("192.0.2.1") }, reason: reason.PoolExhausted,
		},
		{
			name: "PreferDualStack waits for the family that is full", pools: []pool.Spec{auto("b", "2001:db8::1/128")},
			held: map[string]pool.Holding{"2001:db8::1": bound("", tenant("other"))}, ask: func(r *pool.Request) { dual(r); r.AnyFamily = true }, reason: reason.PoolExhausted,
		},
		{
			name: "a held address of spec.externalIPs does not count", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound(pool.ExternalKey, mine)},
			ask: func(r *pool.Request) {
				r.Held = []pool.Assignment{{Addr: addr("192.0.2.9"), Pool: "a", Rule: pool.RuleExternalIP}}
			}, want: "192.0.2.0 AutoAssign",
		},
	}
	for i := range tests {
		t.Run(tests[i].name, tests[i].run)
	}
}

func TestNamesakes(t *testing.T) {
	t.Parallel()
	a := []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "198.51.100.0/24")}
	before := pool.Tenant{Service: key("web"), UID: "before"}
	kept := map[string]pool.Holding{"192.0.2.9": in(pool.Retained, before), "192.0.2.5": in(pool.Retained, before)}
	disabled := []pool.Spec{auto("a", "192.0.2.0/24")}
	disabled[0].Disabled = true
	excluded := []pool.Spec{auto("a", "192.0.2.0/24")}
	excluded[0].Excluded = []string{"192.0.2.5/32"}
	others := []pool.Spec{auto("a", "192.0.2.0/24")}
	others[0].Allocation = &pool.Allocation{Namespaces: []string{"other"}}
	tests := []ruleTest{
		{name: "a retained address comes back, the lowest", pools: a, held: kept, want: "192.0.2.5 Retained"},
		{name: "as many as are needed", pools: a, held: kept, ask: func(r *pool.Request) { r.Count = 3 }, want: "192.0.2.5 Retained, 192.0.2.9 Retained, 192.0.2.0 AutoAssign"},
		{name: "not from another pool than that asked for", pools: a, held: kept, ask: func(r *pool.Request) { r.Pool = "b" }, want: "198.51.100.0 Pool"},
		{name: "not for a Service of another name", pools: []pool.Spec{auto("a", "192.0.2.5/32", "192.0.2.9/32")}, held: kept, ask: func(r *pool.Request) { r.Service = key("x") }, reason: reason.PoolExhausted},
		{name: "after what is held", pools: a, held: kept, ask: func(r *pool.Request) { r.Held = held("192.0.2.77") }, want: "192.0.2.77 AutoAssign"},
		{name: "from a disabled pool", pools: disabled, held: kept, want: "192.0.2.5 Retained"},
		{name: "from a pool for others", pools: others, held: kept, want: "192.0.2.5 Retained"},
		{name: "not an excluded one: people make retained claims", pools: excluded, held: kept, want: "192.0.2.9 Retained"},
		{name: "not a machine's own", pools: a, held: kept, reserved: "192.0.2.5", want: "192.0.2.9 Retained"},
		{name: "not one of no pool", pools: a, held: map[string]pool.Holding{"203.0.113.1": in(pool.Retained, before)}, want: "192.0.2.0 AutoAssign"},
		{name: "asked for by its namesake", pools: a, held: kept, ask: func(r *pool.Request) { r.Addresses = addrs("192.0.2.9") }, want: "192.0.2.9 Requested"},
		{
			name: "asked for by another", pools: a, held: kept, ask: func(r *pool.Request) { r.Service, r.Addresses = key("x"), addrs("192.0.2.9") },
			reason: reason.AddressRetained, mentions: []string{"192.0.2.9", "default/web"},
		},
		{name: "a bound address of a namesake that is gone", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("k", before)}, want: "192.0.2.9 Retained"},
		{name: "asked for", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("k", before)}, ask: func(r *pool.Request) { r.Addresses = addrs("192.0.2.9") }, want: "192.0.2.9 Requested"},
		{
			name: "not one that others share", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("k", before, tenant("x", 1))}, want: "192.0.2.0 AutoAssign",
		},
		{name: "not one that is being released", pools: a, held: map[string]pool.Holding{"192.0.2.0": in(pool.Releasing, before)}, want: "192.0.2.1 AutoAssign"},
		{name: "one's own that became retained", pools: a, held: map[string]pool.Holding{"192.0.2.9": in(pool.Retained, tenant("web"))}, ask: func(r *pool.Request) { r.Held = held("192.0.2.9") }, want: "192.0.2.9 AutoAssign"},
		{name: "retained before shown", pools: a, held: kept, ask: func(r *pool.Request) { r.Preferred = addrs("192.0.2.1") }, want: "192.0.2.5 Retained"},
		{name: "shown before free", pools: a, ask: func(r *pool.Request) { r.Preferred = addrs("192.0.2.44") }, want: "192.0.2.44 Shown"},
		{name: "shown, from a disabled pool", pools: disabled, ask: func(r *pool.Request) { r.Preferred = addrs("192.0.2.44") }, want: "192.0.2.44 Shown"},
		{name: "shown, of an excluded address", pools: append(excluded, a[1]), ask: func(r *pool.Request) { r.Preferred = addrs("192.0.2.5") }, want: "192.0.2.0 AutoAssign"},
		{name: "shown, of another pool than that asked for", pools: a, ask: func(r *pool.Request) { r.Pool, r.Preferred = "b", addrs("192.0.2.5") }, want: "198.51.100.0 Pool"},
	}
	for i := range tests {
		t.Run(tests[i].name, tests[i].run)
	}
}

func TestSharing(t *testing.T) {
	t.Parallel()
	a := []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "198.51.100.0/24")}
	other := tenant("other", 443)
	local := other
	local.Backends = "abc"
	onA := func(h pool.Holding) map[string]pool.Holding { return map[string]pool.Holding{"192.0.2.9": h} }
	ask := func(change func(*pool.Request)) func(*pool.Request) {
		return func(r *pool.Request) {
			r.Ports = tcp(80)
			if change != nil {
				change(r)
			}
		}
	}
	wants := ask(func(r *pool.Request) { r.SharingKey = "k" })
	asks := ask(func(r *pool.Request) { r.SharingKey, r.Addresses = "k", addrs("192.0.2.9") })
	disabled := []pool.Spec{auto("a", "192.0.2.0/24"), a[1]}
	disabled[0].Disabled = true
	manual := []pool.Spec{{Name: "a", Addresses: []string{"192.0.2.0/24"}}, a[1]}
	ranked := []pool.Spec{auto("a", "192.0.2.0/24"), auto("b", "198.51.100.0/24")}
	ranked[1].Allocation = &pool.Allocation{Priority: 1}
	me := func(ports ...uint16) pool.Tenant { return tenant("web", ports...) }
	tests := []ruleTest{
		{name: "joins before it takes a free one", pools: a, held: onA(bound("k", other)), ask: wants, want: "192.0.2.9 Shared"},
		{name: "not without a key", pools: a, held: onA(bound("k", other)), ask: ask(nil), want: "192.0.2.0 AutoAssign"},
		{name: "not with another key", pools: a, held: onA(bound("x", other)), ask: wants, want: "192.0.2.0 AutoAssign"},
		{name: "not on a port that is taken", pools: a, held: onA(bound("k", tenant("other", 80))), ask: wants, want: "192.0.2.0 AutoAssign"},
		{name: "the same port of another protocol", pools: a, held: onA(bound("k", pool.Tenant{Service: key("o"), UID: "o", Ports: []pool.Port{{Protocol: "UDP", Number: 80}}})), ask: wants, want: "192.0.2.9 Shared"},
		{name: "not with other backends", pools: a, held: onA(bound("k", local)), ask: wants, want: "192.0.2.0 AutoAssign"},
		{name: "with the same backends", pools: a, held: onA(bound("k", local)), ask: ask(func(r *pool.Request) { r.SharingKey, r.Backends = "k", "abc" }), want: "192.0.2.9 Shared"},
		{
			name: "the lowest that it fits on", pools: a, ask: wants, want: "192.0.2.7 Shared",
			held: map[string]pool.Holding{"192.0.2.9": bound("k", other), "192.0.2.7": bound("k", tenant("y", 443)), "192.0.2.5": bound("k", tenant("x", 80)), "198.51.100.1": bound("k", tenant("z", 443))},
		},
		{name: "the best pool first", pools: ranked, held: map[string]pool.Holding{"192.0.2.9": bound("k", other), "198.51.100.9": bound("k", tenant("y", 443))}, ask: wants, want: "198.51.100.9 Shared"},
		{name: "only in the pool asked for", pools: a, held: onA(bound("k", other)), ask: ask(func(r *pool.Request) { r.SharingKey, r.Pool = "k", "b" }), want: "198.51.100.0 Pool"},
		{name: "in the pool asked for", pools: manual, held: onA(bound("k", other)), ask: ask(func(r *pool.Request) { r.SharingKey, r.Pool = "k", "a" }), want: "192.0.2.9 Shared"},
		{name: "not in a pool that has to be asked for", pools: manual, held: onA(bound("k", other)), ask: wants, want: "198.51.100.0 AutoAssign"},
		{name: "not in a disabled pool", pools: disabled, held: onA(bound("k", other)), ask: wants, want: "198.51.100.0 AutoAssign"},
		{name: "several", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("k", other), "192.0.2.7": bound("k", tenant("y", 443))}, ask: ask(func(r *pool.Request) { r.SharingKey, r.Count = "k", 3 }), want: "192.0.2.7 Shared, 192.0.2.9 Shared, 192.0.2.0 AutoAssign"},
		{name: "not what is being released", pools: a, held: onA(pool.Holding{State: pool.Releasing, SharingKey: "k", Tenants: []pool.Tenant{other}}), ask: wants, want: "192.0.2.0 AutoAssign"},
		{name: "not what is retained for another", pools: a, held: onA(pool.Holding{State: pool.Retained, SharingKey: "k", Tenants: []pool.Tenant{other}}), ask: wants, want: "192.0.2.0 AutoAssign"},
		{name: "asked for", pools: a, held: onA(bound("k", other)), ask: asks, want: "192.0.2.9 Requested"},
		{name: "shown", pools: a, held: map[string]pool.Holding{"192.0.2.9": bound("k", other), "192.0.2.7": bound("k", tenant("y", 443))}, ask: ask(func(r *pool.Request) { r.SharingKey, r.Preferred = "k", addrs("192.0.2.9") }), want: "192.0.2.9 Shown"},
		{name: "asked for, neither with a key", pools: a, held: onA(bound("", other)), ask: ask(func(r *pool.Request) { r.Addresses = addrs("192.0.2.9") }), reason: reason.AddressInUse, mentions: []string{"192.0.2.9", "default/other"}},
		{name: "asked for, its holder without a key", pools: a, held: onA(bound("", other)), ask: asks, reason: reason.SharingKeyMismatch, mentions: []string{"default/other", "fairlead.dev/sharing-key"}},
		{name: "asked for without a key", pools: a, held: onA(bound("k", other)), ask: ask(func(r *pool.Request) { r.Addresses = addrs("192.0.2.9") }), reason: reason.SharingKeyMismatch},
		{name: "asked for with another key", pools: a, held: onA(bound("secret", other)), ask: asks, reason: reason.SharingKeyMismatch, mentions: []string{"192.0.2.9", "default/other"}},
		{
			name: "asked for with a port that is taken", pools: a, held: onA(bound("k", other, tenant("third", 80))), ask: asks,
			reason: reason.PortInUse, mentions: []string{"TCP/80", "default/third", "192.0.2.9"},
		},
		{name: "asked for with other backends", pools: a, held: onA(bound("k", local)), ask: asks, reason: reason.BackendsDiffer, mentions: []string{"default/other", "externalTrafficPolicy"}},
		{name: "asked for in a disabled pool", pools: disabled, held: onA(bound("k", other)), ask: asks, reason: reason.PoolDisabled},
		{name: "asked for and in spec.externalIPs", pools: a, held: onA(bound(pool.ExternalKey, other)), ask: asks, reason: reason.AddressInUse, mentions: []string{"spec.externalIPs"}},
		{name: "stays", pools: a, held: onA(bound("k", other, me(80))), ask: ask(func(r *pool.Request) { r.SharingKey, r.Held = "k", held("192.0.2.9") }), want: "192.0.2.9 AutoAssign"},
		{name: "leaves with another key", pools: a, held: onA(bound("k", other, me(80))), ask: ask(func(r *pool.Request) { r.SharingKey, r.Held = "x", held("192.0.2.9") }), want: "192.0.2.0 AutoAssign"},
		{name: "leaves with a port that is taken", pools: a, held: onA(bound("k", other, me(80))), ask: ask(func(r *pool.Request) { r.SharingKey, r.Held, r.Ports = "k", held("192.0.2.9"), tcp(443) }), want: "192.0.2.0 AutoAssign"},
		{name: "leaves with other backends", pools: a, held: onA(bound("k", other, me(80))), ask: ask(func(r *pool.Request) { r.SharingKey, r.Held, r.Backends = "k", held("192.0.2.9"), "x" }), want: "192.0.2.0 AutoAssign"},
		{name: "alone may change anything", pools: a, held: onA(bound("k", me(80))), ask: ask(func(r *pool.Request) { r.Held, r.Ports, r.Backends = held("192.0.2.9"), tcp(1), "x" }), want: "192.0.2.9 AutoAssign"},
		{name: "a claim that lost its key", pools: a, held: onA(bound("", other, me(80))), ask: ask(func(r *pool.Request) { r.SharingKey, r.Held = "k", held("192.0.2.9") }), want: "192.0.2.9 AutoAssign"},
		{
			name: "asked for and held, but it does not fit any more", pools: a, held: onA(bound("k", other, me(80))),
			ask: ask(func(r *pool.Request) {
				r.SharingKey, r.Held, r.Addresses, r.Ports = "k", held("192.0.2.9"), addrs("192.0.2.9"), tcp(443)
			}), reason: reason.PortInUse,
		},
	}
	for i := range tests {
		t.Run(tests[i].name, tests[i].run)
	}
}

func TestPoolLimits(t *testing.T) {
	t.Parallel()
	disabled := auto("a", "192.0.2.0/24")
	disabled.Disabled = true
	excluded := auto("a", "192.0.2.0/24")
	excluded.Excluded = []string{"192.0.2.0/30", "192.0.2.5-192.0.2.6"}
	full := auto("a", "192.0.2.0/24")
	full.Excluded = []string{"192.0.0.0/16"}
	restricted := auto("a", "192.0.2.0/24")
	restricted.Allocation = &pool.Allocation{ServiceSelectors: selector(t, "app=x")}
	b := auto("b", "198.51.100.0/24")
	node := pool.ClusterRange{Interval: interval("192.0.2.0/28"), Created: 9, Object: `node "n"`}
	mine := map[string]pool.Holding{"192.0.2.1": bound("", tenant("web"))}
	asks := func(r *pool.Request) { r.Addresses = addrs("192.0.2.1") }
	asksPool := func(r *pool.Request) { r.Pool = "a" }
	keeps := func(r *pool.Request) { r.Held = held("192.0.2.1") }
	both := func(fs ...func(*pool.Request)) func(*pool.Request) {
		return func(r *pool.Request) {
			for _, f := range fs {
				f(r)
			}
		}
	}
	tests := []ruleTest{
		{name: "disabled, not a candidate", pools: []pool.Spec{disabled, b}, want: "198.51.100.0 AutoAssign"},
		{name: "disabled, the only one", pools: []pool.Spec{disabled}, reason: reason.NoPool, mentions: []string{`"a"`, "disabled"}},
		{name: "disabled, asked for", pools: []pool.Spec{disabled, b}, ask: asksPool, reason: reason.PoolDisabled, mentions: []string{`"a"`}},
		{name: "disabled, an address asked for", pools: []pool.Spec{disabled, b}, ask: asks, reason: reason.PoolDisabled, mentions: []string{"192.0.2.1", `"a"`}},
		{name: "disabled, held", pools: []pool.Spec{disabled, b}, held: mine, ask: keeps, want: "192.0.2.1 AutoAssign"},
		{name: "disabled, held and asked for", pools: []pool.Spec{disabled, b}, held: mine, ask: both(keeps, asks, asksPool), want: "192.0.2.1 AutoAssign"},
		{name: "excluded addresses are skipped", pools: []pool.Spec{excluded}, ask: func(r *pool.Request) { r.Count = 3 }, want: "192.0.2.4 AutoAssign, 192.0.2.7 AutoAssign, 192.0.2.8 AutoAssign"},
		{name: "all excluded", pools: []pool.Spec{full}, reason: reason.PoolExhausted},
		{name: "excluded, asked for", pools: []pool.Spec{excluded}, ask: asks, reason: reason.AddressExcluded, mentions: []string{"192.0.2.1", `"a"`}},
		{name: "excluded, held", pools: []pool.Spec{excluded}, held: mine, ask: keeps, want: "192.0.2.1 AutoAssign"},
		{name: "for others, not a candidate", pools: []pool.Spec{restricted}, reason: reason.NoPool},
		{name: "for others, asked for", pools: []pool.Spec{restricted}, ask: asksPool, reason: reason.PoolNotAllowed, mentions: []string{`"a"`, "serviceAllocation"}},
		{name: "for others, an address asked for", pools: []pool.Spec{restricted}, ask: asks, reason: reason.PoolNotAllowed, mentions: []string{"192.0.2.1", `"a"`}},
		{name: "for others, held", pools: []pool.Spec{restricted, b}, held: mine, ask: keeps, want: "192.0.2.1 AutoAssign"},
		{name: "for one", pools: []pool.Spec{restricted, b}, ask: func(r *pool.Request) { r.Labels = labels.Set{"app": "x"} }, want: "192.0.2.0 ServiceAllocation"},
		{name: "asked for", pools: []pool.Spec{b}, ask: func(r *pool.Request) { r.Pool = "b" }, want: "198.51.100.0 Pool"},
		{name: "a younger pod range is not handed out", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ranges: []pool.ClusterRange{node}, want: "192.0.2.16 AutoAssign"},
		{name: "an address of it asked for", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ranges: []pool.ClusterRange{node}, ask: asks, reason: reason.AddressExcluded},
		{name: "an address of it held", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, ranges: []pool.ClusterRange{node}, held: mine, ask: keeps, want: "192.0.2.1 AutoAssign"},
		{name: "a gateway's address asked for", pools: []pool.Spec{auto("a", "192.0.2.0/24")}, reserved: "192.0.2.1", ask: asks, reason: reason.AddressReserved, mentions: []string{`the gateway of node "n"`}},
	}
	for i := range tests {
		t.Run(tests[i].name, tests[i].run)
	}
}

func interval(s string) pool.Interval {
	iv, err := pool.ParseInterval(s)
	if err != nil {
		return pool.Interval{}
	}
	return iv
}

// Messages are event texts: one that changed by itself would be a new event.
func TestMessagesTellNoOthersKey(t *testing.T) {
	t.Parallel()
	err := pool.Fits(bound("secret", tenant("other", 80)), tenant("web", 81), "mine")
	if err == nil || strings.Contains(err.Message, "secret") {
		t.Errorf("Fits = %v", err)
	}
}

func TestLongListsAreCut(t *testing.T) {
	t.Parallel()
	var pools []pool.Spec
	for i := range 300 {
		pools = append(pools, auto(fmt.Sprintf("p%03d", i), fmt.Sprintf("10.0.%d.%d/32", i/250, i%250)))
	}
	l := pool.NewLedger()
	set := pool.Compile(pools, nil)
	for range pools {
		req := v4(nil)
		got, err := pool.Allocate(set, l, &req)
		if err != nil {
			t.Fatal(err)
		}
		l.Hold(got[0].Addr, heldBy("x"))
	}
	req := v4(nil)
	_, err := pool.Allocate(set, l, &req)
	if err == nil || err.Reason != reason.PoolExhausted || !strings.Contains(err.Message, `"p000"`) || !strings.Contains(err.Message, "and others") || len(err.Message) > 300 {
		t.Errorf("Allocate = %v", err)
	}
}

func TestExternal(t *testing.T) {
	t.Parallel()
	disabled := auto("off", "203.0.113.0/24")
	disabled.Disabled = true
	excluded := auto("a", "192.0.2.0/24")
	excluded.Excluded = []string{"192.0.2.200/32"}
	excluded.Allocation = &pool.Allocation{Namespaces: []string{"nobody"}}
	set := pool.Compile([]pool.Spec{excluded, disabled}, nil)
	l := ledgerOf(map[string]pool.Holding{
		"192.0.2.1": bound("", tenant("other", 443)),
		"192.0.2.2": bound(pool.ExternalKey, tenant("other", 443)),
		"192.0.2.3": bound(pool.ExternalKey, tenant("other", 80)),
		"192.0.2.4": bound("k", tenant("web", 80), tenant("other", 443)),
		"192.0.2.5": in(pool.Retained, tenant("other")),
		"192.0.2.6": in(pool.Retained, pool.Tenant{Service: key("web"), UID: "before"}),
		"192.0.2.7": in(pool.Releasing, tenant("other")),
		"192.0.2.8": bound(pool.ExternalKey, pool.Tenant{Service: key("other"), UID: "other", Backends: "x"}),

		"192.0.2.10": bound("k", tenant("other", 443)),

		"198.51.100.2": bound(pool.ExternalKey, tenant("other", 80)),
		"198.51.100.3": in(pool.Releasing, tenant("other")),
		"198.51.100.4": bound(pool.ExternalKey, tenant("other", 443)),
	})
	l.Want(addr("198.51.100.5"), key("old"), "old")
	l.Want(addr("192.0.2.9"), key("old"), "old")
	tests := map[string]struct {
		reason reason.Reason
		inNone bool
	}{
		"192.0.2.100":  {},
		"198.51.100.1": {inNone: true},
		"198.51.100.2": {reason: reason.ExternalIPInUse},
		"198.51.100.3": {reason: reason.AddressReleasing},
		"198.51.100.4": {inNone: true},
		"198.51.100.5": {reason: reason.ExternalIPInUse},
		"192.0.2.1":    {reason: reason.ExternalIPInUse},
		"192.0.2.2":    {},
		"192.0.2.3":    {reason: reason.ExternalIPInUse},
		"192.0.2.4":    {},
		"192.0.2.5":    {reason: reason.ExternalIPInUse},
		"192.0.2.6":    {},
		"192.0.2.7":    {reason: reason.AddressReleasing},
		"192.0.2.8":    {reason: reason.BackendsDiffer},
		"192.0.2.9":    {reason: reason.ExternalIPInUse},
		"192.0.2.10":   {reason: reason.ExternalIPInUse},
		"192.0.2.200":  {reason: reason.AddressExcluded},
		"203.0.113.1":  {reason: reason.PoolDisabled},
	}
	for a, want := range tests {
		got, err := pool.AllocateExternal(set, l, tenant("web", 80), addr(a))
		var why reason.Reason
		if err != nil {
			why = err.Reason
			// No annotation lets an external IP share, so none may be the remedy.
			if !strings.Contains(err.Message, a) || strings.Contains(err.Message, "annotation") {
				t.Errorf("%s: message %q", a, err.Message)
			}
		}
		if why != want.reason {
			t.Errorf("%s: %v, want %+v", a, err, want)
		}
		from := "a"
		if want.inNone {
			from = ""
		}
		if ok := why == ""; ok != (got == pool.Assignment{Addr: addr(a), Pool: from, Rule: pool.RuleExternalIP}) {
			t.Errorf("%s: assignment %v", a, got)
		}
	}
}
