// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// splitViews is the sum of all agents' counters.
func (s *sim) splitViews() float64 {
	s.t.Helper()
	sum := 0.0
	for _, n := range s.nodes {
		families, err := n.agent.d.registry.Gather()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "fairlead_agent_split_views_total" {
				sum += f.GetMetric()[0].GetCounter().GetValue()
			}
		}
	}
	return sum
}

// heralds counts the gratuitous frames of a node's links since it was last called, of those
// that go to everybody.
func (n *simNode) heralds() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, w := range n.wires {
		for len(w.out) > 0 {
			if f := <-w.out; f[0]&1 == 1 {
				count++
			}
		}
	}
	return count
}

// The winner counts a split and tells the neighbours again: when it sees the rival, and
// when that is gone. What moves in plain sight is no split.
func TestSplitView(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]bool{"the winner sees the loser's claim": true, "the loser is quicker": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			splitView(t, held)
		})
	}
}

func splitView(t *testing.T, held bool) {
	t.Helper()
	owned(t, abcd(), func(s *sim) {
		s.freeze("b")
		s.cutOff([]loadbalancer.NodeName{"b"}, []loadbalancer.NodeName{"a", "c", "d"})
		s.wait(2 * time.Minute)
		if got := s.splitViews(); got != 0 {
			t.Errorf("%v splits while nobody sees one", got)
		}
		c := s.nodes["c"]
		c.heralds()
		s.wait(20 * time.Second)
		if got := c.heralds(); got != 0 {
			t.Fatalf("%d frames while nothing happens", got)
		}
		if held {
			s.sigstop("b")
		}
		s.heal()
		s.wait(500 * time.Millisecond)
		if held {
			s.sigcont("b")
		}
		s.wait(20 * time.Second)
		if got := c.heralds(); got == 0 {
			t.Error("the winner tells nobody")
		}
		s.one("after the heal", "c")
		if got := s.splitViews(); got != 1 {
			t.Errorf("%v splits counted, want one, by the winner", got)
		}
		s.thaw("b")
		s.wait(time.Minute)
		s.terminate("c")
		s.wait(10 * time.Second)
		s.expect("after a leave", "b", "b@3")
		if got := s.splitViews(); got != 1 {
			t.Errorf("%v splits counted, but a leave is none", got)
		}
	})
}
