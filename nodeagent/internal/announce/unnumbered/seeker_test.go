// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package unnumbered

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
)

// play is a seeker with a clock of its own and routers that advertise themselves.
type play struct {
	t     *testing.T
	s     *seeker
	now   time.Time
	start time.Time
	// alive routers advertise themselves each period, and when they are asked, with a lifetime.
	alive map[string]time.Duration
	// advertised and solicited are when we did.
	advertised, solicited []time.Duration
}

const ourselves = "fe80::99"

func newPlay(t *testing.T) *play {
	t.Helper()
	start := time.Unix(1_000_000, 0)
	return &play{t: t, s: newSeeker("eth1", netip.MustParseAddr(ourselves+"%eth1"), func() float64 { return 0.5 }, start), now: start, start: start, alive: make(map[string]time.Duration)}
}

func (p *play) hear(from string) {
	p.s.hear(p.now, ndp.RouterMessage{Advertisement: true, From: netip.MustParseAddr(from), Lifetime: p.alive[from]})
}

// run lets time pass, in steps as the seeker asks for them.
func (p *play) run(d time.Duration) {
	p.t.Helper()
	end := p.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 10_000 {
			p.t.Fatal("the seeker does not rest")
		}
		advertise, solicit := p.s.tick(p.now)
		if advertise {
			p.advertised = append(p.advertised, p.now.Sub(p.start))
		}
		if solicit {
			p.solicited = append(p.solicited, p.now.Sub(p.start))
			for from := range p.alive {
				p.now = p.now.Add(time.Millisecond)
				p.hear(from)
			}
			continue
		}
		at := p.s.due()
		if at.After(end) {
			p.now = end
			return
		}
		p.now = at
	}
}

func (p *play) want(router, why string) {
	p.t.Helper()
	f := p.s.found()
	got := ""
	if f.router.IsValid() {
		got = f.router.String()
	}
	if router != "" {
		router += "%eth1"
	}
	if got != router || !strings.Contains(f.why, why) || (f.why == "") != (router != "") || f.own.String() != ourselves+"%eth1" {
		p.t.Errorf("after %s: router %q, why %q, of %+v; want %q, %q", p.now.Sub(p.start), got, f.why, f, router, why)
	}
}

func TestARouterIsFoundAndLost(t *testing.T) {
	p := newPlay(t)
	p.run(time.Second)
	p.want("", "no router advertises itself on eth1")
	p.alive["fe80::1"] = 30 * time.Second
	p.run(4 * time.Second)
	p.want("fe80::1", "")
	p.run(10 * time.Minute)
	p.want("fe80::1", "")
	clear(p.alive)
	p.run(31 * time.Second)
	p.want("", "router fe80::1 on eth1 is gone: it has not advertised itself for 30s")
	p.alive["fe80::1"] = 30 * time.Second
	p.run(17 * time.Second)
	p.want("fe80::1", "")
}

// Routers of data centres often are nobody's default router. They are there all the same.
func TestARouterWithLifetimeZero(t *testing.T) {
	p := newPlay(t)
	p.alive["fe80::1"] = 0
	p.run(10 * time.Minute)
	p.want("fe80::1", "")
	clear(p.alive)
	p.run(keepZero)
	p.want("", "it has not advertised itself for 1m30s")
}

// Another node like us on the same link does not hide the router.
func TestWhoMayBeADefaultRouterCountsFirst(t *testing.T) {
	p := newPlay(t)
	p.alive["fe80::2"] = 0
	p.run(5 * time.Second)
	p.want("fe80::2", "")
	p.alive["fe80::1"] = 30 * time.Second
	p.hear("fe80::1")
	p.run(time.Minute)
	p.want("fe80::1", "")
}

func TestTheRoutersAddressChanges(t *testing.T) {
	p := newPlay(t)
	p.alive["fe80::1"] = 1800 * time.Second
	p.run(time.Minute)
	p.want("fe80::1", "")
	delete(p.alive, "fe80::1")
	p.alive["fe80::2"] = 1800 * time.Second
	p.hear("fe80::2")
	p.run(time.Second)
	p.want("fe80::1", "") // until it is known that it is another's
	p.run(doubt)
	p.want("fe80::2", "")
}

func TestSeveralRoutersAreRefusedUntilOneIsLeft(t *testing.T) {
	p := newPlay(t)
	p.alive["fe80::1"] = 1800 * time.Second
	p.run(time.Minute)
	p.alive["fe80::2"] = 1800 * time.Second
	p.hear("fe80::2")
	p.run(doubt + time.Second)
	p.want("", "fe80::1 and fe80::2")
	if f := p.s.found(); !f.several {
		t.Errorf("found %+v", f)
	}
	p.run(10 * time.Minute)
	p.want("", "fe80::1 and fe80::2")
	delete(p.alive, "fe80::1")
	p.run(doubtEvery + 2*doubt + time.Second) // it may just have proved that it is there
	p.want("fe80::2", "")
	if f := p.s.found(); f.several {
		t.Errorf("found %+v", f)
	}
}

// One frame of a stranger does not end a session.
func TestAStrangerWhoDoesNotAnswerIsNoRouter(t *testing.T) {
	p := newPlay(t)
	p.alive["fe80::2"] = 30 * time.Second
	p.run(time.Minute)
	for range 30 {
		p.s.hear(p.now, ndp.RouterMessage{Advertisement: true, From: netip.MustParseAddr("fe80::1"), Lifetime: 1800 * time.Second})
		for range int(doubt / time.Second) {
			p.run(time.Second)
			p.want("fe80::2", "")
		}
		p.run(time.Second)
	}
	if n := len(p.s.routers); n != 1 {
		t.Errorf("%d routers are remembered: %+v", n, p.s.routers)
	}
}

func TestStrangersTakeNoMemory(t *testing.T) {
	p := newPlay(t)
	for i := range 10_000 {
		p.s.hear(p.now, ndp.RouterMessage{Advertisement: true, From: netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)}), Lifetime: time.Hour})
	}
	p.run(doubt + time.Second)
	if n := len(p.s.routers); n != 0 {
		t.Errorf("%d routers are remembered", n)
	}
}

// RFC 4861 §6.2.4, §6.2.6, §6.3.7.
func TestWhatIsSent(t *testing.T) {
	p := newPlay(t)
	p.run(29 * time.Second)
	s := time.Second
	if want := []time.Duration{0, 4 * s, 8 * s, 24 * s}; !slices.Equal(p.solicited, want) {
		t.Errorf("solicited at %v, want %v", p.solicited, want)
	}
	if want := []time.Duration{0, 8750 * time.Millisecond, 17500 * time.Millisecond, 26250 * time.Millisecond}; !slices.Equal(p.advertised, want) {
		t.Errorf("advertised at %v, want %v", p.advertised, want)
	}
	// Asked again and again: one each three seconds.
	p.advertised = nil
	for range 300 {
		p.s.hear(p.now, ndp.RouterMessage{From: netip.MustParseAddr("fe80::1")})
		p.run(100 * time.Millisecond)
	}
	if n := len(p.advertised); n < 9 || n > 11 {
		t.Errorf("advertised %d times in 30 s of questions: %v", n, p.advertised)
	}
	// Our own frames, should a switch return them, are not a router's.
	p.alive[ourselves] = time.Hour
	p.hear(ourselves)
	p.run(s)
	p.want("", "no router")
}
