// SPDX-License-Identifier: Apache-2.0

package virtualserver_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

// before and after are two plans that differ in every way in which plans do.
func before() loadbalancer.Forwarding {
	f := plan(
		marked(markOurs, pods(1, 2)...), marked(markOurs+1, pods(3)...),
		service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...),
		service(vip(2), loadbalancer.UDP, "wlc", pods(1, 2)...),
		service(vip(3), loadbalancer.TCP, "mh", pods(2, 4)...),
		service(vip(4), loadbalancer.TCP, "sh", pods(1, 2)...),
		service(vip(5), loadbalancer.UDP, "rr", pods(1)...),
		service(vip(6), loadbalancer.SCTP, "rr", pods(1)...),
	)
	f.Served = []loadbalancer.Served{{Addr: vip(1), Protocol: loadbalancer.TCP, Port: 80, Mark: markOurs}}
	return f
}

func after() loadbalancer.Forwarding {
	affine := service(vip(1), loadbalancer.TCP, "wrr", weight(pod(1), 3), pod(3))
	affine.Affinity = time.Minute
	f := plan(
		marked(markOurs, pods(1, 3)...),
		affine,
		service(vip(2), loadbalancer.UDP, "wlc", pods(2, 5)...),
		service(vip(3), loadbalancer.TCP, "mh", pods(1, 3, 4)...),
		service(vip(4), loadbalancer.TCP, "sh", pods(2)...),
		service(vip(7), loadbalancer.TCP, "dh", pods(1, 2, 3)...),
	)
	f.Served = []loadbalancer.Served{{Addr: vip(1), Protocol: loadbalancer.TCP, Port: 80, Mark: markOurs}}
	return f
}

// settled is the table when all has drained.
func settled() []string {
	return []string{
		"0x4000 rr 9:1", "0xfa00001 rr 1:1 3:1", "10.96.0.1:80/TCP rr 9:1", "172.20.0.2:80/TCP rr 9:1",
		"192.0.2.1:80/TCP wrr 1m0s 1:3 3:1", "192.0.2.2:80/UDP wlc 2:1 5:1",
		"192.0.2.3:80/TCP mh 1:1 3:1 4:1", "192.0.2.4:80/TCP sh 2:1", "192.0.2.7:80/TCP dh 1:1 2:1 3:1",
	}
}

func busyNode(t *testing.T) *node {
	t.Helper()
	n := newNode()
	n.put(service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...))
	n.put(service(netip4(172, 20, 0, 2), loadbalancer.TCP, "rr", pods(9)...))
	n.put(marked(0x4000, pods(9)...))
	n.plan(t, before())
	return n
}

// again calls Check until nothing drains any more.
func (n *node) again(t *testing.T) {
	t.Helper()
	for range 70 {
		pass(time.Second)
		r := n.check(t)
		if r.Draining == 0 && r.Refused == nil {
			n.check(t)
			return
		}
	}
	r := n.check(t)
	t.Fatalf("still draining or refused after 70 s: %+v, %q", r, table(t, n.Fake))
}

// Whichever operation fails, and whether it was done all the same or not, the node is as
// planned a little later, and what belongs to others is as it was.
func TestEveryOperationMayFail(t *testing.T) {
	for _, late := range []bool{false, true} {
		for at := 1; ; at++ {
			ended := false
			synctest.Test(t, func(t *testing.T) {
				n := busyNode(t)
				n.Reset()
				fails := kerneltest.FailAt(at)
				n.Fault(func(o kerneltest.Op) error {
					if err := fails(o); err != nil && late {
						return kerneltest.Late(err)
					} else if err != nil {
						return err
					}
					return nil
				})
				r, err := n.servers.Apply(t.Context(), after())
				ended = len(n.Ops()) < at
				if op := n.Ops(); !ended && op[at-1].Writes() && err == nil && len(r.Refused) == 0 {
					t.Errorf("operation %d, late %t: nobody was told", at, late)
				}
				n.Fault(nil)
				n.again(t)
				if got := table(t, n.Fake); !slices.Equal(got, settled()) {
					t.Errorf("operation %d (late %t) failed: kernel has %q", at, late, got)
				}
				if n.Setting(expireNodest) != "0" {
					t.Errorf("operation %d (late %t) failed: connections are thrown away", at, late)
				}
			})
			if ended {
				t.Logf("%d operations, each failed once", at-1)
				break
			}
		}
	}
}

// Whenever the agent dies, the next one ends up where it would have.
func TestTheAgentMayDieAnywhere(t *testing.T) {
	for at := 1; ; at++ {
		ended := false
		synctest.Test(t, func(t *testing.T) {
			n := busyNode(t)
			n.Reset()
			n.Fault(kerneltest.CrashAt(at))
			_, _ = n.servers.Apply(t.Context(), after()) // It dies of it.
			ended = len(n.Ops()) < at
			n.Fault(nil)
			var addrs []addr
			for i := range 7 {
				addrs = append(addrs, vip(i+1))
			}
			next := &node{n.Fake, virtualserver.New(n.Fake, n.Fake, owned(virtualserver.Owned{Addrs: addrs}))}
			if r := next.plan(t, after()); r.Repaired != 0 {
				t.Errorf("died at %d: the next agent repaired %d", at, r.Repaired)
			}
			next.again(t)
			if got := table(t, n.Fake); !slices.Equal(got, settled()) {
				t.Errorf("died at operation %d: kernel has %q", at, got)
			}
			if n.Setting(expireNodest) != "0" {
				t.Errorf("died at %d: connections are thrown away", at)
			}
		})
		if ended {
			break
		}
	}
}

// meddled is a kernel in which somebody else does something before one of our operations.
type meddled struct {
	*kerneltest.Fake
	n, at int
	harm  func()
}

func (m *meddled) op() {
	if m.n++; m.n == m.at {
		m.harm()
	}
}

func (m *meddled) List() ([]kernel.ServerState, error) { m.op(); return m.Fake.List() }

func (m *meddled) Reals(k loadbalancer.VirtualServerKey) ([]kernel.RealState, error) {
	m.op()
	return m.Fake.Reals(k)
}

func (m *meddled) AddServer(v loadbalancer.VirtualServer) error { m.op(); return m.Fake.AddServer(v) }

func (m *meddled) UpdateServer(v loadbalancer.VirtualServer) error {
	m.op()
	return m.Fake.UpdateServer(v)
}

func (m *meddled) DeleteServer(k loadbalancer.VirtualServerKey) error {
	m.op()
	return m.Fake.DeleteServer(k)
}

func (m *meddled) AddReal(k loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	m.op()
	return m.Fake.AddReal(k, r)
}

func (m *meddled) UpdateReal(k loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	m.op()
	return m.Fake.UpdateReal(k, r)
}

func (m *meddled) DeleteReal(k loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error {
	m.op()
	return m.Fake.DeleteReal(k, r)
}

func (m *meddled) SetSysctl(name, value string) error { m.op(); return m.Fake.SetSysctl(name, value) }

// Others empty the table, take virtual servers or change them between any two operations.
func TestOthersMayInterfereAnywhere(t *testing.T) {
	for number, harm := range []func(*node){
		func(n *node) {
			n.Flush()
			n.put(service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...))
			n.put(service(netip4(172, 20, 0, 2), loadbalancer.TCP, "rr", pods(9)...))
			n.put(marked(0x4000, pods(9)...))
		},
		func(n *node) {
			n.Take(service(vip(1), loadbalancer.TCP, "").VirtualServerKey)
			n.Take(service(vip(2), loadbalancer.UDP, "").VirtualServerKey)
		},
		func(n *node) { n.put(service(vip(3), loadbalancer.TCP, "rr", pods(8)...)) },
		func(n *node) { n.put(service(vip(7), loadbalancer.TCP, "rr", pods(8)...)) },
	} {
		for at := 1; ; at++ {
			ended := false
			synctest.Test(t, func(t *testing.T) {
				n := busyNode(t)
				m := &meddled{Fake: n.Fake, at: at, harm: func() { harm(n) }}
				n.servers = virtualserver.New(m, m, owned(virtualserver.Owned{Addrs: []addr{vip(1), vip(2), vip(3), vip(4), vip(5), vip(6)}}))
				m.at = 0
				n.plan(t, before())
				m.n, m.at = 0, at
				n.plan(t, after())
				ended = m.n < at
				n.again(t)
				if got := table(t, n.Fake); !slices.Equal(got, settled()) {
					t.Errorf("harm %d before operation %d: kernel has %q", number, at, got)
				}
			})
			if ended {
				break
			}
		}
	}
}

// Random plans one after the other, with random faults, harm and restarts in between.
func TestConvergesWhateverCame(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 5))
			n := newNode()
			n.put(service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...))
			var f loadbalancer.Forwarding
			for range 15 {
				f = randomPlan(random)
				switch random.IntN(5) {
				case 0:
					fault := kerneltest.FailAt(len(n.Ops()) + 1 + random.IntN(20))
					n.Fault(fault)
				case 1:
					n.Flush()
					n.put(service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...))
				case 2:
					n.servers = virtualserver.New(n.Fake, n.Fake, owned(virtualserver.Owned{Addrs: []addr{vip(0), vip(1), vip(2), vip(3)}}))
				}
				_, _ = n.servers.Apply(t.Context(), f) // It may fail, now and then.
				pass(time.Duration(random.IntN(2000)) * time.Millisecond)
			}
			n.Fault(nil)
			n.plan(t, f)
			pass(2 * time.Second)
			n.again(t)
			fresh := newNode()
			fresh.put(service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...))
			fresh.plan(t, f)
			got, want := inOrder(t, n.Fake), inOrder(t, fresh.Fake)
			if !slices.Equal(got, want) {
				t.Errorf("seed %d: kernel has\n%q, a fresh one\n%q", seed, got, want)
			}
		})
	}
}

func randomPlan(random *rand.Rand) loadbalancer.Forwarding {
	var list []loadbalancer.VirtualServer
	schedulers := []string{"rr", "wlc", "mh", "sh", "dh", "fo"}
	for _, m := range []uint32{markOurs, markOurs + 1} {
		if random.IntN(3) > 0 {
			list = append(list, marked(m, randomPods(random)...))
		}
	}
	for i := range 4 {
		for _, p := range []loadbalancer.Protocol{loadbalancer.TCP, loadbalancer.UDP} {
			if random.IntN(3) > 0 {
				list = append(list, service(vip(i), p, schedulers[random.IntN(len(schedulers))], randomPods(random)...))
			}
		}
	}
	return plan(list...)
}

func randomPods(random *rand.Rand) []loadbalancer.RealServer {
	var out []loadbalancer.RealServer
	for i := range 6 {
		if random.IntN(2) == 0 {
			out = append(out, weight(pod(i+1), uint32(random.IntN(3))))
		}
	}
	return out
}

// inOrder is the table, sorted where the order of real servers means nothing: all of rr and
// wlc, and those without weight.
func inOrder(t *testing.T, f *kerneltest.Fake) []string {
	t.Helper()
	list, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		var zero, rest []string
		for _, r := range slices.Backward(s.Reals) {
			text := fmt.Sprintf("%s:%d", r.Addr, r.Weight)
			if r.Weight == 0 {
				zero = append(zero, text)
			} else {
				rest = append(rest, text)
			}
		}
		slices.Sort(zero)
		if s.Scheduler == "rr" || s.Scheduler == "wlc" {
			slices.Sort(rest)
		}
		out = append(out, fmt.Sprint(s.VirtualServerKey, s.Scheduler, s.Flags, s.Affinity, zero, rest, kernel.VIPLinkName))
	}
	return out
}
