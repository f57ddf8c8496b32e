// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bfd

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns"
)

// Intervals change by a Poll Sequence while the session stays Up, down to 10 ms.
func TestIntervalsChangeWhileUp(t *testing.T) {
	for name, kind := range daemonsOr("BIRD") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 10, false)
			d, _ := start(t)
			// Told at any time is what the router's own 10 ms do not bound.
			for _, ms := range []int{300, 10, 700, 50} {
				s := single(time.Duration(ms) * time.Millisecond)
				s.Multiplier = 200 // on a machine that is busy with other things
				d.Watch("four", r.addr4(), netip.Addr{}, s)
				d.Watch("six", r.addr6(), netip.Addr{}, s)
				eventually(t, fmt.Sprintf("each %d ms", ms), d, func() bool {
					for _, s := range d.States() {
						if s.Local != "Up" || s.Interval != time.Duration(ms)*time.Millisecond || s.Detection != 3*s.Interval {
							return false
						}
					}
					return true
				})
				eventually(t, fmt.Sprintf("%d ms as the router sees it", ms), d, func() bool { return seesInterval(r, ms) })
			}
		})
	}
}

// seesInterval says whether the router knows of our interval.
func seesInterval(r *router, ms int) bool {
	if f, ok := r.kind.(frr); ok {
		p := f.peer(r, r.ours4(), false)
		return p.Status == "up" && p.RemoteTransmit == ms && p.RemoteReceive == ms && p.RemoteMultiplier == 200
	}
	state, interval, timeout := bird{}.session(r, r.ours4(), fmt.Sprintf("r%d", r.n))
	return state == "Up" && interval == fmt.Sprintf("%.3f", float64(ms)/1000) && timeout == fmt.Sprintf("%.3f", float64(ms)/5)
}

// One side may wait for the other. FRR's passive mode is not here: 8.4 answers the first
// packet by going to Init without a word, and drops all that follow because they do not
// name its session, which it told nobody.
func TestPassiveSides(t *testing.T) {
	for name, kind := range daemonsOr("BIRD") {
		for _, routerWaits := range []bool{true, false} {
			if routerWaits && name == "FRR" {
				continue
			}
			t.Run(fmt.Sprintf("%s, router waits %t", name, routerWaits), func(t *testing.T) {
				r := newRouter(t, 1, kind)
				kind.start(r, 300, routerWaits)
				d, _ := start(t)
				s := single(300 * time.Millisecond)
				s.Passive = !routerWaits
				d.Watch("four", r.addr4(), netip.Addr{}, s)
				eventually(t, "up", d, isState(d, "four", "Up"))
				eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, r.ours4()) })
			})
		}
	}
}

// The router is told of an end long before it could notice.
func TestForgetIsHeard(t *testing.T) {
	for name, kind := range daemonsOr("FRR") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 300, false)
			d, _ := start(t)
			s := single(50 * time.Second)
			d.Watch("four", r.addr4(), netip.Addr{}, s)
			eventually(t, "up", d, isState(d, "four", "Up"))
			eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, r.ours4()) })
			d.Forget("four")
			eventually(t, "down as the router sees it", d, func() bool { return !kind.up(r, r.ours4()) })
			if f, ok := kind.(frr); ok {
				if p := f.peer(r, r.ours4(), false); p.RemoteDiagnostic != "administratively down" || p.Diagnostic != "neighbor signaled session down" {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}

// A router that was killed and comes back has another discriminator.
func TestRouterRestarts(t *testing.T) {
	for name, kind := range daemonsOr("FRR") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 300, false)
			d, _ := start(t)
			d.Watch("four", r.addr4(), netip.Addr{}, single(300*time.Millisecond))
			eventually(t, "up", d, isState(d, "four", "Up"))
			for _, file := range []string{"bfdd.pid", "zebra.pid", "bird.pid"} {
				r.kill(file)
			}
			eventually(t, "a port that nobody listens at", d, func() bool {
				state, falls, why := d.State("four")
				return state == "Down" && falls == 1 && why == "nothing listens on the peer's UDP port 3784"
			})
			kind.start(r, 300, false)
			eventually(t, "up again", d, isState(d, "four", "Up"))
		})
	}
}

// A router that knows this node by another address than the kernel would choose is answered
// from that one.
func TestRouterSpeaksToAnotherAddress(t *testing.T) {
	for name, kind := range daemonsOr("BIRD") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			netns.AddAddr(t, "v1", "10.9.1.2/24") // secondary
			r.second = true
			kind.start(r, 300, false)
			d, _ := start(t)
			d.Watch("four", r.addr4(), netip.Addr{}, single(300*time.Millisecond))
			eventually(t, "up", d, isState(d, "four", "Up"))
			eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, netip.MustParseAddr("10.9.1.2")) })
		})
	}
}

// A link that goes and comes takes the addresses along, and the sockets' ways.
func TestLinkGoesAndComes(t *testing.T) {
	r := newRouter(t, 1, frr{})
	r.kind.start(r, 50, false)
	d, _ := start(t)
	d.Watch("four", r.addr4(), netip.Addr{}, single(50*time.Millisecond))
	d.Watch("six", r.addr6(), netip.Addr{}, single(50*time.Millisecond))
	all := func(want string) func() bool {
		return func() bool { return isState(d, "four", want)() && isState(d, "six", want)() }
	}
	eventually(t, "up", d, all("Up"))
	r.Run("ip", "link", "set", "r1", "down")
	eventually(t, "down", d, all("Down"))
	r.Run("ip", "link", "set", "r1", "up")
	r.Run("ip", "-6", "address", "replace", "fe80::fe/64", "dev", "r1", "nodad")
	eventually(t, "up again", d, all("Up"))
}

// Expiries in a row, fifty of them in the soak: each is noticed, and the sessions recover from
// each.
func TestExpiriesInARow(t *testing.T) {
	const most = 10 * time.Second
	rounds := 5
	if wholly() {
		rounds = 50
	}
	routers := map[string]*router{}
	d, _ := start(t)
	n := 1
	for name, kind := range daemons() {
		r := newRouter(t, n, kind)
		n++
		kind.start(r, 50, false)
		d.Watch(name, r.addr4(), netip.Addr{}, single(50*time.Millisecond))
		routers[name] = r
	}
	all := func(want string) func() bool {
		return func() bool {
			for name := range routers {
				if !isState(d, name, want)() {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "up", d, all("Up"))
	before := d.States()
	var longest, sum time.Duration
	for i := range rounds {
		for _, r := range routers {
			r.cut()
		}
		eventually(t, fmt.Sprintf("down, round %d", i), d, all("Down"))
		for _, r := range routers {
			r.mend()
		}
		began := time.Now()
		eventually(t, fmt.Sprintf("up, round %d", i), d, all("Up"))
		took := time.Since(began)
		sum, longest = sum+took, max(longest, took)
		if took > most {
			t.Errorf("round %d: up after %v", i, took)
		}
	}
	t.Logf("%d expiries: up again %v after the last cut was mended, %v at most", rounds, sum/time.Duration(rounds), longest)
	for name := range routers {
		// At least: a machine that is busy may cause more.
		s, b := d.States()[name], before[name]
		if s.Falls-b.Falls < uint64(rounds) || s.Ups-b.Ups != s.Downs-b.Downs {
			t.Errorf("%s: %+v, before %+v", name, s, b)
		}
	}
}
