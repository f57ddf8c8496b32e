// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bfd

import (
	"net/netip"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// Over a restart that was told, the router sees nothing but one session.
func TestRestartUnnoticed(t *testing.T) {
	for name, kind := range daemonsOr("BIRD") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 300, false)
			up := func(d *Detector) {
				d.Watch("four", r.addr4(), netip.Addr{}, single(300*time.Millisecond))
				d.Watch("six", r.addr6(), netip.Addr{}, single(300*time.Millisecond))
				eventually(t, "up", d, func() bool { return isState(d, "four", "Up")() && isState(d, "six", "Up")() })
			}
			d, stop := start(t)
			up(d)
			eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, r.ours4()) && kind.up(r, r.ours6()) })
			local, other := d.sessions["four"].m.local, d.sessions["six"].m.local
			d.Suspend("four")
			d.Suspend("six")
			stop()
			for range 30 { // three times the detection time
				if !kind.up(r, r.ours4()) || !kind.up(r, r.ours6()) {
					t.Fatal("the router noticed")
				}
				<-time.After(100 * time.Millisecond)
			}
			d, stop = start(t)
			up(d)
			d.mu.Lock()
			resumed := d.sessions["four"].m.local == local && d.sessions["six"].m.local == other
			d.mu.Unlock()
			if !resumed {
				t.Error("began anew")
			}
			for range 15 {
				if !kind.up(r, r.ours4()) || !kind.up(r, r.ours6()) {
					t.Fatal("the router noticed the next run")
				}
				<-time.After(100 * time.Millisecond)
			}
			eventually(t, "the usual detection time", d, func() bool {
				s := d.States()["four"]
				return s.Interval == 300*time.Millisecond && s.Detection == 900*time.Millisecond
			})
			if f, ok := kind.(frr); ok {
				if p := f.peer(r, r.ours4(), false); p.RemoteMultiplier != 3 || p.RemoteTransmit != 300 {
					t.Errorf("%+v", p)
				}
			}
			stop()
		})
	}
}

// A session of this very run is never taken up: its peer is being told of its end.
func TestForgottenIsNotResumed(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portSingle)
	d.Watch("a", away, netip.Addr{}, single(300*time.Millisecond))
	p.up()
	p.say(wire.StateUp)
	before := p.self.YourDiscriminator
	d.Forget("a")
	d.Watch("a", away, netip.Addr{}, single(300*time.Millisecond))
	p.say(wire.StateUp) // it was on its way
	eventually(t, "dropped", d, func() bool { return d.States()["a"].Dropped[Discriminator] > 0 })
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sessions["a"]; s.m.local == before || s.counters.Ups != 0 {
		t.Errorf("%+v", s.state())
	}
}

// A run that is killed says nothing. The next one begins anew, or goes on, before or after
// the router has noticed.
func TestCrash(t *testing.T) {
	for name, kind := range daemonsOr("FRR") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 300, false)
			for _, pause := range []time.Duration{0, 0, 2 * time.Second} {
				d, stop := start(t)
				d.Watch("four", r.addr4(), netip.Addr{}, single(300*time.Millisecond))
				d.Watch("six", r.addr6(), netip.Addr{}, single(300*time.Millisecond))
				eventually(t, "up", d, func() bool { return isState(d, "four", "Up")() && isState(d, "six", "Up")() })
				eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, r.ours4()) && kind.up(r, r.ours6()) })
				d.mu.Lock()
				for key, s := range d.sessions {
					s.close()
					delete(d.sessions, key)
				}
				d.mu.Unlock()
				stop()
				<-time.After(pause)
			}
		})
	}
}
