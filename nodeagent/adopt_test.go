// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/arp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// begin stops a node's agent and watches who answers while it does.
func (s *sim) begin(name loadbalancer.NodeName, d time.Duration) string {
	s.nodes[name].cancel()
	seen := s.watch(vip, d)
	s.sigterm(name)
	return seen
}

// watching fails unless who answers changes as wanted.
func (s *sim) watching(when, want string, d time.Duration) {
	s.t.Helper()
	if got := s.watch(vip, d); got != want {
		s.t.Errorf("%s %q answered, want %q", when, got, want)
	}
}

func (s *sim) keptOn(name loadbalancer.NodeName) int {
	list, _ := s.kernelOf(name).Kept() // the fake's never fails
	return len(list)
}

func TestRestartKeepsTheAddress(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		if got := s.begin("b", time.Second); got != "b" {
			s.t.Errorf("while it stops %q answered", got)
		}
		if n, ok := s.agents.Peek("b"); !ok || n.Status.Conditions[0].Reason != "Restarting" || n.Status.Conditions[0].Status != "False" {
			s.t.Errorf("NodeAgent is %+v", n)
		}
		s.watching("while it is away", "b", 10*time.Second)
		s.expect("before the return", "b", "b@1")
		s.start("b")
		s.watching("after its return", "b", 5*time.Second)
		s.expect("after the return", "b", "b@2")
		if left := s.keptOn("b"); left > 0 {
			s.t.Errorf("the kernel still answers for %d addresses", left)
		}
	})
}

// Every agent of the cluster, one after the other, as the DaemonSet controller does it.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		for _, n := range abc() {
			if got := s.begin(n, time.Second); got != "b" {
				s.t.Errorf("while %s stops %q answered", n, got)
			}
			s.watching("while one is away", "b", 3*time.Second)
			s.start(n)
			s.watching("after its return", "b", 3*time.Second)
		}
		s.expect("in the end", "b", "b@2")
	})
}

// The kernel is silent before anybody takes over.
func TestRestartWithoutReturn(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.sigterm("b")
		s.watching("afterwards", "b,,c", 40*time.Second)
		s.expect("in the end", "c", "c@2")
		s.start("b")
		s.watching("after its return", "c", 5*time.Second)
	})
}

func TestPowerCutDuringRestart(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.sigterm("b")
		s.wait(3 * time.Second)
		s.powerCut("b")
		s.wait(500 * time.Millisecond)
		s.expect("after the cut", "c", "c@2")
	})
}

func TestStopWithTheAPIServerAway(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.kernelOf("b").set(func() { s.kernelOf("b").away = true })
		start := time.Now()
		s.nodes["b"].cancel()
		s.watching("while it stops", "b", 2500*time.Millisecond)
		s.sigterm("b")
		if took := time.Since(start); took > 3*time.Second {
			s.t.Errorf("it stopped after %s", took)
		}
		s.watching("while it is away", "b", 5*time.Second)
	})
}

// Without the right to add addresses every stop is a leave.
func TestRestartWithoutCapability(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.kernelOf("b").set(func() { s.kernelOf("b").deny = errors.New("operation not permitted") })
		s.sigterm("b")
		s.expect("after the stop", "c", "c@2")
	})
}

// The kubelet says why only after it said stop.
func TestShutdownThatIsKnownLate(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.nodes["b"].cancel()
		s.wait(100 * time.Millisecond)
		s.mu.Lock()
		s.marks["b"] = loadbalancer.Node{ShuttingDown: true}
		s.mu.Unlock()
		if got := s.watch(vip, time.Second); got != "b,bc,c" && got != "b,c" {
			s.t.Errorf("while it stops %q answered", got)
		}
		s.sigterm("b")
		s.expect("after the stop", "c", "c@2")
		if left := s.keptOn("b"); left > 0 {
			s.t.Errorf("the kernel still answers for %d addresses", left)
		}
	})
}

// An agent that starts while another restarts has never heard of it; neither has any if
// all of them are restarted at once.
func TestEverybodyRestarts(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		for _, n := range abc() {
			s.sigterm(n)
		}
		s.start("c")
		s.start("a")
		s.watching("without the owner's agent", "b", 15*time.Second)
		s.start("b")
		s.watching("with all of them", "b", 5*time.Second)
		s.expect("in the end", "b", "b@2")
	})
}

// Where the owner's kernel is silent too it does not wait.
func TestStartBesideADeadOwner(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		for _, n := range abc() {
			s.powerCut(n)
		}
		s.start("c")
		s.start("a")
		s.watching("then", ",c", time.Second)
		s.expect("in the end", "c", "c@2")
	})
}

// An agent that is away for longer than a restart takes is not coming back.
func TestStartWithoutTheOwnersAgent(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		for _, n := range abc() {
			s.sigterm(n)
		}
		s.wait(time.Second)
		s.start("c")
		s.start("a")
		s.watching("then", "b,,c", 31*time.Second)
		s.expect("in the end", "c", "c@2")
	})
}

// What is left to the kernel goes at once when it is no longer this node's.
func TestReturnToWhatOthersHave(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.powerCut("b")
		s.wait(2 * time.Second)
		s.expect("after the cut", "c", "c@2")
		left := []kernel.Kept{{Link: "eth0", Addr: netip.MustParseAddr(vip)}}
		if err := s.kernelOf("b").Keep(left, time.Hour); err != nil {
			s.t.Fatal(err)
		}
		s.start("b")
		s.wait(time.Millisecond)
		s.expect("after the return", "c", "c@2")
		if left := s.keptOn("b"); left > 0 {
			s.t.Errorf("the kernel still answers for %d addresses", left)
		}
	})
}

func TestReleaseWhileAway(t *testing.T) {
	t.Parallel()
	for name, release := range map[string]func(s *sim){
		"releasing": func(s *sim) { s.edit(vip, func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimReleasing }) },
		"gone":      func(s *sim) { s.claims.Delete(vip) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, abc(), func(s *sim) {
				s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
				s.wait(2 * time.Second)
				s.sigterm("b")
				release(s)
				s.wait(3 * time.Second)
				if got := s.who(vip); got != "b" {
					s.t.Errorf("before the return %q answers", got)
				}
				s.start("b")
				s.wait(time.Second)
				s.expect("after the return", "", "")
			})
		})
	}
}

// What is being given up stays given up over a restart.
func TestRestartDoesNotKeepWhatIsWithdrawn(t *testing.T) {
	t.Parallel()
	simulate(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a")
		s.wait(2 * time.Second)
		s.mu.Lock()
		for uid, r := range s.records {
			r.Advertisements = nil
			s.records[uid] = r
		}
		s.mu.Unlock()
		s.markAll()
		s.wait(500 * time.Millisecond)
		s.sigterm("a")
		if got := s.who(vip); got != "" || s.keptOn("a") > 0 {
			s.t.Errorf("%q answers", got)
		}
	})
}

// A node that gets one more address, which becomes the Node's, is the same node.
func TestRestartAtAnotherAddress(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		s.move("b")
		s.watching("while it is away", "b", 3*time.Second)
		s.start("b")
		s.watching("after its return", "b", 3*time.Second)
		s.expect("after its return", "b", "b@2")
		if s.nodes["a"].agent.health.state.Load() == nil || len(s.nodes["a"].done) > 0 {
			s.t.Error("another agent ended too")
		}
	})
}

// move gives the Node another address and waits until its agent has ended.
func (s *sim) move(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.readdress(netip.MustParseAddr("10.0.0.77"))
	if err := <-n.done; !errors.Is(err, errMoved) {
		s.t.Errorf("the agent ended with %v", err)
	}
	n.done <- nil
	s.setCut(name, true)
}

// A node that lost its old address cannot tell the others that its agent will be back.
func TestRestartUnheard(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(2 * time.Second)
		b := s.nodes["b"]
		b.mu.Lock()
		b.links = slices.Clone(b.links)
		b.links[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.77/24"), own6("b")}
		b.mu.Unlock()
		mark(b.agent.linksDirty)
		s.wait(10 * time.Millisecond)
		s.move("b")
		s.wait(unheard)
		if left := s.keptOn("b"); left > 0 {
			s.t.Errorf("after %s the kernel still answers for %d addresses", unheard, left)
		}
	})
}

// The kernel goes on while it is not known whose the address is, and while the agent would
// take it over but may not.
func TestKernelGoesOn(t *testing.T) {
	t.Parallel()
	verdict := func(node loadbalancer.NodeName, epoch uint64, action placement.Action) plan.GroupState {
		return plan.GroupState{Verdict: placement.Verdict{Owner: loadbalancer.Ownership{Node: node, Epoch: epoch}, Action: action}}
	}
	mine, others, nobodys := loadbalancer.Ownership{Node: "b", Epoch: 3}, loadbalancer.Ownership{Node: "c", Epoch: 4}, loadbalancer.Ownership{}
	tests := map[string]struct {
		held      *holding
		persisted loadbalancer.Ownership
		verdict   plan.GroupState
		settled   bool
		want      bool
	}{
		"listening":                     {nil, mine, verdict("b", 0, placement.Wait), false, true},
		"in the minority":               {nil, mine, verdict("b", 0, placement.Wait), true, true},
		"not eligible yet, listening":   {nil, mine, verdict("", 0, placement.Wait), false, true},
		"not eligible":                  {nil, mine, verdict("", 0, placement.Wait), true, false},
		"never written, listening":      {nil, nobodys, verdict("c", 0, placement.Wait), false, true},
		"claimed by another, listening": {nil, mine, verdict("c", 4, placement.Wait), false, false},
		"another's in the API":          {nil, others, verdict("c", 0, placement.Wait), false, false},
		"another's":                     {nil, mine, verdict("c", 0, placement.Wait), true, false},
		"silent in a group of ours":     {nil, mine, verdict("b", 4, placement.Keep), true, false},
		"held, socket not open":         {&holding{interfaces: []string{"eth0"}}, mine, verdict("b", 4, placement.Keep), true, true},
		"held on another link":          {&holding{interfaces: []string{"eth1"}}, mine, verdict("b", 4, placement.Keep), true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hear := func(string, netip.Addr, kernel.MAC) {}
			addr := netip.MustParseAddr(vip)
			l := loop{held: holdings{}, a: &Agent{
				o:   Options{NodeName: "b"},
				arp: arp.New(nil, nil, 0, func() {}, hear), ndp: ndp.New(nil, nil, 0, func() {}, hear),
			}}
			if tt.held != nil {
				l.held[addr] = tt.held
			}
			c := loadbalancer.Claim{Addr: addr, Persisted: tt.persisted}
			if got := l.kernelAnswers(kernel.Kept{Link: "eth0", Addr: addr}, c, tt.verdict, tt.settled); got != tt.want {
				t.Errorf("kernelAnswers = %t, want %t", got, tt.want)
			}
		})
	}
}
