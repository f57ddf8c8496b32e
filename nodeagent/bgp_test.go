// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// BGP needs no owner: every node tells, and one that dies is no matter of the others.
func TestEveryNodeTells(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(time.Second)
		for _, n := range abc() {
			s.expectKnown("at first", n, "spine 10.0.0.200/32")
		}
		if got := s.who(vip); got != "" {
			s.t.Errorf("by layer 2 %q answers", got)
		}
		s.wait(time.Minute)
		if got := s.sessions("a"); got != "spine Established 1" {
			s.t.Errorf("the API says %q", got)
		}
		s.remove(vip)
		s.wait(time.Second)
		s.expectKnown("without the Service", "a", "")
	})
}

// Layer 2 and BGP announce the same address side by side.
func TestBothTell(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.record(vip, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"bgp"} })
		s.wait(2 * time.Second)
		s.expect("with both", "b", "b@1")
		s.expectKnown("with both", "a", "spine 10.0.0.200/32")
		s.expectKnown("with both", "b", "spine 10.0.0.200/32")
	})
}

// A restart keeps the routes where the peer has graceful restart, without any drain; the
// others lose them and get them back.
func TestRestartIsGraceful(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("kept", true), simSession("plain", false))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(2 * time.Second)
		s.router("a").begin()
		s.sigterm("a")
		s.expectKnown("while it restarts", "a", "kept 10.0.0.200/32")
		if got := s.sessions("a"); got != "kept Established 1; plain Established 1" {
			s.t.Errorf("while it restarts the API says %q", got)
		}
		s.start("a")
		s.wait(2 * time.Second)
		s.expectStory("restarting", "a", "200ms kept restarts; 200ms plain closed; 200ms plain 10.0.0.200/32")
		s.expectKnown("after the restart", "a", "kept 10.0.0.200/32; plain 10.0.0.200/32")
	})
}

// A crash is like a restart; what is not to be told any more goes with the first whole plan.
func TestCrashKeepsRoutes(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("kept", true))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.tellOnly("10.0.0.201", loadbalancer.Cluster)
		s.wait(2 * time.Second)
		s.sigkill("a")
		s.expectKnown("after the crash", "a", "kept 10.0.0.200/32; kept 10.0.0.201/32")
		s.remove("10.0.0.201")
		s.start("a")
		s.wait(2 * time.Second)
		s.expectKnown("after the restart", "a", "kept 10.0.0.200/32")
	})
}

// A session with graceful restart begins when all that it has to tell is programmed: the
// router forgets with End-of-RIB what it was not told again.
func TestRestartWaitsForTheDataPlane(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.configure(simSession("kept", true))
		s.forwardTo(vip)
		s.record(vip, func(r *loadbalancer.Record) { r.Advertisements, r.BGPAdvertisements = nil, []string{"bgp"} })
		s.wait(5 * time.Second)
		s.sigkill("a")
		s.router("a").begin()
		s.start("a")
		s.wait(5 * time.Second)
		s.expectStory("after a crash", "a", "") // nothing was withdrawn, nor told anew
		s.expectKnown("after a crash", "a", "kept 10.0.0.200/32")
	})
}

// What a route attracts must not fail: nothing is told before the data plane has it, unless
// that takes too long; kube-proxy may serve it all the same.
func TestNothingIsToldBeforeTheDataPlaneHasIt(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.configure(simSession("spine", false))
		a := s.nodes["a"]
		a.router.mu.Lock()
		a.router.heard = func(prefix, _ string) {
			if addr := strings.TrimSuffix(prefix, "/32"); prefix != "10.0.0.209/32" && !strings.Contains(a.forwards(s.t), addr) {
				s.t.Errorf("%s is told, and a forwards %s", prefix, a.forwards(s.t))
			}
		}
		a.router.mu.Unlock()
		for _, addr := range []string{vip, "10.0.0.201"} {
			s.forwardTo(addr)
			s.record(addr, func(r *loadbalancer.Record) { r.Advertisements, r.BGPAdvertisements = nil, []string{"bgp"} })
			s.wait(2 * time.Second)
		}
		s.expectKnown("in time", "a", "spine 10.0.0.200/32; spine 10.0.0.201/32")
		a.crashAt(0)
		s.router("a").begin()
		s.forwardTo("10.0.0.209")
		s.record("10.0.0.209", func(r *loadbalancer.Record) { r.Advertisements, r.BGPAdvertisements = nil, []string{"bgp"} })
		s.wait(gateFor - time.Second)
		s.expectStory("while the kernel refuses", "a", "")
		s.wait(2 * time.Second)
		s.expectStory("in the end", "a", "3s spine 10.0.0.209/32")
	})
}

// The API server is not needed to go on.
func TestRoutesOutliveTheAPIServer(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", true))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(2 * time.Second)
		s.router("a").begin()
		s.agents.FailWith(func() error { return errors.New("the server is away") })
		s.claims.FailWith(func(string, string) error { return errors.New("the server is away") })
		s.freeze("a")
		s.wait(time.Hour)
		s.expectStory("without a server", "a", "")
		s.expectKnown("without a server", "a", "spine 10.0.0.200/32")
		s.agents.FailWith(nil)
		s.claims.FailWith(nil)
		s.thaw("a")
	})
}

// Under the Local policy the last endpoint takes the route with it, at once.
func TestLocalFollowsItsEndpoints(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.serve("a")
		s.tellOnly(vip, loadbalancer.Local)
		s.wait(time.Second)
		s.expectKnown("an endpoint on a", "a", "spine 10.0.0.200/32")
		s.expectKnown("an endpoint on a", "b", "")
		s.router("a").begin()
		s.serve("b")
		s.wait(time.Second)
		s.expectStory("an endpoint on b", "a", "0s spine 10.0.0.200/32 withdrawn")
		s.expectKnown("an endpoint on b", "b", "spine 10.0.0.200/32")
	})
}

// What cannot be configured is told, and keeps nothing else from working; one changed
// session does not touch the others.
func TestSessionsAreTheirOwn(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("one", false), simSession("two", false))
		s.mu.Lock()
		s.bgp.Faults = []loadbalancer.BGPFault{{Peer: "three", Reason: reason.NoPassword.String(), Message: "there is no Secret"}}
		s.mu.Unlock()
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(time.Minute)
		if got := s.sessions("a"); got != "one Established 1; three Refused/NoPassword; two Established 1" {
			s.t.Errorf("the API says %q", got)
		}
		s.router("a").begin()
		s.configure(simSession("two", false))
		s.wait(time.Minute)
		s.expectStory("without one", "a", "0s one ceased")
		if got := s.sessions("a"); got != "two Established 1" {
			s.t.Errorf("the API says %q", got)
		}
	})
}

// A session that goes up and down is not written each time.
func TestFlappingIsCalmed(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.configure(simSession("spine", false))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(2 * time.Minute)
		n := s.nodes["a"]
		speaker, ok := n.agent.speaker.(*simSpeaker)
		if !ok {
			s.t.Fatal("another speaker")
		}
		before := s.agents.Writes()
		for i := range 300 { // five minutes
			n.router.setDown("spine", i%2 == 0)
			speaker.again()
			s.wait(time.Second)
		}
		if writes := s.agents.Writes() - before; writes > boardBurst+5*4+1 {
			s.t.Errorf("%d writes in five minutes", writes)
		}
		n.router.setDown("spine", true)
		speaker.again()
		s.wait(2 * time.Minute)
		if got := s.sessions("a"); got != "spine Active/NotEstablished" {
			s.t.Errorf("in the end the API says %q", got)
		}
		before = s.agents.Writes()
		s.wait(10 * time.Minute)
		if writes := s.agents.Writes() - before; writes > 0 {
			s.t.Errorf("%d writes without a change", writes)
		}
	})
}

func TestBoard(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	up := v1alpha1.BGPSessionStatus{Peer: "p", State: v1alpha1.BGPEstablished, Prefixes: 1}
	trying := v1alpha1.BGPSessionStatus{Peer: "p", State: v1alpha1.BGPConnect, Reason: "NotEstablished"}
	list := func(s v1alpha1.BGPSessionStatus) []v1alpha1.BGPSessionStatus { return []v1alpha1.BGPSessionStatus{s} }
	var b board
	if got := b.show(now, list(trying)); got != nil {
		t.Errorf("at the start it tells %+v", got)
	}
	if !b.overdue(now.Add(boardStart)) || b.overdue(now.Add(boardStart-1)) {
		t.Error("it is not asked again when the start is over")
	}
	if got := b.show(now.Add(time.Second), list(up)); len(got) != 1 || got[0].State != v1alpha1.BGPEstablished {
		t.Errorf("once all is up it tells %+v", got)
	}
	now = now.Add(time.Minute)
	if got := b.show(now, list(trying)); got[0].State != v1alpha1.BGPConnect {
		t.Errorf("when the session fell it tells %+v", got)
	}
	// It goes through its states again and again.
	for range 20 {
		for _, st := range []v1alpha1.BGPSessionState{v1alpha1.BGPIdle, v1alpha1.BGPActive, v1alpha1.BGPOpenSent, v1alpha1.BGPConnect} {
			now = now.Add(time.Second)
			s := trying
			s.State = st
			if got := b.show(now, list(s)); got[0].State != v1alpha1.BGPConnect {
				t.Fatalf("while it tries it tells %+v", got)
			}
		}
	}
	stays := trying
	stays.State = v1alpha1.BGPOpenSent
	b.show(now, list(stays))
	now = now.Add(boardLasts)
	if !b.overdue(now) {
		t.Error("it is not asked again for a state that lasts")
	}
	if got := b.show(now, list(stays)); got[0].State != v1alpha1.BGPOpenSent {
		t.Errorf("a state that lasts is told as %+v", got)
	}
	var none board
	if got := none.show(now, nil); got == nil || len(got) != 0 {
		t.Errorf("without sessions it tells %#v", got)
	}
}

// Next hops are of the link that the session is on, and never made up.
func TestNextHops(t *testing.T) {
	t.Parallel()
	hops := hopsOf([]kernel.Link{
		{Name: "eth0", Prefixes: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("2001:db8::1/64"),
		}},
		{Name: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
	})
	for local, want := range map[string][2]string{
		"192.0.2.2":    {"192.0.2.2", "2001:db8::1"},
		"fd00::1":      {"192.0.2.1", "fd00::1"},
		"fe80::1%eth0": {"192.0.2.1", "2001:db8::1"},
		"198.51.100.1": {"198.51.100.1", "invalid IP"},
		"fe80::1%eth1": {"198.51.100.1", "invalid IP"},
		"203.0.113.1":  {"203.0.113.1", "invalid IP"},
	} {
		four, six := hops(netip.MustParseAddr(local))
		if four.String() != want[0] || six.String() != want[1] {
			t.Errorf("at %s: %s and %s, want %v", local, four, six, want)
		}
	}
}
