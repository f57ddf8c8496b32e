// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// A node that boots again has none of its old addresses, and must soon not count as if: the
// others would wait for it to watch the owner.
func TestPulseNoticesTheSecondPowerCutToo(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.expect("before", "b", "b@1")
		s.edit(vip, func(c *v1alpha1.IPClaim) { c.Spec.Successors = []string{"c", "a", "b"} })
		s.off("b")
		s.wait(600 * time.Millisecond)
		s.expect("after the first cut", "c", "c@2")
		s.setCut("b", true)
		s.wait(time.Second)
		s.start("b")
		s.wait(resume + 2*time.Second)
		s.off("c")
		s.wait(530 * time.Millisecond)
		s.expect("after the second cut", "a", "a@3")
	})
}

// A node whose cable is plugged in again hears of what was decided meanwhile from its peers,
// and only later from the API server. It takes nothing back before.
func TestLinkThatComesBackTakesNothingBack(t *testing.T) {
	t.Parallel()
	simulate(t, abcd(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.expect("before", "b", "b@1")
		b := s.nodes["b"]
		s.freeze("b")
		links := b.unplug()
		s.cutOff([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c", "d"})
		s.wait(5 * time.Second)
		s.expect("while it is away", "c", "c@2")
		b.replug(links)
		s.wait(700 * time.Millisecond)
		s.heal()
		s.wait(5 * time.Second)
		s.expect("after its return", "c", "c@2")
	})
}
