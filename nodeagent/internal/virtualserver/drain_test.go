// SPDX-License-Identifier: Apache-2.0

package virtualserver_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

func (n *node) connect(t *testing.T, v loadbalancer.VirtualServer, number int, active, inactive uint32) {
	t.Helper()
	if err := n.Connect(v.VirtualServerKey, pod(number).RealServerKey, active, inactive); err != nil {
		t.Fatal(err)
	}
}

func TestDrainUntilTheLastConnection(t *testing.T) {
	n := newNode()
	v := service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...)
	n.apply(t, v)
	n.connect(t, v, 1, 1, 1)
	v.Reals = pods(2)
	if r := n.apply(t, v); r.Draining != 1 {
		t.Errorf("draining %d, want 1", r.Draining)
	}
	n.wantOps(t, "UpdateReal 1")
	n.check(t)
	n.connect(t, v, 1, 0, 1)
	n.check(t)
	n.wantTable(t, "192.0.2.1:80/TCP rr 1:0 2:1")
	n.connect(t, v, 1, 0, 0)
	if r := n.check(t); r.Draining != 0 {
		t.Errorf("draining %d, want 0", r.Draining)
	}
	n.wantOps(t, "DeleteReal 1")
	n.wantTable(t, "192.0.2.1:80/TCP rr 2:1")
}

func TestDrainUntilTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		v := service(vip(1), loadbalancer.SCTP, "wlc", pods(1, 2)...)
		n.apply(t, v)
		n.connect(t, v, 1, 5, 0)
		v.Reals = pods(2)
		n.apply(t, v)
		pass(59 * time.Second)
		n.check(t)
		n.wantOps(t)
		pass(time.Second)
		n.check(t)
		n.wantOps(t, "SetSysctl", "DeleteReal 1", "SetSysctl")
		if s := n.Setting(expireNodest); s != "0" {
			t.Errorf("setting left at %s", s)
		}
	})
}

func TestBackWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, scheduler := range []string{"rr", "mh"} {
			n := newNode()
			v := service(vip(1), loadbalancer.TCP, scheduler, pods(1, 2)...)
			n.apply(t, v)
			n.connect(t, v, 2, 5, 0)
			v.Reals = pods(1)
			n.apply(t, v)
			if scheduler == "mh" {
				n.connect(t, v, 2, 5, 0) // The fake forgets them, the kernel does not.
			}
			pass(50 * time.Second)
			n.check(t)
			v.Reals = pods(1, 2)
			if r := n.apply(t, v); r.Draining != 0 {
				t.Errorf("draining %d", r.Draining)
			}
			n.wantTable(t, "192.0.2.1:80/TCP "+scheduler+" 1:1 2:1")
			n.connect(t, v, 2, 5, 0)
			// The time of the first farewell does not count for the second.
			v.Reals = pods(1)
			n.apply(t, v)
			n.connect(t, v, 2, 5, 0)
			pass(50 * time.Second)
			n.check(t)
			n.wantTable(t, "192.0.2.1:80/TCP "+scheduler+" 1:1 2:0")
		}
	})
}

func TestUDPGoesAtOnceWithItsConnections(t *testing.T) {
	n := newNode()
	v, m := service(vip(1), loadbalancer.UDP, "rr", pods(1, 2)...), marked(markOurs, pods(1, 2)...)
	f := plan(m, v)
	f.Served = []loadbalancer.Served{{Addr: vip(1), Protocol: loadbalancer.UDP, Port: 80, Mark: markOurs}}
	n.plan(t, f)
	n.connect(t, v, 1, 0, 9)
	m.Reals, v.Reals = pods(2), pods(2)
	served := f.Served
	f = plan(m, v)
	f.Served = served
	n.plan(t, f)
	n.wantOps(t, "SetSysctl", "DeleteReal 1", "DeleteReal 1", "SetSysctl")
	n.wantTable(t, "0xfa00001 rr 2:1", "192.0.2.1:80/UDP rr 2:1")
	if s := n.Setting(expireNodest); s != "0" {
		t.Errorf("setting left at %s", s)
	}
	n.apply(t)
	n.wantOps(t, "SetSysctl", "DeleteServer", "DeleteServer", "SetSysctl")
}

func TestTCPGoesWithoutThrowingConnectionsAway(t *testing.T) {
	n := newNode()
	v, m := service(vip(1), loadbalancer.TCP, "rr", pods(1)...), marked(markOurs, pods(1)...)
	f := plan(m, v)
	f.Served = []loadbalancer.Served{{Addr: vip(1), Protocol: loadbalancer.TCP, Port: 80, Mark: markOurs}}
	n.plan(t, f)
	n.apply(t)
	n.wantOps(t, "DeleteServer", "DeleteServer")
}

// The setting throws away the connections of all that is missing, so it must not be on when
// somebody has just emptied the table.
func TestNoConnectionsAreThrownAwayWhenTheTableIsEmpty(t *testing.T) {
	n := newNode()
	v, u := service(vip(1), loadbalancer.TCP, "rr", pods(1)...), service(vip(2), loadbalancer.UDP, "rr", pods(1, 2)...)
	n.apply(t, v, u)
	n.Flush()
	u.Reals = pods(1)
	if r := n.apply(t, v, u); r.Repaired != 2 {
		t.Errorf("repaired %d, want 2", r.Repaired)
	}
	n.wantOps(t, "AddServer", "AddReal 1", "AddServer", "AddReal 1")
}

func TestSourceHashFallsBackWhileOneIsWithoutWeight(t *testing.T) {
	n := newNode()
	v := service(vip(1), loadbalancer.TCP, "sh", pods(1, 2)...)
	n.apply(t, v)
	n.wantTable(t, "192.0.2.1:80/TCP sh 1:1 2:1")
	v.Reals = pods(2)
	n.apply(t, v)
	n.wantOps(t, "UpdateServer", "DeleteReal 1", "AddReal 1")
	n.wantTable(t, "192.0.2.1:80/TCP sh flags 0x8 2:1 1:0")
	n.check(t)
	n.wantTable(t, "192.0.2.1:80/TCP sh 2:1")
}

func TestMovingWaitsForTheKernelToThrowAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		u, v := service(vip(1), loadbalancer.UDP, "rr", pods(1, 2)...), service(vip(2), loadbalancer.TCP, "mh", pods(1, 3)...)
		n.apply(t, u, v)
		u.Reals = pods(1)
		n.apply(t, u, v)
		begin := time.Now()
		v.Reals = pods(1, 2, 3)
		n.apply(t, u, v)
		if d := time.Since(begin); d < 20*time.Millisecond || d > time.Second {
			t.Errorf("waited %v", d)
		}
		n.wantTable(t, "192.0.2.1:80/UDP rr 1:1", "192.0.2.2:80/TCP mh 1:1 2:1 3:1")
	})
}

// What an earlier run left is drained as if it had gone just now.
func TestAdopt(t *testing.T) {
	n := newNode()
	kept, gone := service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...), service(vip(2), loadbalancer.TCP, "rr", pods(1)...)
	listed := service(vip(3), loadbalancer.TCP, "rr", pods(1)...)
	n.apply(t, marked(markOurs, pods(1)...), marked(markOurs+1, pods(1)...), kept, gone, listed)
	theirs := service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(1)...)
	n.put(theirs)
	n.put(marked(0x4000, pods(1)...))
	kept.Reals = pods(2, 3)

	next := &node{n.Fake, virtualserver.New(n.Fake, n.Fake, owned(virtualserver.Owned{
		Addrs: []addr{vip(1), vip(2)}, Keys: []loadbalancer.VirtualServerKey{listed.VirtualServerKey},
	}))}
	n.connect(t, kept, 1, 1, 0)
	r := next.apply(t, marked(markOurs, pods(1)...), kept)
	if r.Repaired != 0 || r.Draining != 1 {
		t.Errorf("result %+v", r)
	}
	next.wantTable(t, "0x4000 rr 1:1", "0xfa00001 rr 1:1", "10.96.0.1:80/TCP rr 1:1", "192.0.2.1:80/TCP rr 1:0 2:1 3:1")
	if slices.ContainsFunc(next.Ops(), writes("AddServer", "UpdateServer")) {
		t.Errorf("not adopted: %v", next.Ops())
	}
	if err := next.servers.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.wantTable(t, "0x4000 rr 1:1", "10.96.0.1:80/TCP rr 1:1")
}

// Somebody empties the table: connections that drain are not cut, and have no more time than
// they had.
func TestDrainingOutlivesAFlush(t *testing.T) {
	for _, scheduler := range []string{"rr", "mh", "sh"} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode()
			v := service(vip(1), loadbalancer.TCP, scheduler, pods(1, 2)...)
			n.apply(t, v)
			v.Reals = pods(2)
			n.apply(t, v)
			pass(40 * time.Second)
			n.Flush()
			if r := n.check(t); r.Repaired != 1 || r.Draining != 1 {
				t.Errorf("result %+v", r)
			}
			n.connect(t, v, 1, 3, 0)
			n.check(t)
			if got := table(t, n.Fake); len(got) != 1 || !strings.HasSuffix(got[0], " 2:1 1:0") {
				t.Errorf("kernel has %q", got)
			}
			pass(20 * time.Second)
			n.check(t)
			n.check(t)
			n.wantTable(t, "192.0.2.1:80/TCP "+scheduler+" 2:1")
		})
	}
}
