// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

const low = "10.0.0.100" // names the group that it shares with vip

func (s *sim) expectOwner(when, claim, want string) {
	s.t.Helper()
	if got := s.owner(claim); got != want {
		s.t.Errorf("%s: owner of %s is %q, want %q", when, claim, got, want)
	}
}

func (s *sim) expectWatch(when, addr, want string) {
	s.t.Helper()
	if got := s.watch(addr, 2500*time.Millisecond); got != want {
		s.t.Errorf("%s: %s is answered by %q, want %q", when, addr, got, want)
	}
}

// A sharer with a lower claim comes, so that the group gets another name, and goes again:
// the owner of the first address keeps it throughout, under its epoch.
func TestGroupIsRenamed(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		for _, n := range abc() {
			s.freeze(n)
		}
		s.bind(low, loadbalancer.Cluster, "c", "a", "b")
		s.share(vip, vip, low)
		s.group(low, vip)
		for _, n := range abc() {
			s.thaw(n)
		}
		s.expectWatch("renamed", vip, "b")
		s.expectWatch("renamed", low, "b")
		s.expectOwner("renamed", vip, "b@1")
		s.expectOwner("renamed", low, "b@1")
		s.share(vip, vip)
		s.group(vip, vip)
		s.expectWatch("split", vip, "b")
		s.expectWatch("split", low, "b")
		s.powerCut("b")
		s.wait(time.Second)
		s.expectOwner("after the cut", vip, "c@2")
		s.expectOwner("after the cut", low, "c@2")
	})
}

// Two groups with different owners become one: the higher epoch wins, and the other node
// goes on with its address until the winner has it, although that one hears late.
func TestMergeIsMakeBeforeBreak(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.bind(low, loadbalancer.Cluster, "a", "c", "b")
		s.wait(time.Second)
		s.powerCut("a")
		s.wait(time.Second)
		s.start("a")
		s.wait(time.Second)
		s.expectOwner("before", low, "c@2")
		s.expectOwner("before", vip, "b@1")
		s.share(low, low, vip)
		s.group(low, vip)
		s.expectWatch("merged", vip, "c")
		s.expectWatch("merged", low, "c")
		s.expectOwner("merged", vip, "c@2")
		s.expectOwner("merged", low, "c@2")
	})
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.bind(low, loadbalancer.Cluster, "c", "a", "b")
		s.wait(time.Second)
		s.freeze("b")
		s.share(low, low, vip)
		s.group(low, vip)
		if got := s.watch(low, linger/2); got != "c" {
			s.t.Errorf("while the winner has not heard %q answers for %s", got, low)
		}
		s.thaw("b")
		s.expectWatch("merged", vip, "b")
		s.expectWatch("merged", low, "b")
		s.expectOwner("merged", vip, "b@1")
		s.expectOwner("merged", low, "b@1")
	})
}

// Sharers under the Local policy have one owner, where both have pods; it follows them.
func TestLocalSharersHaveOneOwner(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.serve("a", "b")
		s.bind(vip, loadbalancer.Local, "b", "c", "a")
		s.bind(low, loadbalancer.Local, "a", "c", "b")
		s.wait(time.Second)
		s.share(low, low, vip)
		s.group(low, vip)
		s.wait(time.Second)
		s.expectOwner("at first", vip, "a@1")
		s.serve("c")
		s.wait(time.Second)
		s.expectOwner("moved", vip, "c@2")
		s.expectOwner("moved", low, "c@2")
	})
}

// A gateway of any node is announced by none, whoever it was given to.
func TestGatewayIsNotAnnounced(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		c := s.nodes["c"]
		c.mu.Lock()
		c.gateways = []netip.Addr{netip.MustParseAddr(vip)}
		c.mu.Unlock()
		mark(c.agent.linksDirty)
		s.wait(linger + time.Second)
		s.expect("as a gateway", "", "")
		if n, ok := s.agents.Peek("c"); !ok || !slices.Equal(n.Status.Gateways, []string{vip}) {
			s.t.Errorf("NodeAgent is %+v", n)
		}
	})
}

// An address of a group that becomes a node's own is let go, also in the API; the other
// stays where it is.
func TestOneAddressOfAGroupGoes(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.bind(low, loadbalancer.Cluster, "b", "c", "a")
		s.share(low, low, vip)
		s.group(low, vip)
		s.wait(time.Second)
		s.expectOwner("before", low, "b@1")
		s.nodes["c"].plug(netip.MustParsePrefix(low + "/24"))
		s.expectWatch("after", vip, "b")
		s.expectWatch("after", low, "")
		s.expectOwner("after", vip, "b@1")
		s.expectOwner("after", low, "")
	})
}

// A second family comes in place: the owner announces both, and after its death one other
// does; a node on which IPv6 is off is none for such a group.
func TestSecondFamilyComes(t *testing.T) {
	t.Parallel()
	const six = "fd00::200"
	claim := v1alpha1.ClaimName(netip.MustParseAddr(six))
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		s.bind(six, loadbalancer.Cluster, "c", "b", "a")
		s.share(vip, vip, six)
		s.group(vip, claim)
		s.expectWatch("both families", vip, "b")
		s.expectWatch("both families", six, "b")
		s.expectOwner("both families", claim, "b@1")
		s.nodes["c"].noIPv6()
		s.powerCut("b")
		s.wait(time.Second)
		s.expectWatch("after the cut", vip, "a")
		s.expectWatch("after the cut", six, "a")
		s.expectOwner("after the cut", vip, s.owner(claim))
	})
}
