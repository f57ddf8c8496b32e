// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package l2_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/arp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Main(m, func() error { return goleak.Find() }))
}

const (
	vip4 = "192.0.2.200"
	vip6 = "fd00:1::200"
)

type counts struct{ requests, replies, gratuitous, conflicts atomic.Int64 }

func (c *counts) Request()    { c.requests.Add(1) }
func (c *counts) Reply()      { c.replies.Add(1) }
func (c *counts) Gratuitous() { c.gratuitous.Add(1) }
func (c *counts) Conflict()   { c.conflicts.Add(1) }

// bed announces one address of each family on the links with the names in on, and follows
// the kernel as the owner loop does: by netlink events alone. The client is a namespace with
// host0, the other end of lb0's cable.
type bed struct {
	t      *testing.T
	k      *kernel.Kernel
	client *netns.Other
	arp    *l2.Announcer
	ndp    *l2.Announcer
	four   counts
	six    counts

	// busy keeps the loop from listing links, as a round that takes long does.
	busy sync.Mutex

	mu    sync.Mutex
	on    map[string]bool // guarded by mu
	links []kernel.Link   // guarded by mu
}

func newBed(t *testing.T, on ...string) *bed {
	t.Helper()
	b := &bed{t: t, on: map[string]bool{}}
	for _, name := range on {
		b.on[name] = true
	}
	var err error
	if b.k, err = kernel.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.k.Close)
	b.client = netns.NewOther(t)
	b.client.Run("ip", "link", "set", "lo", "up")
	heard := func(string, netip.Addr, kernel.MAC) {}
	b.arp = arp.New(func(l kernel.Link) (l2.Conn, error) { return b.k.OpenARP(l) }, &b.four, 0, func() {}, heard)
	b.ndp = ndp.New(func(l kernel.Link) (l2.Conn, error) { return b.k.OpenNDP(l) }, &b.six, 0, func() {}, heard)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, run := range []func(context.Context) error{
		b.arp.Run, b.ndp.Run, func(ctx context.Context) error { return b.k.Watch(ctx, notify) },
	} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				b.busy.Lock()
				b.apply()
				b.busy.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

// apply is one round of the owner loop.
func (b *bed) apply() {
	links, err := b.k.Links()
	if err != nil {
		b.t.Error(err)
		return
	}
	want := map[plan.Announcement]uint64{}
	b.mu.Lock()
	b.links = links
	for _, l := range links {
		if b.on[l.Name] {
			want[plan.Announcement{Interface: l.Name, Addr: netip.MustParseAddr(vip4)}] = 1
			want[plan.Announcement{Interface: l.Name, Addr: netip.MustParseAddr(vip6)}] = 1
		}
	}
	b.mu.Unlock()
	b.arp.Apply(links, want)
	b.ndp.Apply(links, want)
}

// cable lays one from lb0 here to host0 at the client, who has addresses.
func (b *bed) cable() {
	b.t.Helper()
	b.ip("link", "add", "lb0", "type", "veth", "peer", "name", "host0")
	b.client.Take("host0")
	b.client.Run("ip", "link", "set", "host0", "up")
	b.client.Run("ip", "addr", "add", "192.0.2.9/24", "dev", "host0")
	b.client.Run("ip", "addr", "add", "fd00:1::9/64", "dev", "host0", "nodad")
	b.ip("link", "set", "lb0", "up")
}

func (b *bed) ip(args ...string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (b *bed) await(what string, ok func() bool) {
	b.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			b.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// mac of a link that announces, empty if there is none of that name.
func (b *bed) mac(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.links {
		if l.Name == name {
			return l.MAC.String()
		}
	}
	return ""
}

// answered says who answers the client for both addresses: link addresses, in order.
func (b *bed) answered() string {
	out, _ := b.client.Try("arping", "-b", "-c", "1", "-w", "1", "-I", "host0", vip4)
	macs, seen := "4", map[string]bool{}
	for line := range strings.Lines(out) {
		_, rest, ok := strings.Cut(line, "reply from "+vip4+" [")
		if mac, _, _ := strings.Cut(strings.ToLower(rest), "]"); ok && !seen[mac] {
			seen[mac] = true
			macs += " " + mac
		}
	}
	out, _ = b.client.Try("ndisc6", "-m", "-r", "1", "-w", "500", vip6, "host0")
	macs += ", 6"
	for line := range strings.Lines(out) {
		if _, mac, ok := strings.Cut(line, "Target link-layer address: "); ok {
			macs += " " + strings.ToLower(strings.TrimSpace(mac))
		}
	}
	return macs
}

// expect waits until the link of a name answers, and checks that nobody else does.
func (b *bed) expect(when, name string) {
	b.t.Helper()
	want := func() string { return fmt.Sprintf("4 %s, 6 %s", b.mac(name), b.mac(name)) }
	got := ""
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s: %s, want %s", when, got, want())
		}
	}()
	b.await(fmt.Sprintf("%s: one answer from %s", when, name), func() bool {
		got = b.answered()
		return b.mac(name) != "" && got == want()
	})
}

// told waits until the neighbours were told of both addresses since.
func (b *bed) told(when string, four, six int64) {
	b.t.Helper()
	b.await(when+": the neighbours were told", func() bool {
		return b.four.gratuitous.Load() >= four+10 && b.six.gratuitous.Load() >= six+3
	})
}

// A link may come, lapse, change its address and its index, and be renamed; each time it
// answers again, and the neighbours are told again.
func TestLinksAreFollowed(t *testing.T) {
	b := newBed(t, "lb0", "lan0")
	b.cable()
	b.expect("it came", "lb0")
	b.told("it came", 0, 0)
	for _, step := range []struct {
		name, link string
		do         func()
	}{
		{"down and up", "lb0", func() {
			b.ip("link", "set", "lb0", "down")
			b.ip("link", "set", "lb0", "up")
		}},
		{"carrier lost and found", "lb0", func() {
			b.client.Run("ip", "link", "set", "host0", "down")
			b.client.Run("ip", "link", "set", "host0", "up")
			b.client.Run("ip", "addr", "replace", "fd00:1::9/64", "dev", "host0", "nodad")
		}},
		{"another address", "lb0", func() { b.ip("link", "set", "lb0", "address", "02:00:00:00:00:77") }},
		{"another index", "lb0", func() {
			b.ip("link", "del", "lb0")
			b.cable()
		}},
		{"another name", "lan0", func() {
			b.ip("link", "set", "lb0", "down")
			b.ip("link", "set", "lb0", "name", "lan0")
			b.ip("link", "set", "lan0", "up")
		}},
	} {
		four, six := b.four.gratuitous.Load(), b.six.gratuitous.Load()
		b.busy.Lock() // it learns of what happened when it is over
		step.do()
		b.busy.Unlock()
		b.expect(step.name, step.link)
		b.told(step.name, four, six)
	}
	b.ip("link", "del", "lan0")
	b.await("it is gone", func() bool { return b.mac("lan0") == "" })
}

// A link that becomes a port of a bridge falls silent: the bridge answers, once, with its
// own address; and the link answers again when it is none.
func TestBridgePorts(t *testing.T) {
	b := newBed(t, "lb0", "br0")
	b.cable()
	b.expect("alone", "lb0")
	b.ip("link", "add", "br0", "address", "02:00:00:00:00:42", "type", "bridge")
	defer func() { b.ip("link", "del", "lb0"); b.ip("link", "del", "br0") }()
	b.ip("link", "set", "br0", "up")
	b.ip("link", "set", "lb0", "master", "br0")
	b.expect("with a bridge", "br0")
	if got := b.mac("lb0"); got != "" {
		t.Errorf("the port announces with %s", got)
	}
	b.ip("link", "set", "lb0", "nomaster")
	b.expect("without the bridge", "lb0")
}

// A link on top of another answers beside it, each with its own address.
func TestStackedLinks(t *testing.T) {
	b := newBed(t, "mv0")
	b.cable()
	b.ip("link", "add", "link", "lb0", "name", "mv0", "type", "macvlan", "mode", "bridge")
	b.ip("link", "set", "mv0", "up")
	defer b.ip("link", "del", "lb0")
	b.expect("stacked", "mv0")
}
