// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

const vip = "10.0.0.200"

func abc() []loadbalancer.NodeName { return []loadbalancer.NodeName{"a", "b", "c"} }

// expect checks who answers and who is the owner in the API.
func (s *sim) expect(when, who, owner string) {
	s.t.Helper()
	if got := s.who(vip); got != who {
		s.t.Errorf("%s: %q answers, want %q", when, got, who)
	}
	if got := s.owner(vip); got != owner {
		s.t.Errorf("%s: owner is %q, want %q", when, got, owner)
	}
}

func TestNewClaimIsAnnouncedByTheFirstSuccessor(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.expect("before", "", "")
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(800 * time.Millisecond)
		s.expect("after", "b", "b@1")
	})
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		s.powerCut("b")
		s.wait(time.Millisecond)
		s.expect("after the cut", "c", "c@2")
		s.start("b")
		s.wait(10 * time.Second)
		s.expect("after the return", "c", "c@2")
	})
}

func TestPowerCutWithoutAPIServer(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		s.claims.FailWith(func(string, string) error { return errors.New("the server is away") })
		s.wait(time.Minute)
		s.expect("while it is away", "b", "b@1")
		s.powerCut("b")
		s.wait(time.Second)
		s.expect("after the cut", "c", "b@1")
		s.claims.FailWith(nil)
		s.wait(time.Minute)
		s.expect("when it is back", "c", "c@2")
	})
}

func TestLeaveHandsOverWithoutAGap(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		start := time.Now()
		s.terminate("b")
		if took := time.Since(start); took >= linger {
			s.t.Errorf("leaving took %s although a successor was there", took)
		}
		s.expect("after the leave", "c", "c@2")
	})
}

// A node that cannot answer ARP owns nothing, though it is the first successor.
func TestNodeWithoutPacketSockets(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.deaf = "b"
		s.start("b")
		s.wait(time.Second)
		s.bind(vip, loadbalancer.Cluster, "b", "a")
		s.wait(time.Second)
		s.expect("beside a deaf node", "a", "a@1")
	})
}

func TestLastAgentClearsTheOwner(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a")
		s.wait(time.Second)
		s.expect("before", "a", "a@1")
		s.terminate("a")
		s.expect("after", "", "")
		if n, ok := s.agents.Peek("a"); !ok || n.Status.Conditions[0].Reason != "Leaving" {
			s.t.Errorf("NodeAgent is %+v", n)
		}
	})
}

func TestReleasedClaim(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b")
		s.wait(time.Second)
		s.edit(vip, func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimReleasing })
		s.wait(time.Millisecond)
		s.expect("after the release", "", "")
		s.claims.Delete(vip)
		s.wait(time.Minute)
		s.expect("after the deletion", "", "")
	})
}

func TestDeletedClaimIsSilentAtOnce(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b")
		s.wait(time.Second)
		s.claims.Delete(vip)
		s.wait(time.Millisecond)
		s.expect("after the deletion", "", "")
	})
}

// Both sides of a partition announce; when it heals, the higher epoch wins.
func TestPartition(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a", "b"}, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b")
		s.wait(time.Second)
		s.setCut("a", true)
		s.wait(time.Minute)
		s.expect("apart", "ab", "b@2")
		s.setCut("a", false)
		s.wait(time.Millisecond)
		s.expect("together again", "b", "b@2")
	})
}

func TestMinorityTakesNothingOver(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b", "c")
		s.wait(time.Second)
		s.setCut("c", true)
		s.wait(time.Minute)
		s.expect("with c cut off", "a", "a@1")
	})
}

func TestLostInterfaceHandsOver(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b")
		s.wait(time.Second)
		s.nodes["a"].unplug()
		s.wait(time.Millisecond)
		s.expect("unplugged", "b", "b@2")
	})
}

func TestLocalFollowsEndpoints(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Local, "a", "b", "c")
		s.wait(time.Second)
		s.expect("without endpoints", "", "")
		s.serve("c")
		s.wait(time.Second)
		s.expect("served by c", "c", "c@1")
		s.serve("b", "c")
		s.wait(time.Second)
		s.expect("served by b as well", "c", "c@1")
		s.serve("b")
		s.wait(time.Second)
		s.expect("served by b only", "b", "b@2")
		s.serve()
		s.wait(time.Minute)
		s.expect("served by none", "b", "b@2")
	})
}

// With no successor the owner goes on answering for a moment, then stops and says so.
func TestWithdrawWithoutSuccessor(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a")
		s.wait(time.Second)
		s.mu.Lock()
		for uid, r := range s.records {
			r.Advertisements = nil
			s.records[uid] = r
		}
		s.mu.Unlock()
		s.markAll()
		s.wait(time.Second)
		s.expect("at first", "a", "a@1")
		s.wait(linger)
		s.expect("after the linger", "", "")
	})
}

func TestQuietClusterWritesNothing(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b")
		s.wait(5 * time.Second)
		s.claims.TakeLog()
		before := s.agents.Writes()
		s.wait(10 * time.Minute)
		if log := s.claims.TakeLog(); len(log) != 0 || s.agents.Writes() != before {
			s.t.Errorf("requests in ten quiet minutes: %v and %d", log, s.agents.Writes()-before)
		}
	})
}

// Epochs grow past those of nodes that died before the API server heard of them.
func TestEpochsAreRememberedWithoutAPIServer(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a", "b", "c", "d"}, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b", "c", "d")
		s.wait(time.Second)
		s.claims.FailWith(func(string, string) error { return errors.New("the server is away") })
		s.powerCut("a")
		s.wait(time.Second)
		s.powerCut("b")
		s.wait(time.Second)
		s.expect("after both cuts", "c", "a@1")
		s.claims.FailWith(nil)
		s.wait(time.Minute)
		s.expect("when the server is back", "c", "c@3")
	})
}
