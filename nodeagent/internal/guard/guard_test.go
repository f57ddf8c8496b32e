// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package guard_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
)

var errRefused = errors.New("refused")

// failing is a fake table whose transactions fail when told to, and whose next list lacks
// something when told to.
type failing struct {
	*knftables.Fake

	fail, short bool
	reads       int
}

func (f *failing) ListElements(ctx context.Context, kind, name string) ([]*knftables.Element, error) {
	f.reads++
	return f.Fake.ListElements(ctx, kind, name)
}

func (f *failing) ListAll(ctx context.Context) (map[string][]string, error) {
	all, err := f.Fake.ListAll(ctx)
	if f.short && err == nil {
		f.short = false
		all["set"] = all["set"][1:]
	}
	return all, err
}

func (f *failing) Run(ctx context.Context, tx *knftables.Transaction) error {
	if f.fail {
		return errRefused
	}
	return f.Fake.Run(ctx, tx)
}

func newFake() *failing {
	return &failing{Fake: knftables.NewFake(knftables.InetFamily, guard.Table)}
}

// fataler is a test, or one round of a property test.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func plan() loadbalancer.Forwarding {
	return loadbalancer.Forwarding{
		VIPs: []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1")},
		Served: []loadbalancer.Served{
			{Addr: addr("192.0.2.1"), Protocol: loadbalancer.TCP, Port: 80, Mark: 0x0fa00001, Masquerade: true},
			{Addr: addr("192.0.2.1"), Protocol: loadbalancer.UDP, Port: 53, Mark: 0x0fa00002},
			{Addr: addr("192.0.2.2"), Protocol: loadbalancer.TCP, Port: 80, Foreign: true},
			{Addr: addr("198.51.100.1"), Protocol: loadbalancer.TCP, Port: 443, Foreign: true},
			{Addr: addr("198.51.100.1"), Protocol: loadbalancer.TCP, Port: 8080, Foreign: true},
			{Addr: addr("2001:db8::1"), Protocol: loadbalancer.SCTP, Port: 9, Mark: 0x0fa00003, Masquerade: true},
		},
		VirtualServers: []loadbalancer.VirtualServer{{
			VirtualServerKey: loadbalancer.VirtualServerKey{Addr: addr("198.51.100.1"), Protocol: loadbalancer.TCP, Port: 8080},
			Reals:            []loadbalancer.RealServer{{RealServerKey: loadbalancer.RealServerKey{Addr: addr("198.51.100.1"), Port: 8080}}},
		}},
		InCluster:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd10::/16")},
		LocalReals: []netip.Addr{addr("10.1.0.2")},
	}
}

// elements lists what the fake has in sets and maps, as nft would be told.
func elements(f *failing) []string {
	var out []string
	for line := range strings.Lines(f.Dump()) {
		if strings.HasPrefix(line, "add element") {
			out = append(out, strings.TrimSpace(strings.TrimPrefix(line, "add element inet fairlead ")))
		}
	}
	slices.Sort(out)
	return out
}

func TestPlanBecomesElements(t *testing.T) {
	t.Parallel()
	f := newFake()
	must(t, guard.New(f).Apply(t.Context(), plan()))
	want := []string{
		// An address with ports that are not ours is not refused, nor taken whole.
		"foreign4 { 192.0.2.2 . tcp . 80 }",
		"foreign4 { 198.51.100.1 . tcp . 443 }",
		"foreign4 { 198.51.100.1 . tcp . 8080 }",
		"local4 { 10.1.0.2 }",
		"marks4 { 192.0.2.1 . tcp . 80 : 0x0fa00001 }",
		"marks4 { 192.0.2.1 . udp . 53 : 0x0fa00002 }",
		"marks6 { 2001:db8::1 . sctp . 9 : 0x0fa00003 }",
		"masquerade-sctp6 { 2001:db8::1 . 9 }",
		"masquerade-tcp4 { 192.0.2.1 . 80 }",
		// A prefix in another one is left out.
		"pods4 { 10.0.0.0/8 }",
		"pods6 { fd10::/16 }",
		"served4 { 192.0.2.1 . tcp . 80 }",
		"served4 { 192.0.2.1 . udp . 53 }",
		"served4 { 192.0.2.2 . tcp . 80 }",
		"served4 { 198.51.100.1 . tcp . 443 }",
		"served4 { 198.51.100.1 . tcp . 8080 }",
		"served6 { 2001:db8::1 . sctp . 9 }",
		"vips4 { 192.0.2.1 }",
		"vips6 { 2001:db8::1 }",
		// 8080 of the node is its own real server: IPVS does not change the destination.
		"waits4 { 192.0.2.1 . tcp . 80 }",
		"waits4 { 192.0.2.1 . udp . 53 }",
		"waits4 { 192.0.2.2 . tcp . 80 }",
		"waits4 { 198.51.100.1 . tcp . 443 }",
		"waits6 { 2001:db8::1 . sctp . 9 }",
	}
	if got := elements(f); !slices.Equal(got, want) {
		t.Errorf("elements:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// One Service more is a transaction with its own elements and nothing else; no difference
// is no transaction.
func TestChangeOfOneServiceIsSmall(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	p := plan()
	must(t, g.Apply(t.Context(), p))
	last := f.LastTransaction
	must(t, g.Apply(t.Context(), p))
	must(t, g.Prepare(t.Context(), p))
	must(t, g.Settle(t.Context()))
	if f.LastTransaction != last {
		t.Errorf("nothing changed, yet: %s", f.LastTransaction)
	}
	p.VIPs = append(p.VIPs, addr("192.0.2.3"))
	p.Served = append(p.Served, loadbalancer.Served{Addr: addr("192.0.2.3"), Protocol: loadbalancer.TCP, Port: 80, Mark: 0x0fa00009})
	p.Served[0].Mark = 0x0fa00008
	must(t, g.Apply(t.Context(), p))
	want := `delete element inet fairlead marks4 { 192.0.2.1 . tcp . 80 }
add element inet fairlead marks4 { 192.0.2.1 . tcp . 80 : 0x0fa00008 }
add element inet fairlead marks4 { 192.0.2.3 . tcp . 80 : 0x0fa00009 }
add element inet fairlead served4 { 192.0.2.3 . tcp . 80 }
add element inet fairlead vips4 { 192.0.2.3 }
add element inet fairlead waits4 { 192.0.2.3 . tcp . 80 }
`
	if got := f.LastTransaction.String(); got != want {
		t.Errorf("transaction:\n%swant:\n%s", got, want)
	}
}

// Lists of sources are made once for all who use them, and go with Settle.
func TestSources(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	p := plan()
	p.Served[0].Sources = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.128/25")}
	p.Served[1].Sources = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	p.Served[5].Sources = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	must(t, g.Apply(t.Context(), p))
	lists := func() (names []string) {
		for name, set := range f.Table.Sets {
			if strings.HasPrefix(name, "from-") {
				names = append(names, name[len(name)-1:]+strings.Join(keys(set), " "))
			}
		}
		slices.Sort(names)
		return names
	}
	// Of the other family's ranges, nobody of this one is left.
	if got, want := lists(), []string{"4203.0.113.0/24", "6"}; !slices.Equal(got, want) {
		t.Errorf("lists %q, want %q", got, want)
	}
	if n := len(f.Table.Maps["sources4"].Elements) + len(f.Table.Maps["sources6"].Elements); n != 3 {
		t.Errorf("%d Services are limited, want 3", n)
	}
	must(t, g.Apply(t.Context(), plan()))
	if n := len(f.Table.Maps["sources4"].Elements) + len(f.Table.Maps["sources6"].Elements); n != 0 {
		t.Errorf("%d Services are limited still", n)
	}
	must(t, g.Settle(t.Context()))
	if got := lists(); len(got) != 0 {
		t.Errorf("lists %q are left", got)
	}
}

func keys(set *knftables.FakeSet) (out []string) {
	for _, e := range set.Elements {
		out = append(out, strings.Join(e.Key, " . "))
	}
	return out
}

// After an error the kernel has what it had, and the next Apply brings all of it.
func TestErrorThenWhole(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	must(t, g.Apply(t.Context(), plan()))
	before := f.Dump()
	f.fail = true
	if err := g.Apply(t.Context(), loadbalancer.Forwarding{}); !errors.Is(err, errRefused) {
		t.Fatalf("error %v", err)
	}
	if f.Dump() != before {
		t.Error("a failed transaction changed the table")
	}
	f.fail = false
	if ok, err := g.Check(t.Context()); ok || err != nil {
		t.Errorf("intact %t after an error (%v)", ok, err)
	}
	must(t, g.Apply(t.Context(), loadbalancer.Forwarding{}))
	must(t, g.Settle(t.Context()))
	if got := elements(f); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// What an Apply that failed would have served is not noted in the kernel: Prepare does it.
func TestPrepareAfterError(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	must(t, g.Apply(t.Context(), loadbalancer.Forwarding{}))
	f.fail = true
	if err := g.Apply(t.Context(), plan()); !errors.Is(err, errRefused) {
		t.Fatalf("error %v", err)
	}
	f.fail = false
	must(t, g.Prepare(t.Context(), plan()))
	owned, err := guard.New(f).Owned(t.Context())
	must(t, err)
	if len(owned) != len(plan().Served) {
		t.Errorf("the next run knows of %d, want %d", len(owned), len(plan().Served))
	}
}

// From whatever plan to whatever plan, with failures in between and a new run now and then,
// the table becomes what the plan alone would make it; and nothing served is forgotten
// before Settle.
func TestAnyHistoryEndsTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFake()
		g := guard.New(f)
		owned := make(map[loadbalancer.VirtualServerKey]bool)
		var last loadbalancer.Forwarding
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			last = drawPlan(t)
			f.fail = rapid.IntRange(0, 3).Draw(t, "fails") == 0
			if err := g.Prepare(t.Context(), last); err == nil {
				for _, s := range last.Served {
					owned[loadbalancer.VirtualServerKey{Addr: s.Addr, Protocol: s.Protocol, Port: s.Port}] = true
				}
			}
			_ = g.Apply(t.Context(), last) // may fail: that is the point
			f.fail = false
			if rapid.Bool().Draw(t, "restart") {
				g = guard.New(f)
			}
			got, err := g.Owned(t.Context())
			must(t, err)
			for key := range owned {
				if !slices.Contains(got, key) {
					t.Fatalf("%v was served and is forgotten", key)
				}
			}
		}
		must(t, g.Apply(t.Context(), last))
		must(t, g.Settle(t.Context()))
		alone := newFake()
		must(t, guard.New(alone).Apply(t.Context(), last))
		if got, want := elements(f), elements(alone); !slices.Equal(got, want) {
			t.Fatalf("elements:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if ok, err := g.Check(t.Context()); !ok || err != nil {
			t.Fatalf("not intact: %v", err)
		}
	})
}

func drawPlan(t *rapid.T) loadbalancer.Forwarding {
	p := plan()
	p.Served = slices.DeleteFunc(p.Served, func(loadbalancer.Served) bool { return rapid.Bool().Draw(t, "without") })
	for i := range p.Served {
		p.Served[i].Masquerade = rapid.Bool().Draw(t, "masquerade")
		p.Served[i].Mark = rapid.SampledFrom([]uint32{0, 0x0fa00001, 0x0fa00002}).Draw(t, "mark")
		p.Served[i].Sources = p.InCluster[:rapid.IntRange(0, 2).Draw(t, "sources")]
	}
	p.VIPs = p.VIPs[:rapid.IntRange(0, 3).Draw(t, "VIPs")]
	p.InCluster = p.InCluster[:rapid.IntRange(0, 3).Draw(t, "in cluster")]
	return p
}

func TestCheckSeesWhatIsGone(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string]func(tx *knftables.Transaction){
		"the table": func(tx *knftables.Transaction) { tx.Delete(&knftables.Table{}) },
		"a chain":   func(tx *knftables.Transaction) { tx.Delete(&knftables.Chain{Name: "forward"}) },
		"a set":     func(tx *knftables.Transaction) { tx.Delete(&knftables.Set{Name: "waits6"}) },
	} {
		f := newFake()
		g := guard.New(f)
		must(t, g.Apply(t.Context(), plan()))
		if ok, err := g.Check(t.Context()); !ok || err != nil {
			t.Errorf("intact %t (%v) at first", ok, err)
		}
		tx := f.NewTransaction()
		damage(tx)
		must(t, f.Run(t.Context(), tx))
		if ok, err := g.Check(t.Context()); ok || err != nil {
			t.Errorf("%s is gone: intact %t (%v)", what, ok, err)
		}
		reads := f.reads
		must(t, g.Apply(t.Context(), plan()))
		// Each is a run of nft, while connections wait.
		if f.reads > reads {
			t.Errorf("%s is gone: %d lists were read to put it back", what, f.reads-reads)
		}
		if ok, err := g.Check(t.Context()); !ok || err != nil {
			t.Errorf("%s was repaired: intact %t (%v)", what, ok, err)
		}
	}
}

// The kernel's lists may be short while somebody else changes nftables.
func TestShortListIsNoLoss(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	must(t, g.Apply(t.Context(), plan()))
	f.short = true
	if ok, err := g.Check(t.Context()); !ok || err != nil {
		t.Errorf("intact %t (%v)", ok, err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := guard.New(f)
	there, err := g.Present(t.Context())
	if err != nil || there {
		t.Errorf("present %t (%v) before anything", there, err)
	}
	must(t, g.Remove(t.Context()))
	must(t, g.Apply(t.Context(), plan()))
	there, err = guard.New(f).Present(t.Context())
	if err != nil || !there {
		t.Errorf("present %t (%v)", there, err)
	}
	must(t, guard.New(f).Remove(t.Context()))
	if f.Table != nil {
		t.Error("the table is still there")
	}
}
