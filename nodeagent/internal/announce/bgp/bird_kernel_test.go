// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const birdChannels = `ipv4 { import all; export none; }; ipv6 { import all; export none; };`

// birdLB is a BIRD protocol for us.
func birdLB(options string) string {
	return "protocol bgp lb { local as 64512; error wait time 1,2; error forget time 10; connect delay time 1; " + options + " }\n"
}

func full() []loadbalancer.BGPRoute {
	r := []loadbalancer.BGPRoute{route("198.51.100.1/32"), route("2001:db8:1::1/128")}
	for i := range r {
		r[i].HasMED, r[i].MED, r[i].HasLocalPref, r[i].LocalPref, r[i].Prepend = true, 42, true, 250, 2
		r[i].Communities = []loadbalancer.Community{
			{A: 64512, B: 5},
			{Kind: loadbalancer.LargeCommunity, A: 70000, B: 1, C: 2},
			{Kind: loadbalancer.RouteTarget, A: 64512, B: 77},
			{Kind: loadbalancer.RouteTarget, A: 70000, B: 78},
			{Kind: loadbalancer.RouteOrigin, A: 0x0a000001, B: 79, Address: true},
		}
	}
	return r
}

func TestBIRDSeesWhatIsTold(t *testing.T) {
	tests := []struct {
		name   string
		bird   string
		change func(*loadbalancer.BGPSession)
		want   []string
		not    []string
	}{
		{
			"external",
			birdLB("neighbor 10.99.0.1 as 64513; direct; " + birdChannels), nil,
			[]string{
				"BGP.as_path: 64513 64513 64513", "BGP.med: 42", "BGP.community: (64512,5)", "BGP.large_community: (70000, 1, 2)",
				"BGP.ext_community: (rt, 64512, 77) (rt, 70000, 78) (ro, 10.0.0.1, 79)",
			},
			[]string{"BGP.local_pref: 250"},
		},
		{
			"internal", birdLB("neighbor 10.99.0.1 as 64512; direct; " + birdChannels), func(s *loadbalancer.BGPSession) { s.MyASN = 64512 },
			[]string{"BGP.local_pref: 250", "BGP.as_path: \n", "BGP.med: 42"},
			nil,
		},
		{
			"another AS number for this peer", birdLB("neighbor 10.99.0.1 as 65010; direct; " + birdChannels), func(s *loadbalancer.BGPSession) { s.LocalASN = 65010 },
			[]string{"BGP.as_path: 65010 65010 65010 64513"},
			nil,
		},
		{
			"any external AS number", birdLB("neighbor 10.99.0.1 as 64513; direct; " + birdChannels),
			func(s *loadbalancer.BGPSession) { s.PeerASN, s.Dynamic = 0, loadbalancer.ExternalASN },
			[]string{"BGP.as_path: 64513 64513 64513"},
			nil,
		},
		{
			"IPv4 over an IPv6 session", birdLB("neighbor 2001:db8:99::1 as 64513; direct; ipv4 { import all; export none; extended next hop on; }; ipv6 { import all; export none; };"),
			func(s *loadbalancer.BGPSession) { s.Addr = netip.MustParseAddr("2001:db8:99::254") },
			[]string{"BGP.next_hop: 2001:db8:99::1"},
			[]string{"BGP.next_hop: 10.99.0.1"},
		},
		{
			"password and a hop count", birdLB(`neighbor 10.99.0.1 as 64513; direct; password "s3cret"; ttl security on; ` + birdChannels),
			func(s *loadbalancer.BGPSession) { s.Password, s.TTLSecurity = "s3cret", 1 },
			[]string{"BGP.next_hop: 10.99.0.1"},
			nil,
		},
		{
			"password over IPv6", birdLB(`neighbor 2001:db8:99::1 as 64513; direct; password "s3cret"; ` + birdChannels),
			func(s *loadbalancer.BGPSession) {
				s.Addr, s.Password = netip.MustParseAddr("2001:db8:99::254"), "s3cret"
			},
			[]string{"BGP.next_hop: 10.99.0.1"},
			nil,
		},
		{
			"over several hops", birdLB("neighbor 10.99.0.1 as 64513; multihop; source address 10.99.0.254; " + birdChannels),
			func(s *loadbalancer.BGPSession) { s.MultiHop, s.Source = true, netip.MustParseAddr("10.99.0.1") },
			[]string{"BGP.next_hop: 10.99.0.1"},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRealRouter(t, "bird", "birdc")
			r.bird(tt.bird)
			s := begin(t, Options{})
			s.Apply(planOf(full(), realSpec(tt.change)), ours)
			awaitState(t, s, "r", Established)
			var got string
			eventually(t, "BIRD has both routes", func() bool {
				got = r.birdc("show", "route", "all", "protocol", "lb")
				return strings.Contains(got, "198.51.100.1/32") && strings.Contains(got, "2001:db8:1::1/128")
			})
			for _, w := range append(tt.want, "2001:db8:99::1") {
				if !strings.Contains(got, w) {
					t.Errorf("BIRD does not see %q:\n%s", w, got)
				}
			}
			for _, w := range append(tt.not, "::ffff:") {
				if strings.Contains(got, w) {
					t.Errorf("BIRD sees %q:\n%s", w, got)
				}
			}
			eventually(t, "the router's kernel forwards", func() bool {
				return strings.Contains(r.Run("ip", "route"), "198.51.100.1") && strings.Contains(r.Run("ip", "-6", "route"), "2001:db8:1::1")
			})
		})
	}
}

func TestBIRDAndPasswords(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdLB(`neighbor 10.99.0.1 as 64513; direct; password "right"; ` + birdChannels))
	s := begin(t, Options{})
	with := func(password string) loadbalancer.BGPSession {
		return realSpec(func(s *loadbalancer.BGPSession) { s.Password = password })
	}
	s.Apply(planOf(full(), with("wrong")), ours)
	eventually(t, "the wrong one is refused", func() bool {
		st := stateOf(s, "r")
		return st.State == Active && strings.Contains(st.Message, "is the password the peer's?")
	})
	s.Apply(planOf(full(), with("right")), ours)
	awaitState(t, s, "r", Established)
	s.Apply(planOf(full(), with("changed")), ours)
	eventually(t, "a changed one ends the session", func() bool { return stateOf(s, "r").State != Established })
	r.write("bird.conf", birdBase+birdLB(`neighbor 10.99.0.1 as 64513; direct; password "changed"; `+birdChannels))
	r.birdc("configure")
	awaitState(t, s, "r", Established)
}

func TestBIRDThatExpectsAnother(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdLB("neighbor 10.99.0.1 as 65000; direct; " + birdChannels))
	s := begin(t, Options{})
	s.Apply(planOf(full(), realSpec(nil)), ours)
	eventually(t, "BIRD's NOTIFICATION is said in words", func() bool {
		st := stateOf(s, "r")
		return st.Reason == reason.WrongASN && strings.Contains(st.Message, "the peer ended it: OPEN Message Error/Bad Peer AS (2/2)")
	})
	r.write("bird.conf", birdBase+birdLB("neighbor 10.99.0.1 as 64513; direct; "+birdChannels))
	r.birdc("configure")
	awaitState(t, s, "r", Established)
	r.birdc("disable", "lb", `"maintenance"`)
	eventually(t, "the shutdown is said", func() bool {
		st := stateOf(s, "r")
		return st.Flaps == 1 && strings.Contains(st.Message, "Cease/Administrative Shutdown (6/2)")
	})
}

func TestBIRDKeepsRoutesOverARestart(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdLB("neighbor 10.99.0.1 as 64513; direct; graceful restart on; " + birdChannels))
	spec := realSpec(func(s *loadbalancer.BGPSession) { s.GracefulRestart = true })
	routes := append(full(), many(300)...)
	restartKeeps(t, r, spec, routes)
}

// restartKeeps stops a speaker and starts another, while the kernel of the router is looked
// at all the time; at last routes go at once when the node leaves.
func restartKeeps(t *testing.T, r *realRouter, spec loadbalancer.BGPSession, routes []loadbalancer.BGPRoute) {
	t.Helper()
	count := func() int {
		return strings.Count(r.Run("ip", "route"), "198.") + strings.Count(r.Run("ip", "-6", "route"), "2001:db8:1::1")
	}
	first, stop := started(t)
	first.Apply(planOf(routes, spec), ours)
	first.Complete()
	awaitState(t, first, "r", Established)
	eventually(t, "the router forwards all", func() bool { return count() == len(routes) })
	stop(true)
	if n := count(); n != len(routes) {
		t.Fatalf("%d of %d routes are left after the stop", n, len(routes))
	}
	second, stop := started(t)
	second.Apply(planOf(routes[:len(routes)-1], spec), ours) // one has gone meanwhile
	second.Complete()
	least := len(routes)
	eventually(t, "the router knows better by End-of-RIB", func() bool {
		n := count()
		least = min(least, n)
		return n == len(routes)-1
	})
	awaitState(t, second, "r", Established)
	if least < len(routes)-1 {
		t.Errorf("there were %d routes at times", least)
	}
	before := time.Now()
	stop(false)
	eventually(t, "no route is left", func() bool { return count() == 0 })
	t.Logf("all routes were gone %s after the stop", time.Since(before))
}

func TestBIRDAgreesOnTimersAndASilentPeerIsLeft(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdLB("neighbor 10.99.0.1 as 64513; direct; " + birdChannels))
	s := begin(t, Options{})
	s.Apply(planOf(full(), realSpec(func(s *loadbalancer.BGPSession) { s.Hold, s.Keepalive = 3*time.Second, time.Second })), ours)
	awaitState(t, s, "r", Established)
	eventually(t, "BIRD has our hold time", func() bool {
		got := r.birdc("show", "protocols", "all", "lb")
		return strings.Contains(got, "Hold timer:") && strings.Contains(got, "/3\n") && strings.Contains(got, "Neighbor ID:      10.99.0.1")
	})
	r.Run("ip", "link", "set", "r0", "down")
	eventually(t, "the hold timer expires", func() bool {
		return stateOf(s, "r").Flaps == 1 // why is overwritten by the next attempt, which finds nobody
	})
	r.Run("ip", "link", "set", "r0", "up")
	awaitState(t, s, "r", Established)
	s.Apply(planOf(full(), realSpec(func(s *loadbalancer.BGPSession) { s.Hold, s.Keepalive = 0, 0 })), ours)
	eventually(t, "BIRD does without timers", func() bool {
		got := r.birdc("show", "protocols", "all", "lb")
		return stateOf(s, "r").State == Established && strings.Contains(got, "Hold timer:       0.000/0\n")
	})
}
