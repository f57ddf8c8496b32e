// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math/rand/v2"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// FuzzMachine has a peer say anything at any time, and holds the machine to what always
// must be.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := newBench(t, randomSettings(r))
		b.random = r.Float64
		for range 300 {
			step(b, r)
		}
	})
}

func randomSettings(r *rand.Rand) settings {
	return settings{
		transmit: time.Duration(10+r.IntN(2000)) * ms, receive: time.Duration(10+r.IntN(2000)) * ms,
		multiplier: uint8(1 + r.IntN(5)), passive: r.IntN(4) == 0,
	}
}

// microseconds are odd values, and usual ones.
func microseconds(r *rand.Rand) uint32 {
	return []uint32{0, 1, 10000, 300000, 1000000, 1 << 31, 1<<32 - 1, r.Uint32()}[r.IntN(8)]
}

func step(b *bench, r *rand.Rand) {
	b.t.Helper()
	var out output
	before, sent, silent := b.state, b.sent, b.silent()
	interval, jitter, falls := b.interval(), b.jitter, b.falls
	asked := false
	switch r.IntN(10) {
	case 0:
		b.configure(randomSettings(r))
	case 1, 2, 3, 4, 5:
		h := wire.BFDHeader{
			Version: 1, State: wire.StateType(r.IntN(4)), Diagnostic: wire.DiagnosticType(r.IntN(32)),
			Poll: r.IntN(3) == 0, DetectTimeMultiplier: uint8(1 + r.IntN(255)), MyDiscriminator: 1 + r.Uint32N(9),
			DesiredMinTxInterval: microseconds(r), RequiredMinRxInterval: microseconds(r),
		}
		h.Final = !h.Poll && r.IntN(3) == 0
		asked = h.Poll
		out = b.hear(h)
		if b.remote != h.MyDiscriminator {
			b.t.Fatalf("does not follow the peer's discriminator")
		}
		if asked && (!out.send || !out.packet.Final) {
			b.t.Fatal("does not answer P")
		}
	default:
		if at, ok := b.next(); ok && r.IntN(2) == 0 {
			if at.After(b.now) {
				b.now = at
			}
		} else {
			b.after(time.Duration(r.IntN(3000)) * ms)
		}
		due := b.due(b.now)
		out = b.tick(b.now)
		periodic := out.send && !out.changed
		if periodic && silent && !due {
			b.t.Fatal("speaks while it must be silent")
		}
		// Sooner than 75 % of the interval is too often, later than now is too late.
		if least := time.Duration(float64(interval) * jitter); periodic && !due && !sent.IsZero() && b.now.Sub(sent) < least {
			b.t.Fatalf("sends after %v, the interval is %v", b.now.Sub(sent), interval)
		}
		if at, ok := b.next(); ok && !at.After(b.now) {
			b.t.Fatal("has still something to do")
		}
		if due && (b.state != wire.StateDown || b.remote != 0) {
			b.t.Fatalf("in %v after silence", b.state)
		}
	}
	check(b, out, before, falls)
}

func check(b *bench, out output, before wire.StateType, falls uint64) {
	b.t.Helper()
	if out.changed != (b.state != before) {
		b.t.Fatalf("from %v to %v: changed is %t", before, b.state, out.changed)
	}
	if fell := before == wire.StateUp && b.state == wire.StateDown && b.remoteState != wire.StateAdminDown; fell != (b.falls == falls+1) || !fell && b.falls != falls {
		b.t.Fatalf("from %v to %v: %d falls after %d", before, b.state, b.falls, falls)
	}
	if b.state == wire.StateUp && b.remote == 0 || b.polling && b.remote == 0 || b.again && !b.polling {
		b.t.Fatalf("in %v, discriminator %d, polls %t, again %t", b.state, b.remote, b.polling, b.again)
	}
	if b.state != wire.StateUp && (b.desiredTx < slow || b.usedTx < slow) {
		b.t.Fatalf("in %v, each %v", b.state, b.usedTx)
	}
	if b.state != wire.StateUp && (b.usedTx != b.desiredTx || b.usedRx != b.requiredRx) || !b.polling && (b.usedTx != b.desiredTx || b.usedRx != b.requiredRx) {
		b.t.Fatalf("in %v, polls %t: tells %v, %v, uses %v, %v", b.state, b.polling, b.desiredTx, b.requiredRx, b.usedTx, b.usedRx)
	}
	if b.usedTx > b.desiredTx || b.usedRx < b.requiredRx {
		b.t.Fatalf("tells %v, %v and uses %v, %v", b.desiredTx, b.requiredRx, b.usedTx, b.usedRx)
	}
	if b.jitter < 0.75 || b.jitter > 1 {
		b.t.Fatalf("jitter %v", b.jitter)
	}
	if p := out.packet; out.send && (p.Poll && p.Final || p.MyDiscriminator != ours || p.YourDiscriminator != b.remote || p.State != b.state || p.Version != 1) {
		b.t.Fatalf("sends %+v", p)
	}
}

// flight is a packet on its way.
type flight struct {
	at time.Time
	to int
	h  wire.BFDHeader
}

// world is two machines with a way between them that may lose packets.
type world struct {
	sides [2]*machine
	way   []flight
	now   time.Time
	loss  float64
	r     *rand.Rand
}

func newWorld(seed uint64, a, b settings) *world {
	r := rand.New(rand.NewPCG(seed, 2))
	return &world{r: r, now: epoch, sides: [2]*machine{newMachine(1, a, r.Float64), newMachine(2, b, r.Float64)}}
}

func (w *world) did(side int, out output) {
	if out.send && w.r.Float64() >= w.loss {
		w.way = append(w.way, flight{at: w.now.Add(time.Duration(w.r.IntN(2000)) * time.Microsecond), to: 1 - side, h: out.packet})
	}
}

// run lets time pass until a moment, or until ok.
func (w *world) run(t *testing.T, until time.Time, ok func() bool) {
	t.Helper()
	for range 1_000_000 {
		if ok() {
			return
		}
		next := until
		for _, m := range w.sides {
			if at, has := m.next(); has && at.Before(next) {
				next = at
			}
		}
		for _, f := range w.way {
			if f.at.Before(next) {
				next = f.at
			}
		}
		if next.After(w.now) {
			w.now = next
		}
		if !w.now.Before(until) {
			return
		}
		var later, due []flight
		for _, f := range w.way {
			if f.at.After(w.now) {
				later = append(later, f)
			} else {
				due = append(due, f)
			}
		}
		w.way = later
		for _, f := range due {
			if f.h.YourDiscriminator == 0 || f.h.YourDiscriminator == w.sides[f.to].local {
				w.did(f.to, w.sides[f.to].receive(w.now, &f.h))
			}
		}
		for i, m := range w.sides {
			w.did(i, m.tick(w.now))
		}
	}
	t.Fatal("never comes to rest")
}

func (w *world) both(s wire.StateType) func() bool {
	return func() bool { return w.sides[0].state == s && w.sides[1].state == s }
}

// Two machines come up, stay up without losses, notice silence within the detection time, and
// come up again; over a way that loses a third of the packets they still come up.
func TestTwoMachines(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		a, b := randomSettings(r), randomSettings(r)
		a.multiplier, b.multiplier = max(a.multiplier, 2), max(b.multiplier, 2)
		if a.passive && b.passive {
			b.passive = false
		}
		w := newWorld(seed, a, b)
		w.loss = 0.33
		if w.run(t, epoch.Add(10*time.Minute), w.both(wire.StateUp)); !w.both(wire.StateUp)() {
			t.Fatalf("seed %d: %v and %v after ten minutes with losses", seed, w.sides[0].state, w.sides[1].state)
		}
		w.loss = 0
		never := func() bool { return false }
		w.run(t, w.now.Add(time.Minute), never) // what was lost has its effects
		calm := w.now
		falls := [2]uint64{w.sides[0].falls, w.sides[1].falls}
		w.run(t, w.now.Add(time.Minute), never)
		for i, m := range w.sides {
			if m.state != wire.StateUp || m.falls != falls[i] || m.polling {
				t.Fatalf("seed %d side %d: %v, %d falls, polls %t a minute after %v", seed, i, m.state, m.falls-falls[i], m.polling, calm)
			}
			if o := w.sides[1-i]; m.interval() != max(m.settings.transmit, o.settings.receive) {
				t.Fatalf("seed %d: each %v; %v and %v are wanted", seed, m.interval(), m.settings.transmit, o.settings.receive)
			}
		}
		cut := w.now
		longest := max(w.sides[0].detection(), w.sides[1].detection()) + 2*ms
		w.loss, w.way = 1, nil
		w.run(t, w.now.Add(time.Hour), w.both(wire.StateDown))
		if took := w.now.Sub(cut); took > longest {
			t.Fatalf("seed %d: down after %v, the detection time is %v", seed, took, longest)
		}
		w.loss = 0
		if w.run(t, w.now.Add(time.Minute), w.both(wire.StateUp)); !w.both(wire.StateUp)() {
			t.Fatalf("seed %d: not up again", seed)
		}
	}
}
