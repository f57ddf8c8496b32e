// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// An endpoint that comes and goes a hundred times a second, for ten seconds, is no storm of
// UPDATEs: the route goes at once each time, but comes back at a pace. Other routes do not
// wait for it, and once it is calm the routers know what is so within that pace.
func TestEndpointsThatFlap(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false), simSession("tor", false))
		s.serve("a")
		s.tellOnly(vip, loadbalancer.Local)
		s.wait(time.Minute)
		s.expectKnown("before", "a", "spine 10.0.0.200/32; tor 10.0.0.200/32")
		s.router("a").begin()
		for i := range 1000 {
			if i%2 == 0 {
				s.serve("b")
			} else {
				s.serve("a")
			}
			s.wait(10 * time.Millisecond)
			if known := s.router("a").knows(); i%2 == 0 && known != "" {
				s.t.Fatalf("without an endpoint on a the routers know of it %q", known)
			}
			if i == 500 {
				s.tellOnly("10.0.0.201", loadbalancer.Cluster)
				s.wait(time.Millisecond)
				s.expectKnown("meanwhile", "c", "spine 10.0.0.201/32; tor 10.0.0.201/32")
				s.remove("10.0.0.201")
				s.wait(10 * time.Millisecond)
			}
		}
		s.wait(dampRefill + time.Second)
		s.expectKnown("once it is calm", "a", "spine 10.0.0.200/32; tor 10.0.0.200/32")
		for _, peer := range []string{"spine", "tor"} {
			story := s.router("a").story()
			withdrawn := strings.Count(story, peer+" "+vip+"/32 withdrawn")
			told := strings.Count(story, peer+" "+vip+"/32") - withdrawn
			if most := dampBurst + int(12*time.Second/dampRefill) + 1; withdrawn > most || told > most || told < dampBurst {
				s.t.Errorf("%s was told %d times and heard %d withdrawals of 500 flaps, want %d at most", peer, told, withdrawn, most)
			}
		}
		// The drain of a route that has just flapped does not wait.
		s.serve("b")
		s.wait(10 * time.Millisecond)
		s.serve("a")
		s.wait(3 * time.Second)
		s.router("a").begin()
		s.mark("a", loadbalancer.Node{Cordoned: true})
		s.wait(10 * time.Millisecond)
		s.expectStory("cordoned", "a", "0s spine 10.0.0.200/32 draining; 0s tor 10.0.0.200/32 draining")
	})
}

func damped(prefix string, bandwidth uint32) loadbalancer.BGPRoute {
	p := netip.MustParsePrefix(prefix)
	return loadbalancer.BGPRoute{Prefix: p, BGPAttributes: loadbalancer.BGPAttributes{LinkBandwidth: bandwidth}, Addrs: []netip.Addr{p.Addr()}}
}

// Attributes that change again and again keep a value that was right, and end at the last.
func TestDamperOfAttributes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var d damper
	const one, two = "198.51.100.1/32", "198.51.100.2/32"
	plan := func(bandwidth uint32) map[string][]loadbalancer.BGPRoute {
		list := []loadbalancer.BGPRoute{damped(one, bandwidth), damped(two, 7)}
		return map[string][]loadbalancer.BGPRoute{"p": list, "q": list}
	}
	last, changes := uint32(1), 0
	d.pass(now, plan(last), loadbalancer.BGPDrain{})
	for i := range 1000 {
		now = now.Add(10 * time.Millisecond)
		got := d.pass(now, plan(uint32(2+i)), loadbalancer.BGPDrain{})
		for _, peer := range []string{"p", "q"} {
			if len(got[peer]) != 2 || got[peer][1].LinkBandwidth != 7 || &got["p"][0] != &got[peer][0] {
				t.Fatalf("%s is told %v", peer, got[peer])
			}
		}
		if b := got["p"][0].LinkBandwidth; b != last {
			last, changes = b, changes+1
		}
	}
	if most := dampBurst + int(10*time.Second/dampRefill); changes > most || changes < dampBurst {
		t.Errorf("%d changes of 1000, want %d at most", changes, most)
	}
	final := plan(1001)
	d.pass(now, final, loadbalancer.BGPDrain{})
	if d.next.IsZero() || d.next.After(now.Add(dampRefill)) || d.due(now.Add(-time.Hour)) || !d.due(d.next) {
		t.Errorf("now is %s, and the next look at %s", now, d.next)
	}
	if got := d.pass(d.next, final, loadbalancer.BGPDrain{}); got["q"][0].LinkBandwidth != 1001 || !shared(got["p"], final["p"]) {
		t.Errorf("at last it is %v", got)
	}
	if !d.next.IsZero() {
		t.Error("something still waits")
	}
	d.pass(now.Add(time.Hour), final, loadbalancer.BGPDrain{})
	if len(d.flaps) != 0 {
		t.Errorf("an hour later it remembers %v", d.flaps)
	}
}

// A peer whose last route goes is no longer in the plan at all.
func TestDamperOfAnOnlyRoute(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var d damper
	some := func() map[string][]loadbalancer.BGPRoute {
		return map[string][]loadbalancer.BGPRoute{"p": {damped("2001:db8::1/128", 0)}}
	}
	var story string
	for range 20 {
		now = now.Add(time.Millisecond)
		story += fmt.Sprint(len(d.pass(now, some(), loadbalancer.BGPDrain{})["p"]))
		if got := d.pass(now, nil, loadbalancer.BGPDrain{}); len(got) != 0 {
			t.Errorf("without a route it tells %v", got)
		}
	}
	if want := strings.Repeat("1", dampBurst) + strings.Repeat("0", 20-dampBurst); story != want {
		t.Errorf("told %s, want %s", story, want)
	}
}

// What changes one route of many costs little, and nothing is copied.
func BenchmarkDamper(b *testing.B) {
	list := make([]loadbalancer.BGPRoute, 0, 10_000)
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		list = append(list, loadbalancer.BGPRoute{Prefix: netip.PrefixFrom(a, 32), Addrs: []netip.Addr{a}})
	}
	var plans [2]map[string][]loadbalancer.BGPRoute
	for i := range plans {
		one := slices.Clone(list)
		one[4711].LinkBandwidth = uint32(i)
		plans[i] = map[string][]loadbalancer.BGPRoute{"a": one, "b": one, "c": one, "d": one}
	}
	var d damper
	now := time.Unix(1000, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now = now.Add(dampRefill)
		d.pass(now, plans[i%2], loadbalancer.BGPDrain{})
	}
}
