// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package l2_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/arp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// quiet counts nothing.
type quiet struct{}

func (quiet) Request()    {}
func (quiet) Reply()      {}
func (quiet) Gratuitous() {}
func (quiet) Conflict()   {}

// tape is a link on which one frame arrives as often as it is asked for.
type tape struct {
	frames  chan []byte
	done    chan struct{}
	replies atomic.Int64
	closed  chan struct{}
	seen    int
}

func newTape() *tape {
	return &tape{frames: make(chan []byte, 1), done: make(chan struct{}), closed: make(chan struct{})}
}

func (c *tape) ReadFrame(b []byte) (int, error) {
	if c.seen > 0 {
		c.done <- struct{}{}
	}
	c.seen++
	select {
	case f := <-c.frames:
		return copy(b, f), nil
	case <-c.closed:
		return 0, context.Canceled
	}
}

func (c *tape) WriteFrame([]byte, kernel.MAC) error { c.replies.Add(1); return nil }
func (c *tape) Listen([]netip.Addr) error           { return nil }
func (c *tape) Close() error                        { close(c.closed); return nil }

// play lets a frame arrive and waits until it was dealt with.
func (c *tape) play(f []byte) {
	c.frames <- f
	<-c.done
}

// player announces n addresses of a protocol on a tape, quietly.
func player(tb testing.TB, six bool, n int) *tape {
	tb.Helper()
	c := newTape()
	opened := make(chan struct{})
	open := func(kernel.Link) (l2.Conn, error) { defer close(opened); return c, nil }
	heard := func(string, netip.Addr, kernel.MAC) {}
	a := arp.New(open, quiet{}, 0, func() {}, heard)
	if six {
		a = ndp.New(open, quiet{}, 0, func() {}, heard)
	}
	link := kernel.Link{Name: "eth0", Index: 2, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}, IPv6: true}
	// The others are on another link, so that nobody has to be told of them.
	want := map[plan.Announcement]uint64{{Interface: "eth0", Addr: announced(six)}: 1}
	for i := range n - 1 {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		if six {
			addr = netip.AddrFrom16([16]byte{0xfd, 1, 14: byte(i >> 8), 15: byte(i)})
		}
		want[plan.Announcement{Interface: "eth1", Addr: addr}] = 1
	}
	a.SetNodes(map[kernel.MAC]struct{}{link.MAC: {}})
	ctx, cancel := context.WithCancel(tb.Context())
	stopped := make(chan error)
	go func() { stopped <- a.Run(ctx) }()
	a.Apply([]kernel.Link{link}, want)
	<-opened
	tb.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			tb.Error(err)
		}
	})
	return c
}

func announced(six bool) netip.Addr {
	if six {
		return netip.MustParseAddr("fd00::c8")
	}
	return netip.MustParseAddr("192.0.2.200")
}

// question is a frame by which a client asks for an address.
func question(tb testing.TB, addr netip.Addr) []byte {
	tb.Helper()
	peer := kernel.MAC{2, 0, 0, 0, 0, 9}
	asked := make(chan []byte, 1)
	c := &scribe{tape: newTape(), wrote: asked}
	opened := make(chan struct{})
	open := func(kernel.Link) (l2.Conn, error) { defer close(opened); return c, nil }
	heard := func(string, netip.Addr, kernel.MAC) {}
	a, source := arp.New(open, quiet{}, 0, func() {}, heard), netip.MustParseAddr("192.0.2.9")
	if addr.Is6() {
		a, source = ndp.New(open, quiet{}, 0, func() {}, heard), netip.MustParseAddr("fd00::9")
	}
	ctx, cancel := context.WithCancel(tb.Context())
	stopped := make(chan error)
	go func() { stopped <- a.Run(ctx) }()
	a.Apply([]kernel.Link{{Name: "eth0", Index: 2, MAC: peer, IPv6: true}}, nil)
	<-opened
	for !a.Ask("eth0", addr, source, kernel.MAC{}) {
		runtime.Gosched()
	}
	f := <-asked
	cancel()
	if err := <-stopped; err != nil {
		tb.Error(err)
	}
	return f
}

// scribe keeps the first frame that is sent.
type scribe struct {
	*tape
	wrote chan []byte
}

func (s *scribe) WriteFrame(b []byte, _ kernel.MAC) error {
	select {
	case s.wrote <- append([]byte{}, b...):
	default:
	}
	return nil
}

func family(six bool) string {
	if six {
		return "NDP"
	}
	return "ARP"
}

// BenchmarkReply is the time from a request to its answer, without the kernel's part and
// with that of two channel operations, by the number of addresses.
func BenchmarkReply(b *testing.B) {
	for _, six := range []bool{false, true} {
		for _, n := range []int{1, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", family(six), n), func(b *testing.B) {
				c := player(b, six, n)
				f := question(b, announced(six))
				b.ReportAllocs()
				for b.Loop() {
					c.play(f)
				}
				if c.replies.Load() < int64(b.N) {
					b.Errorf("%d answers to %d requests", c.replies.Load(), b.N)
				}
			})
		}
	}
}

// BenchmarkForeign is the same for requests that are for others.
func BenchmarkForeign(b *testing.B) {
	for _, six := range []bool{false, true} {
		b.Run(family(six), func(b *testing.B) {
			c := player(b, six, 10000)
			f := question(b, announced(six).Next())
			b.ReportAllocs()
			for b.Loop() {
				c.play(f)
			}
		})
	}
}

// Neither a frame that is for others nor one that is answered costs memory, however many
// addresses are announced.
func TestFramesDoNotAllocate(t *testing.T) {
	for _, six := range []bool{false, true} {
		c := player(t, six, 10000)
		ours, foreign := question(t, announced(six)), question(t, announced(six).Next())
		// The announcer tells the neighbours of its address meanwhile.
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
		for name, f := range map[string][]byte{"a request": ours, "a request for others": foreign, "junk": make([]byte, 60)} {
			if n := testing.AllocsPerRun(1000, func() { c.play(f) }); n > 0 {
				t.Errorf("%s: %s costs %v allocations", family(six), name, n)
			}
		}
	}
}
