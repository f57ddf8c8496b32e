// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
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
