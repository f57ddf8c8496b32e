// SPDX-License-Identifier: Apache-2.0

package virtualserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

const (
	expireNodest = "net/ipv4/vs/expire_nodest_conn"
	markOurs     = 0x0fa00001
)

func vip(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
}

// pod number n; 0 weight is written as pods(…)[i].Weight = 0.
func pod(n int) loadbalancer.RealServer {
	a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	return loadbalancer.RealServer{RealServerKey: loadbalancer.RealServerKey{Addr: a, Port: 8080}, Weight: 1}
}

func pods(list ...int) []loadbalancer.RealServer {
	out := make([]loadbalancer.RealServer, 0, len(list))
	for _, n := range list {
		out = append(out, pod(n))
	}
	return out
}

func weight(r loadbalancer.RealServer, w uint32) loadbalancer.RealServer {
	r.Weight = w
	return r
}

func service(addr netip.Addr, p loadbalancer.Protocol, scheduler string, reals ...loadbalancer.RealServer) loadbalancer.VirtualServer {
	return loadbalancer.VirtualServer{
		VirtualServerKey: loadbalancer.VirtualServerKey{Addr: addr, Protocol: p, Port: 80},
		Service:          loadbalancer.ServiceKey{Namespace: "default", Name: "web" + strings.ReplaceAll(addr.String(), ".", "-")},
		Scheduler:        scheduler, Reals: reals,
	}
}

func marked(mark uint32, reals ...loadbalancer.RealServer) loadbalancer.VirtualServer {
	v := service(vip(1), 0, "rr", reals...)
	v.VirtualServerKey = loadbalancer.VirtualServerKey{Addr: netip.IPv4Unspecified(), Mark: mark}
	return v
}

func plan(list ...loadbalancer.VirtualServer) loadbalancer.Forwarding {
	f := loadbalancer.Forwarding{VirtualServers: list}
	for _, v := range list {
		if v.Mark == 0 && !slices.Contains(f.VIPs, v.Addr) {
			f.VIPs = append(f.VIPs, v.Addr)
		}
	}
	return f
}

func nothingOwned(context.Context) (virtualserver.Owned, error) { return virtualserver.Owned{}, nil }

// node is a kernel and the virtual servers that an agent keeps in it.
type node struct {
	*kerneltest.Fake
	servers *virtualserver.Servers
}

func newNode() *node {
	f := kerneltest.New()
	return &node{f, virtualserver.New(f, f, nothingOwned)}
}

func (n *node) apply(t *testing.T, list ...loadbalancer.VirtualServer) virtualserver.Result {
	t.Helper()
	return n.plan(t, plan(list...))
}

func (n *node) plan(t *testing.T, f loadbalancer.Forwarding) virtualserver.Result {
	t.Helper()
	n.Reset()
	r, err := n.servers.Apply(t.Context(), f)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return r
}

func (n *node) check(t *testing.T) virtualserver.Result {
	t.Helper()
	n.Reset()
	r, err := n.servers.Check(t.Context())
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return r
}

// wantTable compares the kernel's table: one line for each virtual server, its real servers in
// the order in which they were added.
func (n *node) wantTable(t *testing.T, want ...string) {
	t.Helper()
	if got := table(t, n.Fake); !slices.Equal(got, want) {
		t.Errorf("kernel has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// lister is a kernel, real or not.
type lister interface {
	List() ([]kernel.ServerState, error)
}

func table(t *testing.T, k lister) []string {
	t.Helper()
	list, err := k.List()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		line := fmt.Sprintf("%s:%d/%s %s", s.Addr, s.Port, s.Protocol, s.Scheduler)
		if s.Mark != 0 {
			line = fmt.Sprintf("%#x %s", s.Mark, s.Scheduler)
		}
		if s.Flags != 0 {
			line += fmt.Sprintf(" flags %#x", uint32(s.Flags))
		}
		if s.Affinity != 0 {
			line += " " + s.Affinity.String()
		}
		for _, r := range slices.Backward(s.Reals) {
			line += fmt.Sprintf(" %d:%d", r.Addr.As4()[3], r.Weight)
		}
		out = append(out, line)
	}
	return out
}

// wantOps compares the operations that change something, since the last call.
func (n *node) wantOps(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, o := range n.Ops() {
		if !o.Writes() {
			continue
		}
		s := o.Name
		if o.Real.Addr.IsValid() {
			s += fmt.Sprintf(" %d", o.Real.Addr.As4()[3])
		}
		got = append(got, s)
	}
	if !slices.Equal(got, want) {
		t.Errorf("operations %q, want %q", got, want)
	}
}

func TestApply(t *testing.T) {
	n := newNode()
	first := service(vip(1), loadbalancer.TCP, "rr", pods(1, 2)...)
	r := n.apply(t, marked(markOurs, pods(1, 2)...), first, service(vip(2), loadbalancer.SCTP, "wlc"))
	if r.Programmed != 3 || r.Refused != nil || r.Repaired != 0 {
		t.Errorf("result %+v", r)
	}
	n.wantTable(t, "0xfa00001 rr 1:1 2:1", "192.0.2.1:80/TCP rr 1:1 2:1", "192.0.2.2:80/SCTP wlc")

	t.Run("the same again costs nothing", func(t *testing.T) {
		n.apply(t, marked(markOurs, pods(1, 2)...), first, service(vip(2), loadbalancer.SCTP, "wlc"))
		if ops := n.Ops(); len(ops) > 0 {
			t.Errorf("operations %v", ops)
		}
	})
	t.Run("one pod more", func(t *testing.T) {
		first.Reals = pods(1, 2, 3)
		n.apply(t, marked(markOurs, pods(1, 2)...), first, service(vip(2), loadbalancer.SCTP, "wlc"))
		n.wantOps(t, "AddReal 3")
	})
	t.Run("another scheduler, in place", func(t *testing.T) {
		first.Scheduler = "wrr"
		n.apply(t, marked(markOurs, pods(1, 2)...), first, service(vip(2), loadbalancer.SCTP, "wlc"))
		n.wantOps(t, "UpdateServer")
	})
	t.Run("affinity, in place", func(t *testing.T) {
		first.Affinity = 3 * time.Hour
		n.apply(t, marked(markOurs, pods(1, 2)...), first, service(vip(2), loadbalancer.SCTP, "wlc"))
		n.wantOps(t, "UpdateServer")
	})
	t.Run("a Service and its mark go", func(t *testing.T) {
		n.apply(t, service(vip(2), loadbalancer.SCTP, "wlc"), service(vip(3), loadbalancer.TCP, "rr", pods(7)...))
		if ops := n.Ops(); ops[0].Name != "AddServer" {
			t.Errorf("first %v, want what is new", ops[0])
		}
		n.wantTable(t, "192.0.2.2:80/SCTP wlc", "192.0.2.3:80/TCP rr 7:1")
	})
}

func TestHashedOrderIsThatOfAFreshNode(t *testing.T) {
	for _, scheduler := range []string{"mh", "sh", "dh", "fo", "ovf"} {
		t.Run(scheduler, func(t *testing.T) {
			old, fresh := newNode(), newNode()
			old.apply(t, service(vip(1), loadbalancer.TCP, scheduler, pods(2, 4, 6)...))
			old.apply(t, service(vip(1), loadbalancer.TCP, scheduler, pods(2, 3, 4, 6)...))
			old.apply(t, service(vip(1), loadbalancer.TCP, scheduler, pods(3, 4, 6)...))
			old.apply(t, service(vip(1), loadbalancer.TCP, scheduler, pods(1, 3, 4, 6)...))
			old.check(t) // pod 2 has no connections
			fresh.apply(t, service(vip(1), loadbalancer.TCP, scheduler, pods(1, 3, 4, 6)...))
			fresh.wantTable(t, "192.0.2.1:80/TCP "+scheduler+" 1:1 3:1 4:1 6:1")
			old.wantTable(t, table(t, fresh.Fake)...)
		})
	}
}

func TestOneEndpointAmongTenThousand(t *testing.T) {
	n := newNode()
	var list []loadbalancer.VirtualServer
	for i := range 10000 {
		v := service(netip.AddrFrom4([4]byte{192, 1, byte(i >> 8), byte(i)}), loadbalancer.TCP, "rr", pods(1, 2, 3)...)
		list = append(list, v)
	}
	if r := n.apply(t, list...); r.Programmed != 10000 {
		t.Fatalf("programmed %d", r.Programmed)
	}
	list = slices.Clone(list)
	list[4711].Reals = pods(1, 2, 3, 4)
	begin := time.Now()
	n.apply(t, list...)
	t.Logf("one more of 10,000: %v", time.Since(begin))
	if ops := n.Ops(); len(ops) != 1 {
		t.Errorf("one more: %v", ops)
	}
	list = slices.Clone(list)
	list[4711].Reals = pods(1, 2, 4)
	n.apply(t, list...)
	if ops := n.Ops(); len(ops) != 1 {
		t.Errorf("one less: %v", ops)
	}
	n.check(t)
	if ops := n.Ops(); len(ops) > 40 {
		t.Errorf("a check: %d operations", len(ops))
	}
	n.wantOps(t, "DeleteReal 3")
	list = slices.Delete(slices.Clone(list), 4711, 4712)
	n.apply(t, list...)
	if ops := n.Ops(); len(ops) != 1 {
		t.Errorf("one virtual server less: %v", ops)
	}
}

// pass lets time go by, in a bubble of synctest.
func pass(d time.Duration) { <-time.After(d) }
