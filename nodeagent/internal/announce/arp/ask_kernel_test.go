// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package arp

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

type claim struct {
	link string
	addr netip.Addr
	from kernel.MAC
}

// A plain Linux neighbour answers whatever form the question has, also one that keeps
// silent about addresses of its other interfaces, and nobody answers for what it lacks.
func TestAsk(t *testing.T) {
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	netns.AddVeth(t, "lb0", "192.0.2.1/24", "host0", "")
	other := netns.NewOther(t)
	other.Take("host0")
	other.Run("ip", "link", "set", "lo", "up")
	other.Run("ip", "link", "set", "host0", "up")
	other.Run("ip", "addr", "add", "192.0.2.9/24", "dev", "host0")
	other.Run("ip", "addr", "add", "192.0.2.77/32", "dev", "lo")
	mac := macOf(t, other, "host0")

	heard := make(chan claim, 1000)
	a := New(func(l kernel.Link) (l2.Conn, error) { return k.OpenARP(l) }, &counts{}, 0, func() {},
		func(link string, addr netip.Addr, from kernel.MAC) { heard <- claim{link, addr, from} })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	own, target := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	if a.Ask("lb0", target, own, kernel.MAC{}) {
		t.Error("a question went out on a link that is not open")
	}
	link := await(t, k, "lb0")
	a.Apply([]kernel.Link{link}, nil)
	answered := func(target, source netip.Addr, to kernel.MAC) bool {
		for range 20 { // the connection opens, and veth gets its carrier, in their own time
			a.Ask("lb0", target, source, to)
			timer := time.NewTimer(250 * time.Millisecond)
			select {
			case c := <-heard:
				timer.Stop()
				if c == (claim{"lb0", target, mac}) {
					return true
				}
				t.Errorf("heard %v, want %s at %s", c, target, mac)
			case <-timer.C:
			}
			if target != netip.MustParseAddr("192.0.2.9") {
				return false
			}
		}
		return false
	}
	for _, ignore := range []string{"0", "1"} {
		other.Run("sysctl", "-w", "net.ipv4.conf.all.arp_ignore="+ignore)
		for name, q := range map[string]struct {
			source netip.Addr
			to     kernel.MAC
		}{
			"broadcast": {own, kernel.MAC{}}, "unicast": {own, mac},
			"probe": {netip.IPv4Unspecified(), kernel.MAC{}}, "unicast probe": {netip.Addr{}, mac},
		} {
			if !answered(target, q.source, q.to) {
				t.Errorf("arp_ignore=%s: no answer to a %s question", ignore, name)
			}
		}
		if answered(netip.MustParseAddr("192.0.2.10"), own, kernel.MAC{}) {
			t.Errorf("arp_ignore=%s: somebody answered for an address of nobody", ignore)
		}
		if got, want := answered(netip.MustParseAddr("192.0.2.77"), own, kernel.MAC{}), ignore == "0"; got != want {
			t.Errorf("arp_ignore=%s: an address on loopback is answered for: %t", ignore, got)
		}
	}
	if a.Ask("lb0", netip.MustParseAddr("fd00::1"), own, kernel.MAC{}) || a.Ask("lb1", target, own, kernel.MAC{}) {
		t.Error("a question of another family, or on another link, went out")
	}
}

func await(t *testing.T, k *kernel.Kernel, name string) kernel.Link {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 250 {
		links, err := k.Links()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Name == name {
				return l
			}
		}
		<-tick.C
	}
	t.Fatalf("link %s is not listed", name)
	return kernel.Link{}
}

func macOf(t *testing.T, other *netns.Other, name string) kernel.MAC {
	t.Helper()
	words := strings.Fields(other.Run("ip", "-o", "link", "show", "dev", name))
	mac, err := net.ParseMAC(words[slices.Index(words, "link/ether")+1])
	if err != nil {
		t.Fatal(err)
	}
	return kernel.MAC(mac)
}
