// SPDX-License-Identifier: Apache-2.0

package virtualserver_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

type addr = netip.Addr

func netip4(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

func owned(o virtualserver.Owned) func(context.Context) (virtualserver.Owned, error) {
	return func(context.Context) (virtualserver.Owned, error) { return o, nil }
}

func writes(names ...string) func(kerneltest.Op) bool {
	return func(o kerneltest.Op) bool { return slices.Contains(names, o.Name) }
}

// put has somebody else make a virtual server.
func (n *node) put(v loadbalancer.VirtualServer) {
	s := kernel.ServerState{VirtualServer: v}
	s.Service, s.VirtualServer.Reals = loadbalancer.ServiceKey{}, nil
	for _, r := range slices.Backward(v.Reals) {
		s.Reals = append(s.Reals, kernel.RealState{RealServer: r})
	}
	n.Put(s)
}

func TestRepair(t *testing.T) {
	v, w := service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...), service(vip(2), loadbalancer.UDP, "wrr", pods(1)...)
	m := marked(markOurs, pods(1, 2)...)
	whole := []string{"0xfa00001 rr 1:1 2:1", "192.0.2.1:80/TCP rr 1:1 2:1", "192.0.2.2:80/UDP wrr 1:1"}
	for _, c := range []struct {
		name     string
		harm     func(*node)
		repaired int
	}{
		{"nothing", func(*node) {}, 0},
		{"flushed", func(n *node) { n.Flush() }, 3},
		{"one taken", func(n *node) { n.Take(w.VirtualServerKey) }, 1},
		{"all but marks taken", func(n *node) { n.Take(v.VirtualServerKey); n.Take(w.VirtualServerKey) }, 2},
		{"a real server taken", func(n *node) { x := v; x.Reals = pods(1); n.put(x) }, 1},
		{"a real server more", func(n *node) { x := w; x.Reals = pods(1, 7); n.put(x) }, 1},
		{"another weight", func(n *node) { x := m; x.Reals = []loadbalancer.RealServer{pod(1), weight(pod(2), 0)}; n.put(x) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode()
			n.apply(t, m, v, w)
			c.harm(n)
			if r := n.check(t); r.Repaired != c.repaired || r.Programmed != 3 || r.Refused != nil {
				t.Errorf("result %+v, want %d repaired", r, c.repaired)
			}
			n.wantTable(t, whole...)
			if r := n.check(t); r.Repaired != 0 {
				t.Errorf("repaired %d once more", r.Repaired)
			}
		})
	}
}

// Of many virtual servers some are looked at each second, in each range of addresses.
func TestRepairOfARange(t *testing.T) {
	n := newNode()
	var list []loadbalancer.VirtualServer
	for i := range 1000 {
		list = append(list, service(netip4(192, 1, byte(i/100), byte(i%100)), loadbalancer.TCP, "rr", pods(1)...))
	}
	n.apply(t, list...)
	for i := 500; i < 600; i++ {
		n.Take(list[i].VirtualServerKey)
	}
	if r := n.check(t); r.Repaired != 100 {
		t.Errorf("repaired %d of 100 in the first second", r.Repaired)
	}
	n.Take(list[777].VirtualServerKey)
	seconds := 0
	for repaired := 0; repaired == 0 && seconds < 100; seconds++ {
		repaired = n.check(t).Repaired
	}
	if seconds > 32 {
		t.Errorf("one of 1,000 missed for %d s", seconds)
	}
}

func TestRefusedAreNamedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.WithoutScheduler("mh")
		v, w := service(vip(1), loadbalancer.TCP, "mh", pods(1)...), service(vip(2), loadbalancer.TCP, "rr", pods(1)...)
		r := n.apply(t, v, w)
		if len(r.Refused) != 1 || r.Refused[0].Service != v.Service || r.Refused[0].Key != v.VirtualServerKey || !errors.Is(r.Refused[0].Err, kernel.ErrNoScheduler) {
			t.Fatalf("refused %+v", r.Refused)
		}
		n.wantTable(t, "192.0.2.2:80/TCP rr 1:1")
		// It does not cost more each second from then on, and others go on.
		tries := 0
		for range 60 {
			pass(time.Second)
			n.check(t)
			if slices.ContainsFunc(n.Ops(), writes("AddServer")) {
				tries++
			}
		}
		if tries < 3 || tries > 8 {
			t.Errorf("tried %d times in a minute", tries)
		}
		w.Reals = pods(1, 2)
		n.apply(t, v, w)
		n.wantOps(t, "AddReal 2")
		v.Scheduler = "sh"
		if r := n.apply(t, v, w); r.Refused != nil {
			t.Errorf("refused %+v", r.Refused)
		}
		n.wantTable(t, "192.0.2.1:80/TCP sh 1:1", "192.0.2.2:80/TCP rr 1:1 2:1")
		// A scheduler that is refused in place leaves the former, and the real servers go on.
		v.Scheduler, v.Reals = "mh", pods(1, 2)
		if r := n.apply(t, v, w); len(r.Refused) != 1 {
			t.Errorf("refused %+v", r.Refused)
		}
		n.wantTable(t, "192.0.2.1:80/TCP sh 1:1 2:1", "192.0.2.2:80/TCP rr 1:1 2:1")
		if r := n.apply(t, w); r.Refused != nil {
			t.Errorf("refused %+v, which is not wanted", r.Refused)
		}
		n.wantTable(t, "192.0.2.2:80/TCP rr 1:1 2:1")
	})
}

func TestErrNoIPVSEndsTheAttempt(t *testing.T) {
	n := newNode()
	n.Fault(func(o kerneltest.Op) error {
		if o.Name == "AddServer" {
			return kernel.ErrNoIPVS
		}
		return nil
	})
	if _, err := n.servers.Apply(t.Context(), plan(service(vip(1), loadbalancer.TCP, "rr"))); !errors.Is(err, kernel.ErrNoIPVS) {
		t.Errorf("error %v", err)
	}
}

// A node's own address: what another program has there is not ours to change.
func TestForeignAtANodeAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		v := service(netip4(172, 20, 0, 2), loadbalancer.TCP, "rr", pods(1)...)
		n.put(service(v.Addr, loadbalancer.TCP, "wlc", pods(9)...))
		other := service(v.Addr, loadbalancer.UDP, "wlc", pods(9)...)
		n.put(other)
		f := loadbalancer.Forwarding{
			VirtualServers: []loadbalancer.VirtualServer{v},
			Served:         []loadbalancer.Served{{Addr: v.Addr, Protocol: loadbalancer.TCP, Port: 80, Foreign: true}},
		}
		r := n.plan(t, f)
		if len(r.Refused) != 1 || !errors.Is(r.Refused[0].Err, virtualserver.ErrNotOurs) {
			t.Errorf("refused %+v", r.Refused)
		}
		n.wantOps(t, "SetSysctl")
		n.Take(v.VirtualServerKey)
		pass(time.Second)
		if r := n.check(t); r.Refused != nil {
			t.Errorf("refused %+v", r.Refused)
		}
		n.wantTable(t, "172.20.0.2:80/TCP rr 1:1", "172.20.0.2:80/UDP wlc 9:1")
		n.plan(t, loadbalancer.Forwarding{})
		n.wantTable(t, "172.20.0.2:80/UDP wlc 9:1")
	})
}

// kube-proxy may have made one for an address that is ours to serve.
func TestTakesOverAtAnAddressOfOurs(t *testing.T) {
	n := newNode()
	n.apply(t)
	v := service(vip(1), loadbalancer.TCP, "rr", pods(1)...)
	n.put(service(vip(1), loadbalancer.TCP, "wlc", pods(1, 9)...))
	if r := n.apply(t, v); r.Refused != nil {
		t.Errorf("refused %+v", r.Refused)
	}
	n.wantTable(t, "192.0.2.1:80/TCP rr 1:1 9:0")
	// One that was there when we read, at an address that was not ours then.
	n.put(service(vip(2), loadbalancer.TCP, "wlc", pods(1)...))
	n.Take(v.VirtualServerKey)
	n.check(t)
	n.check(t)
	if r := n.apply(t, v, service(vip(2), loadbalancer.TCP, "rr", pods(1)...)); r.Refused != nil {
		t.Errorf("refused %+v", r.Refused)
	}
	n.wantTable(t, "192.0.2.1:80/TCP rr 1:1", "192.0.2.2:80/TCP rr 1:1")
}

func TestReadOnlySettings(t *testing.T) {
	n := newNode()
	n.Fault(func(o kerneltest.Op) error {
		if o.Name == "SetSysctl" {
			return errors.New("read-only file system")
		}
		return nil
	})
	u := service(vip(1), loadbalancer.UDP, "rr", pods(1, 2)...)
	if _, err := n.servers.Apply(t.Context(), plan(u)); err == nil {
		t.Error("not told")
	}
	u.Reals = pods(1)
	if _, err := n.servers.Apply(t.Context(), plan(u)); err == nil {
		t.Error("not told")
	}
	n.wantTable(t, "192.0.2.1:80/UDP rr 1:1")
}

// What somebody made otherwise than we do is put right where it stands.
func TestOdd(t *testing.T) {
	n := newNode()
	v := service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...)
	s := kernel.ServerState{VirtualServer: v, Odd: true, Reals: []kernel.RealState{{RealServer: pod(2), Odd: true}, {RealServer: pod(1)}}}
	s.Service, s.VirtualServer.Reals = loadbalancer.ServiceKey{}, nil
	n.Put(s)
	n.apply(t, v)
	n.wantOps(t, "SetSysctl", "UpdateServer", "UpdateReal 2")
	n.apply(t, v)
	n.wantOps(t)
}

func TestPlanOutOfOrder(t *testing.T) {
	n := newNode()
	v, w := service(vip(1), loadbalancer.TCP, "rr", pods(1)...), service(vip(2), loadbalancer.TCP, "rr", pods(2)...)
	n.apply(t, w, v, w)
	n.wantTable(t, "192.0.2.1:80/TCP rr 1:1", "192.0.2.2:80/TCP rr 2:1")
	n.apply(t, v, w)
	n.wantOps(t)
	n.apply(t, w)
	n.wantTable(t, "192.0.2.2:80/TCP rr 2:1")
}

// Who interrupts an attempt has the rest done by the next, without a full reading.
func TestInterrupted(t *testing.T) {
	for at := 1; at < 30; at++ {
		n := busyNode(t)
		n.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		n.Fault(func(o kerneltest.Op) error {
			if o.N == at {
				cancel()
			}
			return nil
		})
		_, err := n.servers.Apply(ctx, after())
		cancel()
		n.Fault(nil)
		if err == nil && len(n.Ops()) > at+2 {
			t.Fatalf("went on for %d operations after %d", len(n.Ops())-at, at)
		}
		n.plan(t, after())
		if slices.ContainsFunc(n.Ops(), writes("List")) {
			t.Error("read everything anew")
		}
		n.check(t)
		n.check(t)
		if got := table(t, n.Fake); !slices.Equal(got, settled()) {
			t.Errorf("interrupted at %d: kernel has %q", at, got)
		}
	}
}

// What we may have made at a node's address, because the kernel did not say, is ours.
func TestMadeButNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		v := service(netip4(172, 20, 0, 2), loadbalancer.TCP, "rr", pods(1)...)
		f := loadbalancer.Forwarding{
			VirtualServers: []loadbalancer.VirtualServer{v},
			Served:         []loadbalancer.Served{{Addr: v.Addr, Protocol: loadbalancer.TCP, Port: 80, Foreign: true}},
		}
		n.Fault(func(o kerneltest.Op) error {
			if o.Name == "AddServer" && o.N < 5 {
				return kerneltest.Late(errors.New("no buffer space"))
			}
			return nil
		})
		if r := n.plan(t, f); len(r.Refused) != 1 {
			t.Errorf("refused %+v", r.Refused)
		}
		pass(time.Second)
		n.Fault(nil)
		if r := n.check(t); r.Refused != nil || r.Repaired != 0 {
			t.Errorf("result %+v", r)
		}
		n.wantTable(t, "172.20.0.2:80/TCP rr 1:1")
	})
}

// kube-proxy in ipvs mode has connections thrown away from its start on, for good.
func TestOthersHaveConnectionsThrownAway(t *testing.T) {
	n := newNode()
	n.apply(t, service(vip(1), loadbalancer.TCP, "rr", pods(1)...))
	if r := n.check(t); r.Expiring {
		t.Error("nobody did yet")
	}
	n.Settle(expireNodest, "1")
	if r := n.check(t); !r.Expiring || n.Setting(expireNodest) != "0" {
		t.Errorf("told: %t; it is %s", r.Expiring, n.Setting(expireNodest))
	}
	n.wantOps(t, "SetSysctl")
	if r := n.check(t); r.Expiring {
		t.Error("told again")
	}
}
