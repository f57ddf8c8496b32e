// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package nodeagent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status/statustest"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Main(m, func() error { return goleak.Find() }))
}

// wired is the part of an agent that speaks on the wire, on lb0 of this namespace.
func wired(t *testing.T, k *kernel.Kernel) *Agent {
	t.Helper()
	a, err := newAgent(Defaults(env("NODE_NAME", "a")), "v0", deps{
		claims: statustest.NewClaims(), agents: statustest.NewNodeAgents(), registry: prometheus.NewRegistry(),
		openARP:    func(l kernel.Link) (l2.Conn, error) { return k.OpenARP(l) },
		openNDP:    func(l kernel.Link) (l2.Conn, error) { return k.OpenNDP(l) },
		newObjects: func(func()) (objects, error) { return &simNode{s: &sim{claims: statustest.NewClaims()}}, nil },
		speaker:    newSimSpeaker(&simRouter{}), bfd: noBFD{}, finder: noBFD{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{a.arp.Run, a.ndp.Run, a.probes.Run, a.owners.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return a
}

// A real host that has an address is found, whatever it says about its other interfaces,
// and named; what nobody has is free; and what the host gives up is free soon after.
func TestProbesFindAHost(t *testing.T) {
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	netns.AddVeth(t, "lb0", "192.0.2.1/24", "host0", "")
	netns.AddAddr(t, "lb0", "fd00:1::1/64")
	host := netns.NewOther(t)
	host.Take("host0")
	host.Run("sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1")
	host.Run("ip", "link", "set", "host0", "up")
	host.Run("ip", "addr", "add", "192.0.2.50/24", "dev", "host0")
	host.Run("ip", "addr", "add", "fd00:1::50/64", "dev", "host0", "nodad")
	words := strings.Fields(host.Run("ip", "-o", "link", "show", "dev", "host0"))
	mac, err := net.ParseMAC(words[slices.Index(words, "link/ether")+1])
	if err != nil {
		t.Fatal(err)
	}
	a := wired(t, k)
	await := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("not within 20 s: %s", what)
			}
		}
	}
	var links []kernel.Link
	await("the link is up and has IPv6", func() bool {
		if links, err = k.Links(); err != nil {
			t.Fatal(err)
		}
		return len(links) == 1 && links[0].IPv6
	})
	a.arp.Apply(links, nil)
	a.ndp.Apply(links, nil)
	a.probes.setNodes(map[kernel.MAC]struct{}{links[0].MAC: {}})
	on := func(addr string) plan.Announcement {
		return plan.Announcement{Interface: "lb0", Addr: netip.MustParseAddr(addr)}
	}
	// The link may need a moment: what is asked before it takes frames finds nobody.
	await("the host answers", func() bool {
		_, err := host.Try("ping", "-c", "1", "-W", "1", "192.0.2.1")
		_, err6 := host.Try("ping", "-6", "-c", "1", "-W", "1", "fd00:1::1")
		return err == nil && err6 == nil
	})
	want := map[string]verdict{
		"192.0.2.50": verdictDuplicate, "fd00:1::50": verdictDuplicate, "192.0.2.51": verdictFree, "fd00:1::51": verdictFree,
	}
	probing := make(map[plan.Announcement]struct{})
	for addr := range want {
		probing[on(addr)] = struct{}{}
	}
	a.arp.Probe(probing)
	a.ndp.Probe(probing)
	for addr, v := range want {
		await("the verdict on "+addr, func() bool { return a.probes.verdict(time.Now(), on(addr)) != verdictPending })
		if got := a.probes.verdict(time.Now(), on(addr)); got != v {
			t.Errorf("%s: verdict %d, want %d", addr, got, v)
		}
	}
	for _, d := range a.probes.duplicates() {
		if d.mac != kernel.MAC(mac) {
			t.Errorf("%s is said to be at %s, want %s", d.Addr, d.mac, mac)
		}
	}
	host.Run("ip", "addr", "flush", "dev", "host0")
	await("both are free", func() bool {
		return a.probes.verdict(time.Now(), on("192.0.2.50")) == verdictFree && a.probes.verdict(time.Now(), on("fd00:1::50")) == verdictFree
	})
}
