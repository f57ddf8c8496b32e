// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// RFC 5880 §6.5: P is answered with F at once, in any state, and an answer never asks.
func TestPollIsAnswered(t *testing.T) {
	t.Parallel()
	for _, before := range []wire.StateType{wire.StateDown, wire.StateInit, wire.StateUp} {
		b := newBench(t, quick())
		switch before {
		case wire.StateInit:
			b.hear(from(wire.StateDown))
		case wire.StateUp:
			b.up() // and polls itself
		case wire.StateDown, wire.StateAdminDown:
		}
		planned, _ := b.transmitAt()
		h := from(wire.StateUp)
		h.Poll = true
		out := b.hear(h)
		if !out.send || !out.packet.Final || out.packet.Poll || out.packet.State != b.state {
			t.Errorf("in %v: %+v", before, out)
		}
		if at, _ := b.transmitAt(); at.After(planned) {
			t.Errorf("in %v: the answer puts off the next packet from %v to %v", before, planned, at)
		}
	}
	b := newBench(t, quick())
	b.up()
	h := from(wire.StateUp)
	h.Poll = true
	b.hear(h)
	if p, _ := b.wait(); !p.Poll || p.Final {
		t.Errorf("the own poll got lost: %+v", p)
	}
}

// RFC 5880 §6.8.3: coming Up changes the interval, so it polls until it is answered.
func TestPollsOnceUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.hear(from(wire.StateDown))
	out := b.hear(from(wire.StateInit))
	if !out.packet.Poll || out.packet.State != wire.StateUp || out.packet.DesiredMinTxInterval != 300000 {
		t.Errorf("%+v", out.packet)
	}
	b.hear(from(wire.StateUp))
	if p, at := b.wait(); !p.Poll || at != 300*ms {
		t.Errorf("P %t after %v", p.Poll, at)
	}
	h := from(wire.StateUp)
	h.Final = true
	b.hear(h)
	if p, _ := b.wait(); p.Poll {
		t.Error("goes on after F")
	}
}

// RFC 5880 §6.8.3: sending less often waits for the peer to know; sending more often does not.
func TestTransmitChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	b.wait()
	s := quick()
	s.transmit = 500 * ms
	b.configure(s)
	if p, at := b.wait(); !p.Poll || p.DesiredMinTxInterval != 500000 || at != 300*ms {
		t.Errorf("slower: P %t, %d µs after %v", p.Poll, p.DesiredMinTxInterval, at)
	}
	h := from(wire.StateUp)
	h.Final = true
	b.hear(h)
	if p, at := b.wait(); p.Poll || at != 500*ms {
		t.Errorf("slower, agreed: P %t after %v", p.Poll, at)
	}
	s.transmit = 150 * ms
	b.configure(s)
	b.hear(from(wire.StateUp))
	if p, at := b.wait(); !p.Poll || at != 150*ms {
		t.Errorf("faster: P %t after %v", p.Poll, at)
	}
	b.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
}

// RFC 5880 §6.8.3: waiting for less time waits for the peer to know; waiting longer does not.
func TestReceiveChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	s := quick()
	s.receive = 50 * ms
	b.configure(s)
	if got := b.detection(); got != 4*time.Second {
		t.Errorf("less: %v before the peer knows", got)
	}
	h := from(wire.StateUp)
	h.Final = true
	b.hear(h)
	if got := b.detection(); got != 2*time.Second {
		t.Errorf("less: %v, agreed; the peer sends each 100 ms", got)
	}
	s.receive = 400 * ms
	b.configure(s)
	if got := b.detection(); got != 8*time.Second {
		t.Errorf("more: %v", got)
	}
}

// What changes during a poll takes another one: the answer may be to what was before.
func TestChangeDuringPoll(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	s := quick()
	s.transmit = 500 * ms
	b.configure(s)
	b.wait()
	s.transmit = 900 * ms
	b.configure(s)
	h := from(wire.StateUp)
	h.Final = true
	b.hear(h)
	if b.interval() != 300*ms || !b.polling {
		t.Errorf("an answer to the first poll: each %v, polls %t", b.interval(), b.polling)
	}
	b.hear(h)
	if b.interval() != 900*ms || b.polling {
		t.Errorf("an answer to the second: each %v, polls %t", b.interval(), b.polling)
	}
	b.hear(h) // F without P means nothing
	b.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
}

func TestSameSettingsDoNotPoll(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	s := quick()
	s.multiplier = 9 // RFC 5880 §6.8.12: needs no poll
	b.configure(s)
	if p, _ := b.wait(); p.Poll || p.DetectTimeMultiplier != 9 {
		t.Errorf("%+v", p)
	}
}

// RFC 5880 §6.8.16: the end is told three times, and nothing is heard any more.
func TestEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.settled()
	b.end()
	b.end()
	began := b.now
	for i := range 3 {
		p, at := b.wait()
		if p.State != wire.StateAdminDown || p.Diagnostic != wire.DiagnosticAdministrativelyDown || p.Poll {
			t.Errorf("%d: %+v", i, p)
		}
		if i == 0 && at != 0 {
			t.Errorf("the first after %v", at)
		}
		h := from(wire.StateUp)
		h.Poll = true
		if out := b.hear(h); out.send || out.changed {
			t.Errorf("heard %+v", out)
		}
	}
	if took := b.now.Sub(began); took > time.Second/2 {
		t.Errorf("took %v", took)
	}
	if _, ok := b.next(); ok || !b.ended || b.tick(b.now.Add(time.Hour)).send {
		t.Error("goes on")
	}
	// A peer that was never heard is told nothing.
	quiet := newBench(t, quick())
	quiet.end()
	if _, ok := quiet.next(); ok || !quiet.ended {
		t.Error("speaks to nobody")
	}
}

// A restart that is meant to go unnoticed: the peer is asked to wait, and the next run goes on
// under the discriminator that the peer knows.
func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	for _, transmit := range []time.Duration{10 * ms, 300 * ms, 5 * time.Second, 60 * time.Second} {
		s := quick()
		s.transmit = transmit
		b := newBench(t, s)
		b.settled()
		b.suspend()
		began := b.now
		for i := range 3 {
			p, _ := b.wait()
			asked := time.Duration(p.DetectTimeMultiplier) * max(micros(p.DesiredMinTxInterval), 100*ms)
			if p.State != wire.StateUp || p.Diagnostic != 0 || asked < absence || asked > max(absence+transmit, 3*transmit)+100*ms {
				t.Errorf("%v, %d: asks to wait for %v: %+v", transmit, i, asked, p)
			}
		}
		if took := b.now.Sub(began); took > time.Second/2 || !b.ended {
			t.Errorf("%v: took %v, ended %t", transmit, took, b.ended)
		}
	}
	next := newBench(t, quick())
	next.local = 0x33
	h := from(wire.StateUp)
	if !next.resumes(&h) {
		t.Fatal("does not know what the peer still has")
	}
	out := next.resume(next.now, &h)
	next.is(wire.StateUp, wire.DiagnosticNoDiagnostic)
	if p := out.packet; !out.changed || !out.send || p.MyDiscriminator != ours || p.YourDiscriminator != theirs || p.State != wire.StateUp || !p.Poll || p.DetectTimeMultiplier != 3 {
		t.Errorf("%+v", out)
	}
	if next.after(4 * time.Second); !next.tick(next.now).changed {
		t.Error("it does not watch the peer")
	}
}

// Only a session that nobody has begun can be taken up.
func TestNothingToResume(t *testing.T) {
	t.Parallel()
	up, down, init := from(wire.StateUp), from(wire.StateDown), from(wire.StateInit)
	unnamed := up
	unnamed.YourDiscriminator = 0
	b := newBench(t, quick())
	for _, h := range []wire.BFDHeader{down, init, unnamed} {
		if b.resumes(&h) {
			t.Errorf("takes up %+v", h)
		}
	}
	b.wait()
	if b.resumes(&up) {
		t.Error("takes up a session after it told its peer of another")
	}
	b = newBench(t, quick())
	b.settings.passive = true
	b.hear(down)
	if b.resumes(&up) {
		t.Error("takes up a session after it heard of another")
	}
	b = newBench(t, quick())
	b.hear(down)
	b.suspend() // was not Up
	if p, _ := b.wait(); p.State != wire.StateAdminDown {
		t.Errorf("%+v", p)
	}
}

// What a new session may take up it must hear first.
func TestListensBeforeItSpeaks(t *testing.T) {
	t.Parallel()
	b := newBench(t, quick())
	b.quiet = b.now.Add(400 * ms)
	if out := b.tick(b.now.Add(399 * ms)); out.send {
		t.Error("speaks at once")
	}
	if _, at := b.wait(); at != 400*ms {
		t.Errorf("speaks after %v", at)
	}
	b = newBench(t, quick())
	b.quiet = b.now.Add(400 * ms)
	if out := b.hear(from(wire.StateDown)); !out.send {
		t.Error("does not answer")
	}
}
