// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// A leave drains, withdraws, waits for the routers, and ends the sessions; the node forwards
// until the last of it.
func TestLeaveDrainsThenWithdrawsThenStops(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.configure(simSession("spine", true))
		s.forwardTo(vip)
		s.record(vip, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"bgp"} })
		s.wait(5 * time.Second)
		a := s.nodes["a"]
		if !strings.Contains(a.forwards(s.t), "10.0.0.200:80 ") {
			s.t.Fatalf("a forwards %s", a.forwards(s.t))
		}
		s.router("a").begin()
		a.unwant()
		a.cancel()
		s.wait(2500 * time.Millisecond)
		if got := s.sessions("a"); got != "spine Established 1 draining Leaving" {
			s.t.Errorf("while it drains the API says %q", got)
		}
		s.wait(3 * time.Second) // the routes are gone, not the sessions
		s.expectKnown("after the drain", "a", "")
		if !strings.Contains(a.forwards(s.t), "10.0.0.200:80 ") {
			s.t.Errorf("while routers still send packets a forwards %s", a.forwards(s.t))
		}
		s.sigterm("a")
		s.expectStory("leaving", "a", "0s spine 10.0.0.200/32 draining; 5s spine 10.0.0.200/32 withdrawn; 6s spine ceased")
		if got := s.sessions("a"); got != "" {
			s.t.Errorf("after the end the API says %q", got)
		}
		if got := a.forwards(s.t); got != "inside 0" {
			s.t.Errorf("after the end a forwards %s", got)
		}
		s.expectKnown("meanwhile", "b", "spine 10.0.0.200/32")
	})
}

// A node that tells nothing leaves without a delay.
func TestLeaveWithoutRoutesIsQuick(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.wait(time.Second)
		s.router("a").begin()
		began := time.Now()
		s.terminate("a")
		if took := time.Since(began); took > time.Second {
			s.t.Errorf("it took %s", took)
		}
		s.expectStory("leaving", "a", "0s spine ceased")
	})
}

// A cordoned node asks for the least preference and stays the last resort.
func TestCordonDrainsAndNeverWithdraws(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(2 * time.Second)
		s.router("a").begin()
		s.mark("a", loadbalancer.Node{Cordoned: true})
		s.wait(time.Hour)
		s.expectStory("cordoned", "a", "0s spine 10.0.0.200/32 draining")
		if got := s.sessions("a"); got != "spine Established 1 draining NodeCordoned" {
			s.t.Errorf("the API says %q", got)
		}
		s.mark("a", loadbalancer.Node{})
		s.wait(time.Minute)
		s.expectKnown("uncordoned", "a", "spine 10.0.0.200/32")
		if got := s.sessions("a"); got != "spine Established 1" {
			s.t.Errorf("uncordoned the API says %q", got)
		}
	})
}

// A node is cordoned first, for as long as it takes, and excluded, shut down or left by its
// agent afterwards: routers have the whole time from then on. What ends the drain early, and
// what goes on with it, does not begin it again.
func TestDrainCountsFromWhatEndsIt(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.configure(simSession("spine", false))
		s.tellOnly(vip, loadbalancer.Cluster)
		s.wait(2 * time.Second)
		s.router("a").begin()
		s.mark("a", loadbalancer.Node{Cordoned: true})
		s.wait(time.Minute)
		s.mark("a", loadbalancer.Node{Cordoned: true, Excluded: true})
		s.wait(2 * time.Second)
		s.mark("a", loadbalancer.Node{Cordoned: true, Excluded: true, ShuttingDown: true})
		s.wait(time.Minute)
		s.expectStory("cordoned, then excluded", "a", "0s spine 10.0.0.200/32 draining; 1m5s spine 10.0.0.200/32 withdrawn")
		s.router("a").begin()
		s.mark("a", loadbalancer.Node{Cordoned: true})
		s.wait(time.Minute)
		s.expectStory("cordoned only, again", "a", "0s spine 10.0.0.200/32 draining")
		a := s.nodes["a"]
		a.unwant()
		a.cancel()
		s.sigterm("a")
		s.expectStory("then left", "a", "0s spine 10.0.0.200/32 draining; 1m5s spine 10.0.0.200/32 withdrawn; 1m6s spine ceased")
		// Who starts on a node that is cordoned waits no less.
		s.mark("b", loadbalancer.Node{Cordoned: true})
		s.wait(time.Second)
		s.sigkill("b")
		s.start("b")
		s.wait(time.Minute)
		s.router("b").begin()
		s.mark("b", loadbalancer.Node{Cordoned: true, Excluded: true})
		s.wait(time.Minute)
		s.expectStory("started when cordoned", "b", "5s spine 10.0.0.200/32 withdrawn")
	})
}

// A node that is excluded, or shuts down, drains and withdraws; the session stays.
func TestExclusionDrains(t *testing.T) {
	t.Parallel()
	for why, node := range map[reason.Reason]loadbalancer.Node{
		reason.NodeExcluded: {Excluded: true}, reason.NodeShuttingDown: {ShuttingDown: true},
	} {
		simulate(t, abc(), func(s *sim) {
			s.configure(simSession("spine", false))
			s.tellOnly(vip, loadbalancer.Cluster)
			s.wait(2 * time.Second)
			s.router("a").begin()
			s.mark("a", node)
			s.wait(time.Minute)
			s.expectStory(why.String(), "a", "0s spine 10.0.0.200/32 draining; 5s spine 10.0.0.200/32 withdrawn")
			if got := s.sessions("a"); got != "spine Established 0 draining "+why.String() {
				s.t.Errorf("the API says %q", got)
			}
			s.mark("a", loadbalancer.Node{})
			s.wait(time.Second)
			s.expectKnown("afterwards", "a", "spine 10.0.0.200/32")
			// An agent that starts there tells nothing at all.
			s.mark("a", node)
			s.wait(time.Minute)
			s.sigkill("a")
			s.router("a").begin()
			s.start("a")
			s.wait(time.Minute)
			s.expectStory("started there", "a", "")
		})
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	const patience = 5 * time.Second
	start := time.Unix(1000, 0)
	type step struct {
		after   time.Duration
		node    loadbalancer.Node
		leaving bool
		want    loadbalancer.BGPDrain
	}
	for name, steps := range map[string][]step{
		"leave": {
			{0, loadbalancer.Node{}, false, loadbalancer.BGPDrain{}},
			{1, loadbalancer.Node{}, true, loadbalancer.BGPDrain{Reason: "Leaving"}},
			{patience, loadbalancer.Node{}, true, loadbalancer.BGPDrain{Reason: "Leaving"}},
			{1 + patience, loadbalancer.Node{}, true, loadbalancer.BGPDrain{Reason: "Leaving", Over: true}},
		},
		"cordoned long before": {
			{0, loadbalancer.Node{Cordoned: true}, false, loadbalancer.BGPDrain{Reason: "NodeCordoned"}},
			{time.Hour, loadbalancer.Node{Cordoned: true}, false, loadbalancer.BGPDrain{Reason: "NodeCordoned"}},
			{time.Hour, loadbalancer.Node{Cordoned: true, ShuttingDown: true}, false, loadbalancer.BGPDrain{Reason: "NodeShuttingDown"}},
			{time.Hour + patience, loadbalancer.Node{Cordoned: true, ShuttingDown: true}, false, loadbalancer.BGPDrain{Reason: "NodeShuttingDown", Over: true}},
		},
		"cordoned just before": {
			{0, loadbalancer.Node{}, false, loadbalancer.BGPDrain{}},
			{1, loadbalancer.Node{Cordoned: true}, false, loadbalancer.BGPDrain{Reason: "NodeCordoned"}},
			{2, loadbalancer.Node{Cordoned: true}, true, loadbalancer.BGPDrain{Reason: "Leaving"}},
		},
		"excluded and leaving": {
			{0, loadbalancer.Node{}, false, loadbalancer.BGPDrain{}},
			{1, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded"}},
			{1 + patience, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded", Over: true}},
			{2 + patience, loadbalancer.Node{Excluded: true}, true, loadbalancer.BGPDrain{Reason: "Leaving", Over: true}},
		},
		"excluded again": {
			{0, loadbalancer.Node{}, false, loadbalancer.BGPDrain{}},
			{1, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded"}},
			{time.Hour, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded", Over: true}},
			{time.Hour, loadbalancer.Node{}, false, loadbalancer.BGPDrain{}},
			{time.Hour + 1, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded"}},
		},
		"started on an excluded node": {
			{0, loadbalancer.Node{Excluded: true}, false, loadbalancer.BGPDrain{Reason: "NodeExcluded", Over: true}},
		},
	} {
		var d drain
		for i, st := range steps {
			if got := d.look(start.Add(st.after), st.node, st.leaving, patience); got != st.want {
				t.Errorf("%s, step %d: %+v, want %+v", name, i, got, st.want)
			}
		}
	}
}
