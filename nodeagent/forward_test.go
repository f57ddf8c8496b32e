// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
)

const (
	vipForwarded  = vip + "; take " + vip + ":80; " + vip + ":80 10.244.1.1=1 10.244.2.1=1 10.244.3.1=1; inside 1"
	nothing       = "inside 0"
	recordedIPVS  = "net/ipv4/vs/conntrack:0>1 net/ipv4/vs/expire_nodest_conn:0>0 net/ipv4/vs/expire_quiescent_template:0>1"
	recordedPlane = "net/ipv4/conf/eth0/arp_announce:0>2 net/ipv4/conf/eth0/arp_ignore:0>1 net/ipv4/conf/eth1/arp_announce:0>2 net/ipv4/conf/eth1/arp_ignore:0>1 " + recordedIPVS
)

func (s *sim) expectPlane(when, node, want string) {
	s.t.Helper()
	if got := s.nodes[loadbalancer.NodeName(node)].forwards(s.t); got != want {
		s.t.Errorf("%s: %s forwards\n%s, want\n%s", when, node, got, want)
	}
}

// Every node forwards every address, so that a takeover needs nothing but an announcement;
// the kernel is silent about it, and settings are recorded.
func TestEveryNodeForwards(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		for _, n := range []string{"a", "b", "c"} {
			s.expectPlane("programmed", n, vipForwarded)
			if got := s.plane(n); got != "ipvs/@1" {
				s.t.Errorf("%s tells %s", n, got)
			}
			if got := s.recorded(n); got != recordedPlane {
				s.t.Errorf("%s recorded %s", n, got)
			}
		}
		s.expect("programmed", "a", "a@1")
		a := s.nodes["a"]
		if got := a.has("eth0") + " " + a.has("lo") + " " + a.table.Setting("net/ipv4/vs/conntrack"); got != "1/2 0/0 1" {
			s.t.Errorf("settings: %s", got)
		}
	})
}

// Nothing is bound before the kernel is silent about it: it would answer on every node.
func TestSilentBeforeBound(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		a := s.nodes["a"]
		a.fail(func(what string) error {
			if strings.HasPrefix(what, "AddVIP") && a.has("eth0") != "1/2" {
				s.t.Error("bound while eth0 has " + a.has("eth0"))
			}
			return nil
		})
		s.agents.FailWith(func() error { return errors.New("the API server is away") })
		s.forwardTo(vip)
		s.wait(time.Minute)
		s.expectPlane("unrecorded", "a", nothing)
		s.agents.FailWith(nil)
		s.wait(time.Minute)
		s.expectPlane("recorded", "a", vipForwarded)
	})
}

// An address is announced when it is programmed, or after a while: kube-proxy may serve it.
func TestAnnouncedWhenProgrammed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ fails, announced time.Duration }{
		"at once": {0, 700 * time.Millisecond}, "late": {time.Second, 2600 * time.Millisecond}, "never": {time.Hour, 3200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
				s.forwardTo("10.0.0.201")
				s.wait(3 * time.Second)
				a, begin := s.nodes["a"], time.Now()
				a.fail(func(string) error {
					if time.Since(begin) < c.fails {
						return errors.New("no memory")
					}
					return nil
				})
				s.forwardTo(vip)
				for s.who(vip) == "" && time.Since(begin) < 10*time.Second {
					s.wait(10 * time.Millisecond)
				}
				took := time.Since(begin)
				if took > c.announced || took < min(c.fails, gateFor) {
					s.t.Errorf("announced after %s, want at most %s", took, c.announced)
				}
			})
		})
	}
}

// A node that cannot forward leaves it to kube-proxy, says why, and announces all the same.
func TestPlaneRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks func(a *simNode)
		mode   string
		want   string
	}{
		"no ip_vs":         {func(a *simNode) { a.opening = kernel.ErrNoIPVS }, "", "KernelWithoutIPVS"},
		"no nft":           {func(a *simNode) { a.opening = errors.New("exec: nft: not found") }, "", "KernelRefuses"},
		"nothing can be":   {func(a *simNode) { a.crashAt(0) }, "", "KernelRefuses"},
		"read-only sysctl": {func(a *simNode) { a.fixed = errors.New("read-only file system") }, "", "KernelRefuses"},
		"not silent":       {func(a *simNode) { a.refuse = errors.New("operation not permitted") }, "", "KernelRefuses"},
		"asked for":        {func(*simNode) {}, dataPlaneKubeProxy, "LeftToKubeProxy"},
		"calico":           {func(a *simNode) { a.around.Against = reason.CNIBypassed }, "", "CNIBypassed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, nil, func(s *sim) {
				s.ipvs, s.dataPlane = true, c.mode
				c.breaks(&simNode{simKernel: s.kernelOf("a")})
				s.start("a")
				s.wait(time.Second)
				s.forwardTo(vip)
				s.wait(10 * time.Second)
				s.expect("refused", "a", "a@1")
				if got, want := s.plane("a"), "kube-proxy/"+c.want+"@"; got != want {
					s.t.Errorf("tells %s, want %s", got, want)
				}
				s.expectPlane("refused", "a", nothing)
			})
		})
	}
}

// What speaks against forwarding is overridden by the flag, and is looked at again.
func TestForwardingIsTakenBack(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		a := s.nodes["a"]
		a.see(surroundings.Report{Against: reason.HostFirewall, Message: "ufw"})
		for s.plane("a") != "kube-proxy/HostFirewall@" {
			s.wait(100 * time.Millisecond)
		}
		// The controller has kube-proxy take the address first.
		s.wait(handBack - 2*time.Second)
		s.expectPlane("told", "a", vipForwarded)
		s.wait(3 * time.Second)
		s.expectPlane("given back", "a", nothing)
		s.expect("given back", "a", "a@1")
		a.see(surroundings.Report{})
		s.wait(lookAgain + 2*time.Second)
		s.expectPlane("allowed again", "a", vipForwarded)
		if got := s.plane("a"); got != "ipvs/@1" {
			s.t.Errorf("tells %s", got)
		}
	})
}

// A run that is not to forward says so before it takes away what an earlier one left.
func TestForwardingIsTakenBackAfterARestart(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		s.sigterm("a")
		s.dataPlane = dataPlaneKubeProxy
		s.start("a")
		s.wait(handBack - 2*time.Second)
		s.expectPlane("told", "a", vipForwarded)
		if got := s.plane("a"); got != "kube-proxy/LeftToKubeProxy@" {
			s.t.Errorf("tells %s", got)
		}
		s.wait(4 * time.Second)
		s.expectPlane("given back", "a", nothing)
	})
}

// A virtual server that the kernel refuses is left to kube-proxy, the rest goes on.
func TestOneRefused(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.nodes["a"].table.WithoutScheduler("lc")
		s.forwardTo(vip)
		s.forwardTo("10.0.0.201")
		s.record("10.0.0.201", func(r *loadbalancer.Record) { r.Scheduler = "lc" })
		s.wait(3 * time.Second)
		s.expectPlane("refused", "a", "10.0.0.200; 10.0.0.201; take 10.0.0.200:80; 10.0.0.200:80 10.244.1.1=1 10.244.2.1=1 10.244.3.1=1; inside 1")
		if got := s.plane("a"); got != "ipvs/@3 d/10.0.0.201" {
			s.t.Errorf("tells %s", got)
		}
	})
}

// A restart leaves everything in the kernel, and the next run goes on with it.
func TestRestartLeavesThePlane(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		a := s.nodes["a"]
		a.takeOps()
		s.sigterm("a")
		s.expectPlane("restarting", "a", vipForwarded)
		if got := a.takeOps(); len(got) > 0 {
			s.t.Errorf("stopping did %v", got)
		}
		if got := s.plane("a"); got != "ipvs/@1" {
			s.t.Errorf("restarting, it tells %s", got)
		}
		s.remove(vip)
		s.forwardTo("10.0.0.201")
		s.start("a")
		s.wait(3 * time.Second)
		s.expectPlane("back", "a", strings.ReplaceAll(vipForwarded, vip, "10.0.0.201"))
		if got := s.nodes["a"].table.Setting("net/ipv4/vs/conntrack") + " " + s.recorded("a"); got != "1 "+recordedPlane {
			s.t.Errorf("back, it has %s", got)
		}
	})
}

// The run after a restart takes nothing from the guard that is still served.
func TestRestartIsUnseen(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		s.sigterm("a")
		a := s.nodes["a"]
		a.fail(func(what string) error {
			if got := served(s.t, a.nft); !slices.Equal(got, []string{vip + ":80"}) {
				s.t.Errorf("before %s the guard takes %v", what, got)
			}
			return nil
		})
		s.start("a")
		s.wait(3 * time.Second)
		a.fail(nil)
		s.expectPlane("back", "a", vipForwarded)
	})
}

// A leaving node tells it, withdraws, then removes everything and restores settings.
func TestLeaveRemovesThePlane(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		s.expect("before", "a", "a@1")
		a := s.nodes["a"]
		first := true
		a.fail(func(what string) error {
			if first && s.plane("a") != "kube-proxy/Leaving@" {
				s.t.Errorf("%s while it tells %s", what, s.plane("a"))
			}
			first = false
			return nil
		})
		s.terminate("a")
		s.expect("after the leave", "b", "b@2")
		s.expectPlane("after the leave", "a", nothing)
		if got := s.recorded("a") + a.table.Setting("net/ipv4/vs/conntrack") + a.has("eth0"); got != "00/0" {
			s.t.Errorf("after the leave: %s", got)
		}
		if got := s.plane("a"); got != "kube-proxy/Leaving@" {
			s.t.Errorf("after the leave it tells %s", got)
		}
		if a.nft.Table != nil {
			s.t.Error("the table is still there")
		}
	})
}

// Whoever removes what is ours finds it put back within 1.5 s, by the look of each second or
// by the event that comes with it.
func TestRepair(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		a := s.nodes["a"]
		for name, breaks := range map[string]func(){
			"table of virtual servers": a.table.Flush,
			"link":                     a.table.DropLink,
			"guard": func() {
				tx := a.nft.NewTransaction()
				tx.Delete(&knftables.Table{})
				if err := a.nft.Run(s.t.Context(), tx); err != nil {
					s.t.Error(err)
				}
				a.table.ChangeNFT()
			},
			"setting": func() { a.table.Settle("net/ipv4/vs/conntrack", "0") },
		} {
			breaks()
			s.wait(1500 * time.Millisecond)
			if name == "setting" {
				s.wait(resync)
			}
			s.expectPlane(name+" gone", "a", vipForwarded)
			if got := a.table.Setting("net/ipv4/vs/conntrack"); got != "1" {
				s.t.Errorf("%s gone: conntrack is %s", name, got)
			}
		}
		// What was begun without the guard was begun without its masquerade, for good.
		a.planing.Lock()
		if want := []netip.Addr{netip.MustParseAddr(vip)}; !slices.Equal(a.forgotten, want) {
			s.t.Errorf("half-open connections were forgotten to %v, want %v, once", a.forgotten, want)
		}
		a.planing.Unlock()
		a.table.Flush()
		a.notified()
		s.wait(2 * eventGap)
		s.expectPlane("with an event", "a", vipForwarded)
	})
}

// An agent may die at any moment: the next run makes everything as it should be.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	const want = "10.0.0.200; 10.0.0.202; take 10.0.0.200:443; take 10.0.0.202:80; " +
		"10.0.0.200:443 10.244.1.1=1 10.244.4.1=1; 10.0.0.202:80 10.244.1.1=1 10.244.4.1=1; inside 2"
	foreign := kernel.ServerState{VirtualServer: loadbalancer.VirtualServer{
		VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: loadbalancer.TCP, Port: 443}, Scheduler: "rr",
	}}
	// crash changes everything while the agent dies at step n, and returns the steps.
	crash := func(t *testing.T, n int) (steps int) {
		t.Helper()
		simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
			s.forwardTo(vip)
			s.forwardTo("10.0.0.201")
			s.wait(3 * time.Second)
			a := s.nodes["a"]
			a.table.Put(foreign)
			a.takeOps()
			a.crashAt(n)
			s.forwardTo(vip, 443)
			s.remove("10.0.0.201")
			s.forwardTo("10.0.0.202")
			s.setBackends(pod("10.244.1.1", "a"), pod("10.244.4.1", "b"))
			s.wait(3 * time.Second)
			steps = len(a.takeOps())
			s.sigkill("a")
			a.fail(nil)
			s.start("a")
			// Real servers that go have a minute to drain.
			s.wait(2 * time.Minute)
			if there, err := a.table.Has(foreign.VirtualServerKey); err != nil || !there {
				s.t.Errorf("step %d: the virtual server of another program is gone", n)
			}
			a.table.Take(foreign.VirtualServerKey)
			s.expectPlane(fmt.Sprintf("after a crash at step %d", n), "a", want)
		})
		return steps
	}
	steps := crash(t, 1000)
	if steps < 10 {
		t.Fatalf("only %d steps", steps)
	}
	for n := range steps {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			crash(t, n)
		})
	}
}

// The pods of a node that is dead get nothing new; those of one whose agent is away do.
func TestDeadNodes(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		s.sigkill("b")
		s.wait(10 * time.Second)
		s.expectPlane("without b's agent", "a", vipForwarded)
		s.start("b")
		s.wait(5 * time.Second)
		s.powerCut("c")
		s.wait(2 * time.Second)
		withoutC := strings.ReplaceAll(vipForwarded, "10.244.3.1=1", "10.244.3.1=0")
		s.expectPlane("without c", "a", withoutC)
		s.wait(10 * time.Minute)
		s.expectPlane("long after", "a", withoutC)
		s.start("c")
		s.wait(2 * time.Second)
		s.expectPlane("with c again", "a", vipForwarded)
	})
}

// A node that sees too few others takes no pod out, and neither does one that was stalled
// itself until it can know.
func TestDeadNodesOfADoubtfulView(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, abc(), func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		s.partKernels([]loadbalancer.NodeName{"a"}, []loadbalancer.NodeName{"b", "c"})
		s.partGossip([]loadbalancer.NodeName{"a"}, []loadbalancer.NodeName{"b", "c"})
		s.wait(10 * time.Second)
		s.expectPlane("cut off", "a", vipForwarded)
		s.expectPlane("majority", "b", strings.ReplaceAll(vipForwarded, "10.244.1.1=1", "10.244.1.1=0"))
	})
}

// The revision is told at once when a record changed, and seldom when only its status did.
func TestRevisionIsTold(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(3 * time.Second)
		before := s.agents.Writes()
		for range 10 {
			s.record(vip, func(*loadbalancer.Record) {})
			s.wait(time.Second)
		}
		if got, writes := s.plane("a"), s.agents.Writes()-before; got != "ipvs/@1" || writes > 0 {
			s.t.Errorf("after ten statuses it tells %s in %d writes", got, writes)
		}
		s.wait(revisionPace + resync)
		if got := s.plane("a"); got != "ipvs/@11" {
			s.t.Errorf("later it tells %s", got)
		}
		s.record(vip, func(r *loadbalancer.Record) { r.Advertisements = nil })
		s.wait(1100 * time.Millisecond)
		if got := s.plane("a"); got != "ipvs/@12" {
			s.t.Errorf("after a change it tells %s", got)
		}
	})
}

// While nothing changes nothing is written, to the kernel or to the API.
func TestQuietPlane(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a", "b"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(10 * time.Second)
		before := s.agents.Writes()
		s.nodes["a"].takeOps()
		s.wait(10 * time.Minute)
		if ops, writes := s.nodes["a"].takeOps(), s.agents.Writes()-before; len(ops) > 0 || writes > 0 {
			s.t.Errorf("in ten quiet minutes %v and %d writes", ops, writes)
		}
	})
}

// What the node forwards is told with the names that the kernel does not know.
func TestTrafficIsTold(t *testing.T) {
	t.Parallel()
	simulateIPVS(t, []loadbalancer.NodeName{"a"}, func(s *sim) {
		s.forwardTo(vip)
		s.wait(2 * time.Second)
		a := s.nodes["a"]
		key := loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr(vip), Protocol: loadbalancer.TCP, Port: 80}
		if err := a.table.Connect(key, loadbalancer.RealServerKey{Addr: netip.MustParseAddr("10.244.1.1"), Port: 8080}, 2, 1); err != nil {
			s.t.Fatal(err)
		}
		a.table.Put(kernel.ServerState{VirtualServer: loadbalancer.VirtualServer{
			VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: loadbalancer.TCP, Port: 443},
		}})
		r, err := a.agent.meter.Read()
		if err != nil {
			s.t.Fatal(err)
		}
		var got []string
		for i := range r.Servers {
			active, inactive := r.Servers[i].Connections()
			got = append(got, fmt.Sprintf("%s/%s %q %d/%s %d+%d", r.Servers[i].Namespace, r.Servers[i].Service, r.Servers[i].Address,
				r.Servers[i].Port, r.Servers[i].Protocol, active, inactive))
		}
		if got, want := strings.Join(got, "; "), `d/10.0.0.200 "" 80/TCP 0+0; d/10.0.0.200 "10.0.0.200" 80/TCP 2+1`; got != want {
			s.t.Errorf("told: %s, want %s", got, want)
		}
		if r.Forwarding != "ipvs" || r.Announced != 1 || r.Table.Entries != 3 {
			s.t.Errorf("told: %+v", r)
		}
	})
}
