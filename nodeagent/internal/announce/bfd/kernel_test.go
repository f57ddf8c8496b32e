// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bfd

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
	"go.uber.org/goleak"
	"golang.org/x/net/ipv4"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Main(m, func() error {
		if err := goleak.Find(); err != nil {
			return fmt.Errorf("goroutines are left: %w", err)
		}
		return nil
	}))
}

// limit is far more than anything here takes.
const limit = 30 * time.Second

// single is a session on a link.
func single(interval time.Duration) loadbalancer.BFDSession {
	return loadbalancer.BFDSession{Profile: "p", Receive: interval, Transmit: interval, Multiplier: 3, MinTTL: 255}
}

// start runs a detector until the end of the test, or until stop.
func start(t *testing.T) (d *Detector, stop func()) {
	t.Helper()
	d = New(Options{})
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // it ends in the cleanup, later than t.Context
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return d, stop
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, d *Detector, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s; %+v", limit, what, d.States())
		}
	}
}

func isState(d *Detector, key, want string) func() bool {
	return func() bool {
		got, _, _ := d.State(key)
		return got == want
	}
}

// double is a peer made of sockets. The port that it is spoken to at is the detector's own,
// so it hears as a raw socket does.
type double struct {
	t    *testing.T
	port int
	out  *net.UDPConn
	in   *ipv4.RawConn
	self wire.BFDHeader
}

// heard is a packet that came to a double.
type heard struct {
	wire.BFDHeader
	ttl      int
	from, to uint16
}

// newDouble makes one at 127.0.0.2 that speaks to 127.0.0.1.
func newDouble(t *testing.T, port int) *double {
	t.Helper()
	pc, err := net.ListenPacket("ip4:udp", "127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ipv4.NewRawConn(pc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	p := &double{t: t, port: port, in: in, self: wire.BFDHeader{
		Version: 1, State: wire.StateDown, DetectTimeMultiplier: 3, MyDiscriminator: 77, DesiredMinTxInterval: 1000000, RequiredMinRxInterval: 50000,
	}}
	p.dial("127.0.0.2", port)
	return p
}

// dial has it speak from an address.
func (p *double) dial(from string, port int) {
	p.t.Helper()
	out, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)),
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(home, uint16(port))))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { out.Close() })
	p.out = out
	p.ttl(255)
}

func (p *double) ttl(n int) {
	p.t.Helper()
	if err := ipv4.NewConn(p.out).SetTTL(n); err != nil {
		p.t.Fatal(err)
	}
}

func (p *double) say(state wire.StateType) {
	p.self.State = state
	b, err := p.self.MarshalBinary()
	if err != nil {
		p.t.Error(err)
		return
	}
	if _, err := p.out.Write(b); err != nil {
		p.t.Error(err)
	}
}

// hear waits for the next packet to its port.
func (p *double) hear() heard {
	p.t.Helper()
	if err := p.in.SetReadDeadline(time.Now().Add(limit)); err != nil {
		p.t.Fatal(err)
	}
	for {
		var buf [128]byte
		ip, b, _, err := p.in.ReadFrom(buf[:])
		if err != nil {
			p.t.Fatal(err)
		}
		h := heard{ttl: ip.TTL, from: binary.BigEndian.Uint16(b), to: binary.BigEndian.Uint16(b[2:])}
		if int(h.to) != p.port {
			continue // the farewell of another session
		}
		if err := h.UnmarshalBinary(b[8:]); err != nil {
			p.t.Fatal(err)
		}
		return h
	}
}

// await waits for a packet that says state.
func (p *double) await(state wire.StateType) heard {
	p.t.Helper()
	for range 1000 {
		if h := p.hear(); h.State == state {
			return h
		}
	}
	p.t.Fatalf("1000 packets, none says %s", state)
	return heard{}
}

// up brings the session up.
func (p *double) up() {
	p.t.Helper()
	p.self.YourDiscriminator = p.await(wire.StateDown).MyDiscriminator
	p.say(wire.StateInit)
	p.await(wire.StateUp)
	p.say(wire.StateUp)
}

var (
	home = netip.MustParseAddr("127.0.0.1")
	away = netip.MustParseAddr("127.0.0.2")
)

// A process that was stalled for longer than the detection time finds the peer's packets in
// the socket, and must not hold it for gone, whichever of its goroutines runs first. Here the
// one that reads does not run at all.
func TestStallDoesNotKillThePeer(t *testing.T) {
	d := New(Options{})
	p := newDouble(t, portSingle)
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	l, err := listen(t.Context(), kind{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	d.listeners[l.kind] = l
	s := d.sessions["a"]
	t.Cleanup(s.close)
	now := time.Now()
	d.round(t.Context(), now)
	h := from(wire.StateInit)
	h.YourDiscriminator, h.DesiredMinTxInterval, h.DetectTimeMultiplier = 0, 20000, 3
	p.self = h
	h.State = wire.StateDown
	s.m.receive(now, &h)
	p.self.YourDiscriminator = s.m.local
	for range 3 {
		p.say(wire.StateUp)
		now = now.Add(time.Hour)
		d.round(t.Context(), now)
		if state, falls, why := d.State("a"); state != "Up" || falls != 0 {
			t.Fatalf("%s after %d falls: %s", state, falls, why)
		}
	}
	d.round(t.Context(), now.Add(59*time.Millisecond))
	if state, _, _ := d.State("a"); state != "Up" {
		t.Errorf("%s before the time is over", state)
	}
	d.round(t.Context(), now.Add(60*time.Millisecond))
	if state, falls, _ := d.State("a"); state != "Down" || falls != 1 {
		t.Errorf("%s after %d falls, and nothing lies in the socket", state, falls)
	}
}
