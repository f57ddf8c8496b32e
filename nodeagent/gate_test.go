// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
)

// What the kernel refuses is left to kube-proxy: no takeover waits for it.
func TestRefusedDoesNotDelayATakeover(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		for _, n := range abc() {
			s.nodes[n].table.WithoutScheduler("lc")
		}
		s.forwardTo(vip)
		s.record(vip, func(r *loadbalancer.Record) { r.Scheduler = "lc" })
		s.wait(10 * time.Second)
		s.expect("before", "a", "a@1")
		s.powerCut("a")
		s.wait(gateFor - time.Second)
		s.expect("without a", "b", "b@2")
	})
}

// Nor for what the kernel refuses to remove.
func TestStuckPlaneDelaysNothing(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.nodes["a"].crashAt(0)
		s.forwardTo("10.0.0.201")
		s.wait(30 * time.Second)
		if got := s.plane("a"); got != "kube-proxy/KernelRefuses@" {
			s.t.Errorf("it tells %s", got)
		}
		s.forwardTo(vip)
		s.wait(700 * time.Millisecond)
		s.expect("soon", "a", "a@1")
	})
}

// A plan that was made before it was known that this node forwards has nothing of that in
// it: programmed, it would remove what an earlier run left.
func TestPlansFromBeforeAreNotProgrammed(t *testing.T) {
	t.Parallel()
	f := newForwarder(dataPlaneAuto, planeDeps{}, nil, func() {})
	f.state.Store(&planeState{decided: true, forwards: true})
	l := &loop{a: &Agent{forward: f}}
	l.forward(t.Context(), plan.Snapshot{Self: "a"}, plan.NodeState{})
	if w, _ := f.wanted(); w.ready {
		t.Error("the data plane is to make the kernel empty")
	}
	l.forward(t.Context(), plan.Snapshot{Self: "a", Forwards: true}, plan.NodeState{})
	if w, _ := f.wanted(); !w.ready {
		t.Error("nor is a later plan programmed")
	}
}

// What cannot be seen is not taken to be gone.
func TestSteadyLook(t *testing.T) {
	t.Parallel()
	var seen surroundings.Report
	var err error
	look := steady(func(context.Context) (surroundings.Report, error) { return seen, err })
	seen.Against = reason.HostFirewall
	if got := look(t.Context()).Against; got != reason.HostFirewall {
		t.Errorf("there is %q", got)
	}
	seen.Against, err = "", errors.New("nft: interrupted")
	for range 2 {
		if got := look(t.Context()).Against; got != reason.HostFirewall {
			t.Errorf("while it cannot be seen there is %q", got)
		}
	}
	err = nil
	if got := look(t.Context()).Against; got != "" {
		t.Errorf("when it is gone there is %q", got)
	}
}

// The data plane's own moments with another setting are not taken for somebody else's, nor
// for what was there before this agent.
func TestPulseIsNotRecorded(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		const setting = "net/ipv4/vs/expire_nodest_conn"
		s.forwardTo(vip)
		s.wait(3 * time.Second)
		a := s.nodes["a"]
		if got := s.recorded("a"); got != recordedPlane {
			s.t.Errorf("recorded %s", got)
		}
		// It dies within such a moment.
		s.sigkill("a")
		a.table.Settle(setting, "1")
		s.start("a")
		s.wait(3 * time.Second)
		if got := a.table.Setting(setting) + " " + s.recorded("a"); got != "0 "+recordedPlane {
			s.t.Errorf("after a crash: %s", got)
		}
		// The loop comes round within another one.
		a.table.Settle(setting, "1")
		s.markAll()
		s.wait(200 * time.Millisecond)
		if got := a.table.Setting(setting); got != "1" {
			s.t.Error("the loop ended it")
		}
		a.table.Settle(setting, "0")
		s.terminate("a")
		if got := a.table.Setting(setting) + s.recorded("a"); got != "0" {
			s.t.Errorf("after the leave: %s", got)
		}
	})
}
