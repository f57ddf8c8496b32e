// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

const (
	ms     = time.Millisecond
	ours   = 0x11
	theirs = 0x22
)

var epoch = time.Unix(1000, 0)

// quick is what the sessions of these tests are configured with.
func quick() settings { return settings{transmit: 300 * ms, receive: 200 * ms, multiplier: 3} }

// steady has no jitter.
func steady() float64 { return 0 }

// from is a packet of a peer that asks for 100 ms either way and is gone after 20 times 200 ms.
func from(state wire.StateType) wire.BFDHeader {
	return wire.BFDHeader{
		Version: 1, State: state, DetectTimeMultiplier: 20, MyDiscriminator: theirs, YourDiscriminator: ours,
		DesiredMinTxInterval: 100000, RequiredMinRxInterval: 100000,
	}
}

// bench is a machine with its clock.
type bench struct {
	*machine
	t   *testing.T
	now time.Time
}

func newBench(t *testing.T, s settings) *bench {
	t.Helper()
	return &bench{machine: newMachine(ours, s, steady), t: t, now: epoch}
}

func (b *bench) after(d time.Duration) *bench {
	b.now = b.now.Add(d)
	return b
}

func (b *bench) hear(h wire.BFDHeader) output { return b.receive(b.now, &h) }

func (b *bench) up() {
	b.t.Helper()
	b.hear(from(wire.StateDown))
	b.hear(from(wire.StateUp))
	b.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
}

// settled is Up, with its first Poll Sequence over.
func (b *bench) settled() {
	b.t.Helper()
	b.up()
	h := from(wire.StateUp)
	h.Final = true
	b.hear(h)
	if b.polling {
		b.t.Fatal("still polls")
	}
}

func (b *bench) is(state wire.StateType, diag wire.DiagnosticType) {
	b.t.Helper()
	if b.state != state || b.machine.diag != diag {
		b.t.Fatalf("%v, %v; want %v, %v", b.state, b.machine.diag, state, diag)
	}
}

// wait runs it until something is sent, and returns after how long.
func (b *bench) wait() (wire.BFDHeader, time.Duration) {
	b.t.Helper()
	began := b.now
	for range 10 {
		at, ok := b.next()
		if !ok {
			break
		}
		if at.After(b.now) {
			b.now = at
		}
		if out := b.tick(b.now); out.send {
			return out.packet, b.now.Sub(began)
		}
	}
	b.t.Fatal("it sends nothing")
	return wire.BFDHeader{}, 0
}

// RFC 5880 §6.2 and §6.8.6: every state by every state that is received.
func TestStateMachine(t *testing.T) {
	t.Parallel()
	const (
		down, ini, up, admin = wire.StateDown, wire.StateInit, wire.StateUp, wire.StateAdminDown
		none, told           = wire.DiagnosticNoDiagnostic, wire.DiagnosticNeighborSignaledSessionDown
	)
	tests := []struct {
		state, received, want wire.StateType
		diag                  wire.DiagnosticType
		falls                 uint64
	}{
		{down, admin, down, none, 0},
		{down, down, ini, none, 0},
		{down, ini, up, none, 0},
		{down, up, down, none, 0},
		{ini, admin, down, told, 0},
		{ini, down, ini, none, 0},
		{ini, ini, up, none, 0},
		{ini, up, up, none, 0},
		{up, admin, down, told, 0},
		{up, down, down, told, 1},
		{up, ini, up, none, 0},
		{up, up, up, none, 0},
	}
	for _, tt := range tests {
		b := newBench(t, quick())
		switch tt.state {
		case ini:
			b.hear(from(down))
		case up:
			b.up()
		case down, admin:
		}
		out := b.hear(from(tt.received))
		if b.state != tt.want || b.machine.diag != tt.diag || b.falls != tt.falls {
			t.Errorf("%v received %v: %v, %v, %d falls; want %v, %v, %d", tt.state, tt.received, b.state, b.machine.diag, b.falls, tt.want, tt.diag, tt.falls)
		}
		if changed := tt.state != tt.want; out.changed != changed || out.send != changed {
			t.Errorf("%v received %v: changed %t, sends %t; want both %t", tt.state, tt.received, out.changed, out.send, changed)
		}
		if out.send && (out.packet.State != tt.want || out.packet.YourDiscriminator != theirs || out.packet.MyDiscriminator != ours) {
			t.Errorf("%v received %v: sends %+v", tt.state, tt.received, out.packet)
		}
	}
}

// RFC 5880 §6.8.3: not more often than once a second while not Up, whatever is configured.
func TestSlowWhileNotUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	first, at := b.wait()
	want := wire.BFDHeader{
		Version: 1, State: wire.StateDown, DetectTimeMultiplier: 3, MyDiscriminator: ours,
		DesiredMinTxInterval: 1000000, RequiredMinRxInterval: 200000,
	}
	if diff := cmp.Diff(want, first); diff != "" || at != 0 {
		t.Errorf("after %v (-want +got):\n%s", at, diff)
	}
	if _, at := b.wait(); at != time.Second {
		t.Errorf("the next after %v", at)
	}
	b.hear(from(wire.StateDown))
	if h, at := b.wait(); at != time.Second || h.State != wire.StateInit {
		t.Errorf("in Init: %v after %v", h.State, at)
	}
	b.hear(from(wire.StateUp))
	if h, at := b.wait(); at != 300*ms || h.DesiredMinTxInterval != 300000 {
		t.Errorf("once Up: %d µs after %v", h.DesiredMinTxInterval, at)
	}
	if newBench(t, settings{transmit: 7 * time.Second, receive: ms, multiplier: 3}).desiredTx != 7*time.Second {
		t.Error("slower than a second is slower")
	}
}

// RFC 5880 §6.8.2: as often as both sides agree to.
func TestIntervalIsTheSlowerSides(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	b.wait()
	if _, at := b.wait(); at != 300*ms {
		t.Errorf("every %v; this side wants 300 ms, the peer 100 ms", at)
	}
	h := from(wire.StateUp)
	h.RequiredMinRxInterval, h.DetectTimeMultiplier = 450000, 200
	b.hear(h)
	b.wait()
	if _, at := b.wait(); at != 450*ms {
		t.Errorf("every %v; the peer wants 450 ms", at)
	}
	// §6.8.3: a shorter interval counts at once, from the packet before.
	b.after(150 * ms)
	h.RequiredMinRxInterval = 100000
	b.hear(h)
	if _, at := b.wait(); at != 150*ms {
		t.Errorf("after %v more; 300 ms are over in 150", at)
	}
	h.RequiredMinRxInterval = 0 // §6.8.7: no periodic packets
	b.hear(h)
	if at, ok := b.transmitAt(); ok {
		t.Errorf("a peer that wants no packets gets one at %v", at)
	}
}

// RFC 5880 §6.8.7: 75 to 100 % of the interval, 75 to 90 % with a multiplier of 1.
func TestJitter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		multiplier uint8
		low, high  time.Duration
	}{{3, 750 * ms, time.Second}, {1, 750 * ms, 900 * ms}} {
		s := quick()
		s.multiplier = tt.multiplier
		b := newBench(t, s)
		b.random = rand.New(rand.NewPCG(1, 2)).Float64
		least, most := time.Hour, time.Duration(0)
		b.wait()
		for range 5000 {
			_, at := b.wait()
			least, most = min(least, at), max(most, at)
		}
		if least < tt.low || most > tt.high {
			t.Errorf("multiplier %d: %v to %v", tt.multiplier, least, most)
		}
		if spread := (tt.high - tt.low) / 50; least > tt.low+spread || most < tt.high-spread {
			t.Errorf("multiplier %d: %v to %v is not all that is allowed", tt.multiplier, least, most)
		}
	}
}

// RFC 5880 §6.8.4: the peer's multiplier by the slower of what it sends and what is asked.
func TestDetectionTime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tx         uint32
		multiplier uint8
		want       time.Duration
	}{{100000, 3, 600 * ms}, {1000000, 5, 5 * time.Second}, {4294967295, 255, 255 * 4294967295 * time.Microsecond}} {
		b := newBench(t, quick())
		b.settled()
		h := from(wire.StateUp)
		h.DesiredMinTxInterval, h.DetectTimeMultiplier = tt.tx, tt.multiplier
		b.hear(h)
		if b.after(tt.want - 1); b.due(b.now) {
			t.Errorf("%+v: gone too early", tt)
		}
		b.tick(b.now)
		b.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
		b.after(1)
		out := b.tick(b.now)
		b.is(wire.StateDown, wire.DiagnosticControlDetectionTimeExpired)
		if !out.changed || !out.send || out.packet.State != wire.StateDown || out.packet.YourDiscriminator != 0 || b.falls != 1 {
			t.Errorf("%+v: %+v, %d falls", tt, out, b.falls)
		}
		if out.packet.Poll || out.packet.DesiredMinTxInterval != 1000000 {
			t.Errorf("%+v: a peer that is gone is asked, or promised speed: %+v", tt, out.packet)
		}
		b.hear(from(wire.StateDown)) // and back
		b.hear(from(wire.StateInit))
		b.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
	}
}

// RFC 5880 §6.8.1: a peer that is silent in Down has no discriminator any more, and in Init
// the session goes Down without having fallen.
func TestSilenceBeforeUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.hear(from(wire.StateDown))
	b.after(4 * time.Second)
	b.tick(b.now)
	b.is(wire.StateDown, wire.DiagnosticControlDetectionTimeExpired)
	if b.remote != 0 || b.falls != 0 {
		t.Errorf("discriminator %d, %d falls", b.remote, b.falls)
	}
	b.hear(from(wire.StateAdminDown))
	b.after(4 * time.Second)
	b.tick(b.now)
	if b.remote != 0 || b.state != wire.StateDown {
		t.Errorf("discriminator %d in %v", b.remote, b.state)
	}
	if h, at := b.wait(); at > time.Second || h.YourDiscriminator != 0 {
		t.Errorf("after %v %+v", at, h)
	}
}

// RFC 5880 §6.1: the passive side does not begin, and falls silent again with its peer.
func TestPassive(t *testing.T) {
	t.Parallel()
	s := quick()
	s.passive = true
	b := newBench(t, s)
	if at, ok := b.next(); ok {
		t.Errorf("speaks first, at %v", at)
	}
	if out := b.hear(from(wire.StateDown)); !out.send || out.packet.State != wire.StateInit {
		t.Errorf("does not answer: %+v", out)
	}
	b.hear(from(wire.StateUp))
	b.after(4 * time.Second)
	if out := b.tick(b.now); out.send || !out.changed {
		t.Errorf("to a peer that is gone: %+v", out)
	}
	if at, ok := b.next(); ok {
		t.Errorf("speaks again, at %v", at)
	}
}
