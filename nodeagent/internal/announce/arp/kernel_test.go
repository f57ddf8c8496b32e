// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package arp

import (
	"context"
	"net/netip"
	"os"
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

// peer is a host at the other end of the cable.
type peer struct {
	t    *testing.T
	link kernel.Link
	conn *kernel.ARPConn
	got  chan packet
}

func newPeer(t *testing.T, k *kernel.Kernel, name string) *peer {
	t.Helper()
	p := &peer{t: t, link: find(t, k, name), got: make(chan packet, 1000)}
	var err error
	if p.conn, err = k.OpenARP(p.link); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 128)
		for {
			n, err := p.conn.ReadFrame(buf)
			if err != nil {
				return
			}
			if f, ok := parse(buf[:n]); ok {
				p.got <- f
			}
		}
	}()
	t.Cleanup(func() { _ = p.conn.Close(); <-done })
	return p
}

func find(t *testing.T, k *kernel.Kernel, name string) kernel.Link {
	t.Helper()
	links, err := k.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("link %s is not listed", name)
	return kernel.Link{}
}

// collect returns what arrives within d.
func (p *peer) collect(d time.Duration) []packet {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var out []packet
	for {
		select {
		case f := <-p.got:
			out = append(out, f)
		case <-timer.C:
			return out
		}
	}
}

// ask returns the addresses that answer for ip.
func (p *peer) ask(ip string) []kernel.MAC {
	p.t.Helper()
	f := marshal(nil, &packet{
		request: true, sender: p.link.MAC, senderIP: netip.MustParseAddr("192.0.2.9"),
		targetIP: netip.MustParseAddr(ip), frameDest: broadcast(),
	})
	if err := p.conn.WriteFrame(f, broadcast()); err != nil {
		p.t.Fatal(err)
	}
	var out []kernel.MAC
	for _, f := range p.collect(200 * time.Millisecond) {
		if !f.request && f.target == p.link.MAC && f.senderIP == netip.MustParseAddr(ip) {
			out = append(out, f.sender)
		}
	}
	return out
}

func start(t *testing.T, k *kernel.Kernel) *l2.Announcer {
	t.Helper()
	a := New(func(l kernel.Link) (l2.Conn, error) { return k.OpenARP(l) }, &counts{}, 0, func() {}, func(string, netip.Addr, kernel.MAC) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return a
}

func want(link, addr string) map[plan.Announcement]uint64 {
	return map[plan.Announcement]uint64{{Interface: link, Addr: netip.MustParseAddr(addr)}: 1}
}

// The life of an address on a real cable: the whole burst arrives, one address answers,
// for that address only; a new link address takes over; after the loss there is silence.
func TestAnnounceOnVeth(t *testing.T) {
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	netns.AddVeth(t, "lb0", "", "host0", "")
	p, own := newPeer(t, k, "host0"), find(t, k, "lb0")
	a := start(t, k)

	a.Apply([]kernel.Link{own}, want("lb0", "192.0.2.200"))
	requests, replies := 0, 0
	for _, f := range p.collect(2700 * time.Millisecond) {
		if f.sender != own.MAC || f.senderIP != netip.MustParseAddr("192.0.2.200") || f.targetIP != f.senderIP {
			t.Errorf("unexpected frame %+v", f)
		}
		if f.request {
			requests++
		} else {
			replies++
		}
	}
	if requests != 5 || replies != 5 {
		t.Errorf("the peer saw %d announcements and %d unsolicited replies, want 5 and 5", requests, replies)
	}
	if got := p.ask("192.0.2.200"); len(got) != 1 || got[0] != own.MAC {
		t.Errorf("answers from %v, want one from %s", got, own.MAC)
	}
	if got := p.ask("192.0.2.201"); len(got) != 0 {
		t.Errorf("answers for a foreign address from %v", got)
	}

	netns.SetMAC(t, "lb0", [6]byte{2, 0, 0, 0, 0, 0x77})
	changed := find(t, k, "lb0")
	a.Apply([]kernel.Link{changed}, want("lb0", "192.0.2.200"))
	p.collect(2700 * time.Millisecond)
	if got := p.ask("192.0.2.200"); len(got) != 1 || got[0] != changed.MAC {
		t.Errorf("after the change answers from %v, want one from %s", got, changed.MAC)
	}

	a.Apply([]kernel.Link{changed}, nil)
	if got := p.ask("192.0.2.200"); len(got) != 0 {
		t.Errorf("answers after the loss from %v", got)
	}
	if got := p.collect(500 * time.Millisecond); len(got) != 0 {
		t.Errorf("frames after the loss: %+v", got)
	}
}
