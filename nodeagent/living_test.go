// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// owned starts a cluster in which b announces the address and c is the heir.
func owned(t *testing.T, names []loadbalancer.NodeName, script func(s *sim)) {
	t.Helper()
	simulate(t, names, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.expect("before", "b", "b@1")
		script(s)
	})
}

func abcd() []loadbalancer.NodeName { return []loadbalancer.NodeName{"a", "b", "c", "d"} }

// off cuts a node's power without the gossip's knowing.
func (s *sim) off(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.mu.Lock()
	n.off = true
	n.mu.Unlock()
	n.powerOff()
	n.stop()
}

func TestPulseNoticesAPowerCutBeforeTheGossip(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.off("b")
		s.wait(300 * time.Millisecond)
		s.expect("too early", "", "b@1")
		s.wait(230 * time.Millisecond)
		s.expect("after four misses", "c", "c@2")
		s.setCut("b", true)
		if got := s.watch(vip, 10*time.Second); got != "c" {
			t.Errorf("%q answer when the gossip knows too", got)
		}
		s.start("b")
		s.wait(10 * time.Second)
		s.expect("after the return", "c", "c@2")
	})
}

func TestPulseNoticesAPowerCutOfOneOfTwo(t *testing.T) {
	t.Parallel()
	owned(t, []loadbalancer.NodeName{"b", "c"}, func(s *sim) {
		s.off("b")
		s.wait(530 * time.Millisecond)
		s.expect("after four misses", "c", "c@2")
	})
}

func TestKilledAgentThatIsBackSoonKeepsItsAddresses(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigkill("b")
		s.wait(2*time.Second - detection)
		s.expect("while it is away", "", "b@1")
		s.start("b")
		s.wait(100 * time.Millisecond)
		s.expect("when it is back", "b", "b@2")
		if got := s.watch(vip, 5*time.Second); got != "b" {
			t.Errorf("%q answer afterwards", got)
		}
	})
}

func TestKilledAgentThatIsBackBeforeTheGossipNoticed(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.nodes["b"].stop()
		s.wait(300 * time.Millisecond)
		s.start("b")
		s.wait(100 * time.Millisecond)
		s.expect("when it is back", "b", "b@2")
		if got := s.watch(vip, 5*time.Second); got != "b" {
			t.Errorf("%q answer afterwards", got)
		}
	})
}

func TestKilledAgentThatStaysAwayIsGivenUp(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigkill("b")
		s.wait(crashGrace - 100*time.Millisecond)
		s.expect("within the grace", "", "b@1")
		s.wait(300 * time.Millisecond)
		s.expect("after the grace", "c", "c@2")
		s.start("b")
		s.wait(5 * time.Second)
		s.expect("when it is back too late", "c", "c@2")
	})
}

func TestPowerCutWhileTheGossipMissesTheNodeAnyway(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigkill("b")
		s.wait(time.Second)
		s.expect("while the agent is away", "", "b@1")
		s.nodes["b"].powerOff()
		s.wait(530 * time.Millisecond)
		s.expect("after the power cut", "c", "c@2")
	})
}

func TestNobodyTakesOverFromARestartingAgent(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigterm("b")
		if got := s.watch(vip, 20*time.Second); got != "b" {
			t.Errorf("%q answer during the restart, want b's kernel alone", got)
		}
		s.start("b")
		if got := s.watch(vip, 10*time.Second); got != "b" {
			t.Errorf("%q answer after the restart, want b alone", got)
		}
	})
}

func TestRestartingAgentThatStaysAwayIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigterm("b")
		s.wait(25 * time.Second)
		s.expect("before its time", "b", "b@1")
		s.wait(6 * time.Second)
		s.expect("after its time", "c", "c@2")
	})
}

func TestPowerCutDuringARestart(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigterm("b")
		s.wait(3 * time.Second)
		s.nodes["b"].powerOff()
		s.wait(530 * time.Millisecond)
		s.expect("after the power cut", "c", "c@2")
	})
}

// A new address whose first successor is away goes to the next.
func TestAbsentNodeIsGivenNothing(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigterm("b")
		s.wait(time.Second)
		s.bind("10.0.0.201", loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		if got := s.who("10.0.0.201"); got != "c" {
			t.Errorf("%q answers for a new address, want c", got)
		}
	})
}

// The kernel of a node whose agent is frozen answers, but nobody for its addresses.
func TestFrozenAgent(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigstop("b")
		s.wait(detection)
		s.setCut("b", true)
		s.wait(crashGrace - 100*time.Millisecond)
		s.expect("within the grace, old questions lie in b's sockets", "", "b@1")
		s.wait(10*time.Second - crashGrace - detection)
		s.expect("after the grace", "c", "c@2")
		s.setCut("b", false)
		s.sigcont("b")
		s.wait(time.Millisecond)
		if got := s.watch(vip, 5*time.Second); got != "c" {
			t.Errorf("%q answer when it goes on, want c alone", got)
		}
		if got := s.owner(vip); got != "c@2" {
			t.Errorf("owner is %s", got)
		}
	})
}

// An agent that was frozen for so long that it falls silent, but not given up, goes on.
func TestFrozenAgentThatIsNotGivenUp(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.sigstop("b")
		s.wait(fenceAfter + 500*time.Millisecond)
		s.expect("while it is frozen", "", "b@1")
		s.sigcont("b")
		s.wait(hush + 2*tick)
		s.expect("when it goes on", "b", "b@1")
	})
}

// A lost question or answer now and then is no death, and neither is a gossip that flaps.
func TestGossipFlaps(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		for range 10 {
			s.setCut("b", true)
			if got := s.watch(vip, 3*time.Second); got != "b" {
				t.Fatalf("%q answer", got)
			}
			s.setCut("b", false)
			s.wait(time.Second)
		}
		s.expect("after ten times", "b", "b@1")
	})
}

// cutOff parts the LAN: kernels cannot reach each other at once, the gossip needs a while.
func (s *sim) cutOff(parts ...[]loadbalancer.NodeName) {
	s.partKernels(parts...)
	s.partGossip(parts...)
}

func (s *sim) heal() {
	all := [][]loadbalancer.NodeName{abcd()}
	s.partKernels(all...)
	s.partGossip(all...)
}

// one checks that one node answers and goes on.
func (s *sim) one(when string, of string) {
	s.t.Helper()
	got := s.watch(vip, 5*time.Second)
	if len(got) != 1 || !strings.Contains(of, got) {
		s.t.Errorf("%s: %q answer, want one of %q without a change", when, got, of)
	}
}

func TestPartitionOneAgainstThree(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		alone  loadbalancer.NodeName
		rest   []loadbalancer.NodeName
		during string
		after  string
	}{
		// It cannot know that another took over: nobody hears it either.
		"the owner": {"b", []loadbalancer.NodeName{"a", "c", "d"}, "bc", "c@2"},
		"the heir":  {"c", []loadbalancer.NodeName{"a", "b", "d"}, "b", "b@1"},
		"another":   {"a", []loadbalancer.NodeName{"b", "c", "d"}, "b", "b@1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owned(t, abcd(), func(s *sim) {
				s.freeze(tt.alone)
				s.cutOff([]loadbalancer.NodeName{tt.alone}, tt.rest)
				s.wait(20 * time.Second)
				if got := s.who(vip); got != tt.during {
					t.Errorf("%q answer, want %q", got, tt.during)
				}
				s.heal()
				s.thaw(tt.alone)
				s.wait(time.Second)
				s.one("after the heal", tt.after[:1])
				if got := s.owner(vip); got != tt.after {
					t.Errorf("owner is %s after the heal, want %s", got, tt.after)
				}
			})
		})
	}
}

// A node that was cut off finds the others one after the other. It takes nothing over
// from those whom it has not found yet.
func TestPartitionHealsOneByOne(t *testing.T) {
	t.Parallel()
	owned(t, abcd(), func(s *sim) {
		s.freeze("c")
		s.cutOff([]loadbalancer.NodeName{"c"}, []loadbalancer.NodeName{"a", "b", "d"})
		s.wait(20 * time.Second)
		s.expect("during", "b", "b@1")
		s.partKernels(abcd())
		s.part(s.deafTo, [][]loadbalancer.NodeName{abcd()})
		s.part(s.lostBy, [][]loadbalancer.NodeName{{"a", "c"}, {"b", "d"}})
		s.wait(500 * time.Millisecond)
		s.part(s.lostBy, [][]loadbalancer.NodeName{abcd()})
		s.one("after", "b")
		s.thaw("c")
		s.wait(10 * time.Second)
		s.expect("later", "b", "b@1")
	})
}

// An owner that is cut off from its peers but not from the API server learns there that
// another took over.
func TestPartitionOfTheOwnerFromItsPeersOnly(t *testing.T) {
	t.Parallel()
	owned(t, abcd(), func(s *sim) {
		s.cutOff([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c", "d"})
		s.wait(5 * time.Second)
		s.one("during", "c")
		s.heal()
		s.wait(time.Second)
		s.one("after", "c")
	})
}

// Halves of the same size cannot tell which of them lives on: either goes on.
func TestPartitionOfHalves(t *testing.T) {
	t.Parallel()
	for name, halves := range map[string][][]loadbalancer.NodeName{
		"two against two": {{"a", "b"}, {"c", "d"}},
		"one against one": {{"b"}, {"c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owned(t, slices.Concat(halves...), func(s *sim) {
				s.cutOff(halves...)
				s.wait(20 * time.Second)
				if got := s.who(vip); got != "bc" {
					t.Errorf("%q answer, want one on either side", got)
				}
				s.heal()
				s.wait(time.Second)
				s.one("after", "bc")
			})
		})
	}
}

// Only the gossip is cut, as by a firewall's mistake: the kernels see each other, but an
// agent that nobody hears of is given up all the same.
func TestGossipAloneIsCut(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.freeze("b")
		s.partGossip([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c"})
		s.wait(crashGrace - 100*time.Millisecond)
		s.expect("within the grace", "b", "b@1")
		s.wait(time.Second)
		s.expect("after the grace", "bc", "c@2")
		s.partGossip(abcd())
		s.wait(time.Second)
		s.expect("after the heal", "c", "c@2")
		s.thaw("b")
		s.one("later", "c")
	})
}

// Only the kernels cannot reach each other: what the gossip tells counts more in the end.
func TestPulseAloneIsCut(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		s.partKernels([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c"})
		s.wait(30 * time.Second)
		if got := s.who(vip); len(got) != 1 {
			t.Errorf("%q answer, want one", got)
		}
		owner := s.owner(vip)
		if got := s.watch(vip, 30*time.Second); len(got) != 1 {
			t.Errorf("%q answer, want one and no change", got)
		}
		if got := s.owner(vip); got != owner {
			t.Errorf("owner changed from %s to %s", owner, got)
		}
	})
}

// In the profile for wide networks nobody asks kernels: the gossip alone counts, and what
// an agent says before it restarts.
func TestWithoutPulse(t *testing.T) {
	t.Parallel()
	simulate(t, nil, func(s *sim) {
		s.profile = "wan"
		for _, n := range abc() {
			s.start(n)
		}
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.sigterm("b")
		if got := s.watch(vip, 20*time.Second); got != "b" {
			t.Errorf("%q answer during the restart", got)
		}
		s.start("b")
		s.wait(5 * time.Second)
		s.expect("after the restart", "b", "b@2")
		s.off("b")
		s.wait(5 * time.Second)
		s.expect("while the gossip does not know", "", "b@2")
		s.setCut("b", true)
		s.wait(10 * time.Millisecond)
		s.expect("when it does", "c", "c@3")
	})
}

// A watcher that does not run for a while loses its peers in its gossip: it was deaf.
func TestStarvedWatcherTakesNothingOver(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"fast", "default", "wan"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			simulate(t, nil, func(s *sim) {
				s.profile = profile
				for _, n := range abc() {
					s.start(n)
				}
				s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
				s.wait(2 * time.Second)
				for range 10 {
					s.sigstop("c")
					s.wait(time.Second)
					s.setCut("c", true)
					s.sigcont("c")
					s.wait(150 * time.Millisecond)
					s.setCut("c", false)
					s.wait(time.Second)
				}
				s.expect("after ten times", "b", "b@1")
			})
		})
	}
}
