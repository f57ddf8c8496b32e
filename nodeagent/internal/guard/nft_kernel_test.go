// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package guard_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nft(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func open(t *testing.T) *guard.Guard {
	t.Helper()
	table, err := guard.Open()
	must(t, err)
	g := guard.New(table)
	t.Cleanup(func() { must(t, guard.New(table).Remove(context.WithoutCancel(t.Context()))) })
	return g
}

// services makes a plan of n Services with one address, port and mark each.
func services(n int) loadbalancer.Forwarding {
	f := loadbalancer.Forwarding{InCluster: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16"), netip.MustParsePrefix("10.10.1.0/24"), netip.MustParsePrefix("fd10::/16")}}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)})
		if i%10 == 9 {
			addr = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)})
		}
		f.VIPs = append(f.VIPs, addr)
		f.Served = append(f.Served, loadbalancer.Served{
			Addr: addr, Protocol: []loadbalancer.Protocol{loadbalancer.TCP, loadbalancer.UDP, loadbalancer.SCTP}[i%3],
			Port: 80, Mark: 0x0fa00000 + uint32(i%0x4000), Masquerade: i%2 == 0,
		})
		if i%7 == 3 {
			f.Served[i].Sources = []netip.Prefix{
				netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.128/25"),
				netip.MustParsePrefix("2001:db8::/32"), netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 3)}), 32),
			}
		}
	}
	return f
}

// What the kernel has is what was applied, whatever was there before; and the second time
// nothing is to be done.
func TestNFTAppliesAndChecks(t *testing.T) {
	g := open(t)
	for _, n := range []int{30, 40, 0, 25} {
		must(t, g.Apply(t.Context(), services(n)))
		intact(t, g, true)
		deep, err := g.Same(t.Context())
		must(t, err)
		if !deep {
			t.Errorf("after applying %d Services, the kernel has something else", n)
		}
		must(t, g.Settle(t.Context()))
		intact(t, g, true)
		owned, err := g.Owned(t.Context())
		must(t, err)
		if len(owned) != n {
			t.Errorf("%d owned, want %d", len(owned), n)
		}
	}
	must(t, g.Remove(t.Context()))
	if out := nft(t, "list ruleset"); strings.TrimSpace(out) != "" {
		t.Errorf("left behind: %s", out)
	}
}

func intact(t *testing.T, g *guard.Guard, want bool) {
	t.Helper()
	got, err := g.Check(t.Context())
	must(t, err)
	if got != want {
		t.Errorf("intact: %t, want %t", got, want)
	}
}

// seen waits until Check sees that something is wrong.
func seen(t *testing.T, g *guard.Guard, what string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		ok, err := g.Check(t.Context())
		must(t, err)
		if !ok {
			return
		}
	}
	t.Errorf("nobody sees that %s changed", what)
}

// A foreign table stays as it is, and any change to ours is seen and mended.
func TestNFTRepairs(t *testing.T) {
	nft(t, "table inet other { set s { type ipv4_addr; elements = { 192.0.2.1 } }; }")
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "nft", "delete", "table", "inet", "other").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	g := open(t)
	f := services(20)
	for what, damage := range map[string]string{
		"table": "delete table inet fairlead", "rules": "flush chain inet fairlead input-guard",
		"a chain":     "flush chain inet fairlead forward; delete chain inet fairlead forward",
		"a rule more": "insert rule inet fairlead nat-prerouting accept", "ruleset": "flush ruleset",
	} {
		must(t, g.Apply(t.Context(), f))
		intact(t, g, true)
		nft(t, damage)
		seen(t, g, what)
		must(t, g.Apply(t.Context(), f))
		intact(t, g, true)
		if what != "ruleset" {
			continue
		}
		nft(t, "table inet other { set s { type ipv4_addr; elements = { 192.0.2.1 } }; }")
	}
	if got := nft(t, "list set inet other s"); !strings.Contains(got, "192.0.2.1") {
		t.Errorf("the other table has %s", got)
	}
	must(t, g.Apply(t.Context(), f))
	nft(t, "delete element inet fairlead waits4 { 172.20.0.0 . tcp . 80 }")
	same, err := g.Same(t.Context())
	must(t, err)
	if same {
		t.Error("an element that is gone is not missed")
	}
}

// A run that was killed at any moment leaves what tells the next one what was ours.
func TestNFTAdopts(t *testing.T) {
	must(t, open(t).Prepare(t.Context(), services(3)))
	former := open(t)
	expectOwned(t, former, 3)
	must(t, former.Apply(t.Context(), services(2)))
	expectOwned(t, open(t), 3)

	g := open(t)
	must(t, g.Apply(t.Context(), services(5)))
	must(t, g.Apply(t.Context(), services(1)))
	expectOwned(t, g, 5)
	expectOwned(t, open(t), 5)
	must(t, g.Settle(t.Context()))
	expectOwned(t, g, 1)
	expectOwned(t, open(t), 1)
	must(t, g.Remove(t.Context()))
	expectOwned(t, g, 0)
	there, err := g.Present(t.Context())
	must(t, err)
	if there {
		t.Error("the table is still there")
	}
}

func expectOwned(t *testing.T, g *guard.Guard, n int) {
	t.Helper()
	got, err := g.Owned(t.Context())
	must(t, err)
	want := []loadbalancer.VirtualServerKey{}
	for _, s := range services(n).Served {
		want = append(want, loadbalancer.VirtualServerKey{Addr: s.Addr, Protocol: s.Protocol, Port: s.Port})
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("owned (-want +got):\n%s", diff)
	}
}

// 10,000 Services, some with source ranges: loaded in reasonable time, checked in little,
// and a change of one is quick.
func TestNFTLoadsTenThousand(t *testing.T) {
	g := open(t)
	f := services(10_000)
	elapsed := func(what string, limit time.Duration, do func()) {
		t.Helper()
		start := time.Now()
		do()
		took := time.Since(start)
		t.Logf("%s: %s", what, took.Round(time.Millisecond))
		if took > limit {
			t.Errorf("%s took %s", what, took)
		}
	}
	elapsed("load 10,000 Services", time.Minute, func() { must(t, g.Apply(t.Context(), f)) })
	elapsed("check", 10*time.Second, func() { intact(t, g, true) })
	f.Served[17].Masquerade = !f.Served[17].Masquerade
	elapsed("change one", 10*time.Second, func() { must(t, g.Apply(t.Context(), f)) })
	elapsed("compare all", time.Minute, func() {
		same, err := g.Same(t.Context())
		must(t, err)
		if !same {
			t.Error("the kernel has something else")
		}
	})
}
