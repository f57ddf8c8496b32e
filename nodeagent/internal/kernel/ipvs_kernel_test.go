// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// These tests need ip_vs and dummy. They are compiled only with the build tag ipvs, which
// says that the kernel has both: where it has not, they run in a virtual machine.

func openIPVS(t *testing.T) *kernel.IPVS {
	t.Helper()
	table, err := kernel.OpenIPVS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

func TestIPVSConforms(t *testing.T) { kerneltest.Conform(t, openIPVS(t)) }

func TestVIPLinkConforms(t *testing.T) { kerneltest.ConformLink(t, open(t)) }

// A packet to an address on our link is for the node itself, but nobody sees the link: no
// ARP, no link to announce on, no address of its own, no source for other connections.
func TestVIPLinkIsSilent(t *testing.T) {
	k := open(t)
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	netns.Must(t, k.EnsureVIPLink())
	t.Cleanup(func() { netns.Must(t, k.DeleteVIPLink()) })
	netns.Must(t, k.AddVIP(four))
	netns.Must(t, k.AddVIP(six))
	if _, listed := linkNamed(t, k, kernel.VIPLinkName); listed {
		t.Error("our link is one to announce on")
	}
	names, err := k.LinkNames()
	netns.Must(t, err)
	if !slices.Contains(names, kernel.VIPLinkName) {
		t.Errorf("%v are all links", names)
	}
	link, err := net.InterfaceByName(kernel.VIPLinkName)
	netns.Must(t, err)
	addrs, err := link.Addrs()
	netns.Must(t, err)
	if want := "[192.0.2.7/32 2001:db8::7/128]"; fmt.Sprint(addrs) != want {
		t.Errorf("addresses %v, want %s", addrs, want)
	}
	// A link without an address makes the kernel look for one on others.
	netns.AddVeth(t, "v0", "", "v1", "")
	netns.AddRoute(t, "v0", "198.51.100.0/24")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp4", "198.51.100.1:9")
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
		if got, ok := conn.LocalAddr().(*net.UDPAddr); ok && got.AddrPort().Addr().Unmap() == four {
			t.Errorf("the node speaks from %s", got)
		}
	}
	netns.AddAddr(t, "v1", "203.0.113.5/24")
	netns.AddAddr(t, "v1", "fd00::5/64")
	if local, err := k.LocalAddrs(); err != nil || !slices.Contains(local, netip.MustParseAddr("203.0.113.5")) ||
		!slices.Contains(local, netip.MustParseAddr("fd00::5")) || slices.Contains(local, four) || slices.Contains(local, six) {
		t.Errorf("other links have %v: %v", local, err)
	}
}

const (
	vip  = "192.0.2.9"
	pod  = "198.51.100.9"
	mark = 0x0fa00007
)

// forwardTo makes an address to forward and servers on ports of a pod.
func forwardTo(t *testing.T, ports ...int) *kernel.IPVS {
	t.Helper()
	k := open(t)
	netns.Must(t, k.EnsureVIPLink())
	t.Cleanup(func() { netns.Must(t, k.DeleteVIPLink()) })
	netns.Must(t, k.AddVIP(netip.MustParseAddr(vip)))
	netns.AddVeth(t, "p0", pod+"/24", "p1", "")
	for _, p := range ports {
		netns.Serve(t, netip.AddrPortFrom(netip.MustParseAddr(pod), uint16(p)), p)
	}
	table := openIPVS(t)
	t.Cleanup(func() {
		list, err := table.List()
		netns.Must(t, err)
		for i := range list {
			netns.Must(t, table.DeleteServer(list[i].VirtualServerKey))
		}
	})
	return table
}

// counted lists a table of one virtual server once the kernel has counted its connections,
// which it does every 2 s.
func counted(t *testing.T, table *kernel.IPVS, connections uint64) []kernel.ServerState {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		list, err := table.List()
		netns.Must(t, err)
		if len(list) != 1 {
			t.Fatalf("the table is %+v", list)
		}
		if list[0].Stats.Connections == connections {
			return list
		}
		<-tick.C
	}
	t.Fatalf("%d connections are not counted within 20 s", connections)
	return nil
}

// dial connects to port 80 of the forwarded address and returns which port of the pod
// answered.
func dial(t *testing.T, mark int) (net.Conn, int) {
	t.Helper()
	return netns.Dial(t, netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr(vip), 80), mark)
}

func outside(affinity time.Duration) loadbalancer.VirtualServer {
	return loadbalancer.VirtualServer{
		VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr(vip), Protocol: loadbalancer.TCP, Port: 80},
		Scheduler:        "rr", Affinity: affinity,
	}
}

func marked(affinity time.Duration) loadbalancer.VirtualServer {
	return loadbalancer.VirtualServer{
		VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.IPv4Unspecified(), Mark: mark}, Scheduler: "rr", Affinity: affinity,
	}
}

func podServer(port uint16, weight uint32) loadbalancer.RealServer {
	return loadbalancer.RealServer{RealServerKey: loadbalancer.RealServerKey{Addr: netip.MustParseAddr(pod), Port: port}, Weight: weight}
}

func TestIPVSForwards(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server loadbalancer.VirtualServer
		mark   int
		// each is how many of 4 connections each of two real servers has.
		each [2]uint64
	}{
		{name: "outside", server: outside(0), each: [2]uint64{2, 2}},
		{name: "marked", server: marked(0), mark: mark, each: [2]uint64{2, 2}},
		{name: "outside with affinity", server: outside(time.Hour), each: [2]uint64{4, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := forwardTo(t, 8080, 8081)
			key := tt.server.VirtualServerKey
			netns.Must(t, table.AddServer(tt.server))
			netns.Must(t, table.AddReal(key, podServer(8081, 1)))
			netns.Must(t, table.AddReal(key, podServer(8080, 1)))
			got := map[int]uint64{}
			for range 4 {
				_, port := dial(t, tt.mark)
				got[port]++
			}
			if got[8080]+got[8081] != 4 || max(got[8080], got[8081]) != tt.each[0] {
				t.Errorf("answers %v, want %v", got, tt.each)
			}
			list := counted(t, table, 4)
			var active uint64
			for _, r := range list[0].Reals {
				if r.Stats.Connections != got[int(r.Port)] {
					t.Errorf("%v counts %d connections, want %d", r.RealServerKey, r.Stats.Connections, got[int(r.Port)])
				}
				active += uint64(r.Active)
			}
			s := list[0].Stats
			if s.Connections != 4 || s.PacketsIn < 8 || s.PacketsOut < 8 || s.BytesIn < 8*40 || s.BytesOut < 8*40 || active != 4 {
				t.Errorf("%d active connections, counters %+v", active, s)
			}
			if n := list[0].Connections(); n < 4 {
				t.Errorf("%d entries in the connection table", n)
			}
		})
	}
}

// The kernel does not translate ports for a virtual server by mark that is persistent: with
// affinity in the plan, packets from inside would miss pods whose port is another one.
func TestIPVSMarkedAffinityKeepsThePort(t *testing.T) {
	table := forwardTo(t, 80, 8080)
	v := marked(time.Hour)
	netns.Must(t, table.AddServer(v))
	netns.Must(t, table.AddReal(v.VirtualServerKey, podServer(8080, 1)))
	if _, port := dial(t, mark); port != 80 {
		t.Errorf("port %d answered", port)
	}
}

// Connections outlive their virtual server, and their real server at weight 0 gets no new
// ones.
func TestIPVSConnectionsStay(t *testing.T) {
	table := forwardTo(t, 8080, 8081)
	v := outside(0)
	netns.Must(t, table.AddServer(v))
	netns.Must(t, table.AddReal(v.VirtualServerKey, podServer(8080, 1)))
	c, _ := dial(t, 0)
	netns.Must(t, table.UpdateReal(v.VirtualServerKey, podServer(8080, 0)))
	netns.Must(t, table.AddReal(v.VirtualServerKey, podServer(8081, 1)))
	for range 3 {
		if _, port := dial(t, 0); port != 8081 {
			t.Errorf("port %d answered", port)
		}
	}
	netns.Echo(t, c, "drains")
	list, err := table.List()
	netns.Must(t, err)
	if len(list) != 1 || len(list[0].Reals) != 2 || list[0].Reals[1].Active != 1 || list[0].Reals[1].Weight != 0 {
		t.Errorf("the table is %+v", list)
	}
	counted(t, table, 4)
	netns.Must(t, table.DeleteServer(v.VirtualServerKey))
	netns.Must(t, table.AddServer(v))
	netns.Must(t, table.AddReal(v.VirtualServerKey, podServer(8080, 0)))
	netns.Echo(t, c, "outlives")
	if list, err = table.List(); err != nil || len(list) != 1 || len(list[0].Reals) != 1 {
		t.Fatalf("the table is %+v: %v", list, err)
	}
	if got := list[0].Reals[0].Active; got != 1 {
		t.Errorf("the real server came back with %d connections, want 1", got)
	}
}

// What others make, or changed, is seen to be otherwise than ours, and can be put right.
func TestIPVSSeesAndMendsOddities(t *testing.T) {
	table := openIPVS(t)
	h, err := ipvs.New("")
	netns.Must(t, err)
	t.Cleanup(h.Close)
	s := &ipvs.Service{
		AddressFamily: unix.AF_INET, Address: netip.MustParseAddr(vip).AsSlice(), Protocol: unix.IPPROTO_TCP, Port: 80,
		SchedName: "rr", Flags: 0x5, Timeout: 60, Netmask: 0x00ffffff,
	}
	netns.Must(t, h.NewService(s))
	netns.Must(t, h.NewDestination(s, &ipvs.Destination{
		Address: netip.MustParseAddr(pod).AsSlice(), Port: 80, Weight: 1, ConnectionFlags: ipvs.ConnectionFlagDirectRoute, UpperThreshold: 9,
	}))
	odd := func(want bool) {
		t.Helper()
		list, err := table.List()
		netns.Must(t, err)
		if len(list) != 1 || len(list[0].Reals) != 1 || list[0].Odd != want || list[0].Reals[0].Odd != want {
			t.Errorf("want odd %t: %+v", want, list)
		}
	}
	odd(true)
	v := outside(time.Minute)
	netns.Must(t, table.UpdateServer(v))
	netns.Must(t, table.UpdateReal(v.VirtualServerKey, podServer(80, 1)))
	odd(false)
	netns.Must(t, table.DeleteServer(v.VirtualServerKey))
}

// The costs on which the data plane counts: one request for each change and to look for one
// virtual server, and one for all plus one for each to read everything.
func TestIPVSRequests(t *testing.T) {
	table := openIPVS(t)
	requests := func(what string, want uint64, do func() error) {
		t.Helper()
		before := table.Requests()
		netns.Must(t, do())
		if got := table.Requests() - before; got != want {
			t.Errorf("%s takes %d requests, want %d", what, got, want)
		}
	}
	const n = 300 // more than one message of a dump
	v := outside(0)
	for i := range n {
		v.Port = uint16(1000 + i)
		requests("to add", 1, func() error { return table.AddServer(v) })
	}
	requests("to add a real server", 1, func() error { return table.AddReal(v.VirtualServerKey, podServer(1, 1)) })
	requests("to change one", 1, func() error { return table.UpdateReal(v.VirtualServerKey, podServer(1, 2)) })
	requests("to look for one", 1, func() error {
		found, err := table.Has(v.VirtualServerKey)
		if !found {
			t.Error("not found")
		}
		return err
	})
	requests("to list", n+1, func() error {
		list, err := table.List()
		if len(list) != n {
			t.Errorf("%d virtual servers, want %d", len(list), n)
		}
		return err
	})
	list, err := table.List()
	netns.Must(t, err)
	for i := range list {
		requests("to delete", 1, func() error { return table.DeleteServer(list[i].VirtualServerKey) })
	}
}

// The settings of IPVS come with the module.
func TestIPVSSettings(t *testing.T) {
	openIPVS(t)
	k := open(t)
	const name = "net/ipv4/vs/conntrack"
	netns.Must(t, k.SetSysctl(name, "1"))
	if got, err := k.Sysctl(name); err != nil || got != "1" {
		t.Errorf("%s is %q: %v", name, got, err)
	}
	netns.Must(t, k.SetSysctl(name, "0"))
}
