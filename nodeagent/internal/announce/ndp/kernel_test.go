// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package ndp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Main(m, func() error { return goleak.Find() }))
}

type counts struct{ requests, replies, gratuitous, conflicts atomic.Int64 }

func (c *counts) Request()    { c.requests.Add(1) }
func (c *counts) Reply()      { c.replies.Add(1) }
func (c *counts) Gratuitous() { c.gratuitous.Add(1) }
func (c *counts) Conflict()   { c.conflicts.Add(1) }

const vip = "fd00:1::200"

// bed is an announcer on lb0 and a client in a namespace of its own at the other end of
// the cable, with fd00:1::9.
type bed struct {
	t      *testing.T
	k      *kernel.Kernel
	a      *l2.Announcer
	count  counts
	client *netns.Other

	mu    sync.Mutex
	heard map[netip.Addr]kernel.MAC // guarded by mu
}

func (b *bed) hears(_ string, addr netip.Addr, from kernel.MAC) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard[addr] = from
}

// heardOf says who was last heard to have an address, and forgets it.
func (b *bed) heardOf(addr netip.Addr) kernel.MAC {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.heard[addr]
	delete(b.heard, addr)
	return out
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, heard: make(map[netip.Addr]kernel.MAC)}
	var err error
	if b.k, err = kernel.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.k.Close)
	netns.AddVeth(t, "lb0", "fd00:1::1/64", "host0", "")
	b.client = netns.NewOther(t)
	b.client.Take("host0")
	b.client.Run("ip", "link", "set", "lo", "up")
	b.client.Run("ip", "link", "set", "host0", "up")
	b.client.Run("ip", "addr", "add", "fd00:1::9/64", "dev", "host0", "nodad")
	b.await("both ends are up", 5*time.Second, func() bool {
		out := b.client.Run("ip", "-6", "addr", "show", "dev", "host0")
		return !strings.Contains(out, "tentative") && strings.Contains(out, "fe80") && strings.Contains(out, "state UP")
	})
	b.a = New(func(l kernel.Link) (l2.Conn, error) { return b.k.OpenNDP(l) }, &b.count, 0, func() {}, b.hears)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

func (b *bed) await(what string, within time.Duration, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			b.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func (b *bed) link() kernel.Link {
	b.t.Helper()
	links, err := b.k.Links()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "lb0" {
			return l
		}
	}
	b.t.Fatal("lb0 is not listed")
	return kernel.Link{}
}

func (b *bed) announce(addrs ...string) kernel.Link {
	b.t.Helper()
	want := map[plan.Announcement]uint64{}
	for _, a := range addrs {
		want[plan.Announcement{Interface: "lb0", Addr: netip.MustParseAddr(a)}] = 1
	}
	l := b.link()
	b.a.Apply([]kernel.Link{l}, want)
	return l
}

// knows says whether the client's neighbour table has the address with a link address.
func (b *bed) knows(mac kernel.MAC) bool {
	return strings.Contains(b.client.Run("ip", "-6", "neigh", "show", vip), mac.String())
}

// ndisc6 asks by a program of its own; ping through the client's kernel, so that packets
// really arrive at the host that answers; both stop when the address is lost.
func TestClientsFindTheAddress(t *testing.T) {
	b := newBed(t)
	netns.AddVeth(t, "vip0", vip+"/128", "vip1", "") // the address is no link's that faces the client
	if out, err := b.client.Try("ndisc6", "-1", "-w", "300", vip, "host0"); err == nil {
		t.Fatalf("somebody answers before:\n%s", out)
	}
	own := b.announce(vip)
	b.await("announced", 5*time.Second, func() bool { return b.count.gratuitous.Load() > 0 })
	out := b.client.Run("ndisc6", "-1", "-w", "1000", vip, "host0")
	if !strings.Contains(strings.ToLower(out), own.MAC.String()) {
		t.Errorf("ndisc6 found no %s:\n%s", own.MAC, out)
	}
	b.await("the host itself has the address for good", 5*time.Second, func() bool {
		_, err := b.client.Try("ping", "-6", "-c", "1", "-W", "1", vip)
		return err == nil
	})
	b.client.Run("ip", "-6", "neigh", "flush", "dev", "host0")
	b.client.Run("ping", "-6", "-c", "3", "-i", "0.2", "-W", "2", vip)
	if out, err := b.client.Try("ndisc6", "-1", "-w", "300", "fd00:1::201", "host0"); err == nil {
		t.Errorf("a foreign address is answered:\n%s", out)
	}
	b.announce()
	b.client.Run("ip", "-6", "neigh", "flush", "dev", "host0")
	if out, err := b.client.Try("ndisc6", "-1", "-w", "300", vip, "host0"); err == nil {
		t.Errorf("the lost address is answered:\n%s", out)
	}
	if n := b.count.conflicts.Load(); n != 0 {
		t.Errorf("%d conflicts", n)
	}
}

// A neighbour that knows the old owner goes to the new one without asking.
func TestTakeOverMovesNeighbours(t *testing.T) {
	b := newBed(t)
	old := func(mac string) {
		b.client.Run("ip", "-6", "neigh", "replace", vip, "dev", "host0", "lladdr", mac, "nud", "reachable")
	}
	old("02:00:00:00:00:99")
	own := b.announce(vip)
	b.await("the neighbour's entry moved", 5*time.Second, func() bool { return b.knows(own.MAC) })
	if n := b.count.requests.Load(); n != 0 {
		t.Errorf("it asked %d times", n)
	}
	b.await("all three advertisements are sent", 5*time.Second, func() bool { return b.count.gratuitous.Load() == 3 })

	// The same when the link gets another address, by going down and up: then it has no
	// IPv6 for a moment, and the neighbour may have noticed the loss of the carrier and
	// forgotten everybody.
	netns.SetMAC(t, "lb0", [6]byte{2, 0, 0, 0, 0, 0x77})
	b.await("the link has IPv6 again", 10*time.Second, func() bool { return b.link().IPv6 })
	b.await("the neighbour has its own address again", 10*time.Second, func() bool {
		out := b.client.Run("ip", "-6", "addr", "show", "dev", "host0")
		return !strings.Contains(out, "tentative") && strings.Contains(out, "state UP")
	})
	old(own.MAC.String())
	changed := b.announce(vip)
	b.await("the neighbour's entry moved again", 5*time.Second, func() bool { return b.knows(changed.MAC) })
}

// A host that wants the address for itself learns that it is taken (RFC 4862 §5.4).
func TestDuplicateAddressDetectionFails(t *testing.T) {
	b := newBed(t)
	b.announce(vip)
	b.await("announced", 5*time.Second, func() bool { return b.count.gratuitous.Load() > 0 })
	b.client.Run("ip", "addr", "add", vip+"/64", "dev", "host0")
	b.await("the host gave up", 5*time.Second, func() bool {
		return strings.Contains(b.client.Run("ip", "-6", "addr", "show", "dev", "host0"), "dadfailed")
	})
}

// A host that took the address nevertheless is noticed and named.
func TestForeignClaimIsNoticed(t *testing.T) {
	b := newBed(t)
	own := b.announce(vip)
	b.a.SetNodes(map[kernel.MAC]struct{}{own.MAC: {}})
	b.await("announced", 5*time.Second, func() bool { return b.count.gratuitous.Load() > 0 })
	b.client.Run("ip", "addr", "add", vip+"/64", "dev", "host0", "nodad")
	b.client.Run("ip", "-6", "neigh", "flush", "dev", "host0")
	b.client.Try("ping", "-6", "-c", "1", "-W", "1", "-I", vip, "fd00:1::1") //nolint:errcheck // it asks with that address, answered or not
	b.await("a conflict is counted", 5*time.Second, func() bool { return b.count.conflicts.Load() > 0 })
	got := b.a.Conflicts(time.Now())
	if len(got) != 1 || !strings.Contains(b.client.Run("ip", "link", "show", "dev", "host0"), got[0].MAC.String()) {
		t.Errorf("conflicts %v, want one with host0", got)
	}
}

// More groups than one socket holds, and no membership is left behind.
func TestManyGroups(t *testing.T) {
	b := newBed(t)
	var addrs []string
	for i := range 3000 {
		addrs = append(addrs, fmt.Sprintf("fd00:1::%x:%x", 1+i/1000, 0x1000+i))
	}
	groups := func() int {
		raw, err := os.ReadFile("/proc/self/net/igmp6")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); f[1] == "lb0" {
				n++
			}
		}
		return n
	}
	before := groups()
	b.announce(addrs...)
	b.await("in all groups", 20*time.Second, func() bool { return groups() >= before+3000 })
	b.client.Run("ndisc6", "-1", "-w", "1000", addrs[2999], "host0")
	b.announce()
	b.await("out of them", 20*time.Second, func() bool { return groups() <= before+1 })
}

// Where IPv6 is off nothing can be announced, and that is said.
func TestLinkWithoutIPv6(t *testing.T) {
	b := newBed(t)
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/lb0/disable_ipv6", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.await("the link failed", 5*time.Second, func() bool { b.announce(vip); return b.a.Failed("lb0") })
	if n := b.count.gratuitous.Load(); n != 0 {
		t.Errorf("%d advertisements", n)
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/lb0/disable_ipv6", []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.await("the link works", 5*time.Second, func() bool {
		b.announce(vip)
		return !b.a.Failed("lb0") && b.count.gratuitous.Load() > 0
	})
}

// A plain Linux neighbour answers whatever form the question has, and nobody answers for
// an address of nobody.
func TestAsk(t *testing.T) {
	b := newBed(t)
	own, target := netip.MustParseAddr("fd00:1::1"), netip.MustParseAddr("fd00:1::9")
	l := b.announce()
	words := strings.Fields(b.client.Run("ip", "-o", "link", "show", "dev", "host0"))
	mac, err := net.ParseMAC(words[slices.Index(words, "link/ether")+1])
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]struct {
		source netip.Addr
		to     kernel.MAC
	}{
		"multicast": {own, kernel.MAC{}}, "unicast": {own, kernel.MAC(mac)},
		"probe": {netip.IPv6Unspecified(), kernel.MAC{}}, "probe without a source": {netip.Addr{}, kernel.MAC{}},
	} {
		b.heardOf(target)
		b.await(name+": an answer", 10*time.Second, func() bool {
			b.a.Ask("lb0", target, q.source, q.to)
			return b.heardOf(target) == kernel.MAC(mac)
		})
	}
	nobody := netip.MustParseAddr("fd00:1::10")
	for range 5 {
		b.a.Ask("lb0", nobody, own, kernel.MAC{})
		b.a.Ask("lb0", nobody, netip.IPv6Unspecified(), kernel.MAC{})
	}
	b.await("the neighbour answered once more", 5*time.Second, func() bool {
		b.a.Ask("lb0", target, own, kernel.MAC{})
		return b.heardOf(target) == kernel.MAC(mac)
	})
	if got := b.heardOf(nobody); got != (kernel.MAC{}) {
		t.Errorf("%s answered for an address of nobody", got)
	}
	if got := b.heardOf(own); got == l.MAC {
		t.Error("the announcer heard its own questions")
	}
}
