// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// A node that the API server has lost goes by what it heard last. Two nodes that hold each
// other for unable must not outbid each other for ever; it ends with the one that knows.
func TestTwoViewsDoNotOutbidEachOther(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.latency = 10 * time.Millisecond
		s.serve("b")
		s.bind(vip, loadbalancer.Local, "b", "c", "a")
		s.wait(2 * time.Second)
		s.expect("before", "b", "b@1")
		s.freeze("b")
		s.serve("c")
		s.wait(100 * time.Millisecond)
		s.expect("when the endpoint has moved", "c", "c@4")
		s.watching("afterwards", "c", 30*time.Second)
		s.expect("in the end", "c", "c@4")
	})
}

// A claim that is released and in another's group is given up like any other.
func TestReleasedInAnothersGroup(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.bind("10.0.0.201", loadbalancer.Cluster, "c", "b", "a")
		s.wait(2 * time.Second)
		s.edit(vip, func(c *v1alpha1.IPClaim) { c.Spec.Phase, c.Spec.Group = v1alpha1.ClaimReleasing, "10.0.0.201" })
		s.wait(5 * time.Second)
		s.expect("after the release", "", "")
	})
}

// An agent that is stopped again before it has its addresses back leaves them to the kernel
// again, and the others know whose they are.
func TestRestartDuringReturn(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.sigterm("b")
		s.wait(time.Second)
		s.unsettled.Store(true)
		s.start("b")
		s.watching("while it listens", "b", time.Second)
		s.sigterm("b")
		s.watching("while it is away again", "b", 20*time.Second)
		s.unsettled.Store(false)
		s.start("b")
		s.watching("after its return", "b", 5*time.Second)
		s.expect("in the end", "b", "b@2")
	})
}

// One that crashes then is given up after a while, and its kernel is silent by then.
func TestCrashDuringReturn(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.sigterm("b")
		s.wait(time.Second)
		s.unsettled.Store(true)
		s.start("b")
		s.watching("while it listens", "b", time.Second)
		s.sigkill("b")
		s.unsettled.Store(false)
		s.watching("while it is away again", "b,,c", 20*time.Second)
		s.expect("in the end", "c", "c@2")
	})
}

// An address that floats between nodes is no sign of life of the node that had it: some
// other has it now, and says so.
func TestPulseAsksForTheNodesOwnAddress(t *testing.T) {
	t.Parallel()
	owned(t, abc(), func(s *sim) {
		floating := netip.MustParseAddr("10.0.0.0")
		b := s.nodes["b"]
		b.mu.Lock()
		b.links = slices.Clone(b.links)
		b.links[0].Prefixes = append([]netip.Prefix{netip.PrefixFrom(floating, 24)}, b.links[0].Prefixes...)
		b.mu.Unlock()
		mark(b.agent.linksDirty)
		s.wait(time.Second)
		s.off("b")
		for range 6 {
			s.nodes["c"].hears(claimFrame(floating, kernel.MAC{2, 0, 0, 0, 0, 'a'}))
			s.wait(90 * time.Millisecond)
		}
		s.expect("after four misses", "c", "c@2")
	})
}

// An agent that starts where it can reach nobody is as likely cut off as one that saw the
// others go.
func TestStartOnTheWrongSideOfAPartition(t *testing.T) {
	t.Parallel()
	simulate(t, abcd(), func(s *sim) {
		addrs := []string{"10.0.0.201", "10.0.0.202", "10.0.0.203"}
		for i, addr := range addrs {
			s.bind(addr, loadbalancer.Cluster, string("acd"[i]), "b")
		}
		s.wait(2 * time.Second)
		s.cutOff([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c", "d"})
		s.wait(10 * time.Second)
		s.nodes["b"].stop()
		s.start("b")
		s.wait(40 * time.Second)
		for i, addr := range addrs {
			if got := s.who(addr); got != string("acd"[i]) {
				t.Errorf("%q answer for %s, want %q", got, addr, "acd"[i])
			}
		}
		s.heal()
		s.wait(5 * time.Second)
		for i, addr := range addrs {
			if got := s.who(addr); got != string("acd"[i]) {
				t.Errorf("after the heal %q answer for %s, want %q", got, addr, "acd"[i])
			}
		}
	})
}

// While an agent listens it has heard of nobody; that does not make it wait afterwards.
func TestReturnIsNotHeldUp(t *testing.T) {
	t.Parallel()
	owned(t, abcd(), func(s *sim) {
		for i, addr := range []string{"10.0.0.201", "10.0.0.202", "10.0.0.203"} {
			s.bind(addr, loadbalancer.Cluster, string("acd"[i]))
		}
		s.wait(2 * time.Second)
		s.nodes["b"].stop()
		s.unsettled.Store(true)
		s.start("b")
		s.setCut("b", true)
		s.wait(300 * time.Millisecond)
		s.unsettled.Store(false)
		s.setCut("b", false)
		s.wait(50 * time.Millisecond)
		s.expect("soon after the return", "b", "b@2")
	})
}

// One that starts before all others do not come back has its own addresses, and no others.
func TestStartAlone(t *testing.T) {
	t.Parallel()
	owned(t, abcd(), func(s *sim) {
		for i, addr := range []string{"10.0.0.201", "10.0.0.202", "10.0.0.203"} {
			s.bind(addr, loadbalancer.Cluster, string("acd"[i]), "b")
		}
		s.wait(2 * time.Second)
		for _, n := range abcd() {
			s.sigterm(n)
		}
		s.start("b")
		s.watching("after the start", "b", 40*time.Second)
		s.expect("alone", "b", "b@2")
		if got := s.who("10.0.0.201"); got != "" {
			t.Errorf("%q answers for another's address", got)
		}
	})
}
