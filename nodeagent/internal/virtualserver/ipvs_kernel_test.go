// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package virtualserver_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// These tests are of what the package relies on in the kernel: that real servers which are
// moved keep their connections, that hashing schedulers choose alike after any history, and
// what becomes of connections whose real server goes.

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

const (
	client = "198.51.100.100"
	backs  = 5
)

// back is real server number n; they are addresses of this very node.
func back(n int) loadbalancer.RealServer {
	return loadbalancer.RealServer{
		RealServerKey: loadbalancer.RealServerKey{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), Port: 8080}, Weight: 1,
	}
}

func backends(list ...int) []loadbalancer.RealServer {
	out := make([]loadbalancer.RealServer, 0, len(list))
	for _, n := range list {
		out = append(out, back(n))
	}
	return out
}

// realNode is a node with real servers, which tell everybody their number.
type realNode struct {
	servers *virtualserver.Servers
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	k, err := kernel.New()
	netns.Must(t, err)
	t.Cleanup(k.Close)
	table, err := kernel.OpenIPVS()
	netns.Must(t, err)
	t.Cleanup(table.Close)
	netns.Must(t, k.SetSysctl("net/ipv4/vs/conntrack", "1"))
	netns.Must(t, k.EnsureVIPLink())
	t.Cleanup(func() { netns.Must(t, k.DeleteVIPLink()) })
	for i := range 3 {
		netns.Must(t, k.AddVIP(vip(i)))
	}
	netns.AddVeth(t, "p0", client+"/24", "p1", "")
	for i := range backs {
		b := back(i + 1)
		netns.AddAddr(t, "p0", b.Addr.String()+"/24")
		serve(t, netip.AddrPortFrom(b.Addr, b.Port), i+1)
	}
	n := &realNode{virtualserver.New(table, k, func(context.Context) (virtualserver.Owned, error) {
		list, _, err := k.VIPLink()
		return virtualserver.Owned{Addrs: list}, err
	})}
	// Not t.Context, which is over by then.
	t.Cleanup(func() { netns.Must(t, n.servers.Remove(context.WithoutCancel(t.Context()))) })
	return n
}

func (n *realNode) apply(t *testing.T, list ...loadbalancer.VirtualServer) {
	t.Helper()
	r, err := n.servers.Apply(t.Context(), plan(list...))
	netns.Must(t, err)
	if r.Refused != nil {
		t.Fatalf("refused %+v", r.Refused)
	}
}

// serve tells whoever connects by TCP or asks by UDP the number of a real server.
func serve(t *testing.T, at netip.AddrPort, number int) {
	t.Helper()
	netns.Serve(t, at, number)
	u, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", at.String())
	netns.Must(t, err)
	t.Cleanup(func() { _ = u.Close() })
	go func() {
		b := make([]byte, 16)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(strconv.Itoa(number)), from)
		}
	}()
}

// dial connects to port 80 of an address from a port of the client's and returns who answered.
func dial(t *testing.T, to netip.Addr, port int) (net.Conn, int) {
	t.Helper()
	from := netip.AddrPortFrom(netip.MustParseAddr(client), uint16(port))
	return netns.Dial(t, from, netip.AddrPortFrom(to, 80), 0)
}

func TestRealServersThatAreMovedKeepTheirConnections(t *testing.T) {
	n := newRealNode(t)
	v := service(vip(0), loadbalancer.TCP, "mh", backends(2, 4)...)
	v.Flags = loadbalancer.SchedPort
	n.apply(t, v)
	conns := map[net.Conn]int{}
	seen := map[int]int{}
	for i := range 20 {
		c, number := dial(t, vip(0), 20000+i)
		conns[c] = number
		seen[number]++
	}
	if seen[2] == 0 || seen[4] == 0 {
		t.Fatalf("answers %v", seen)
	}
	v.Reals = backends(1, 2, 3, 4) // 2 and 4 are moved.
	n.apply(t, v)
	for c := range conns {
		netns.Echo(t, c, "after a move")
	}
	v.Reals = backends(1, 3) // 2 and 4 drain.
	n.apply(t, v)
	for c := range conns {
		netns.Echo(t, c, "draining")
	}
	r, err := n.servers.Check(t.Context())
	if netns.Must(t, err); r.Draining != 2 {
		t.Errorf("%d drain, want 2", r.Draining)
	}
	v.Reals = backends(1, 2, 3, 4) // And back.
	n.apply(t, v)
	for c := range conns {
		netns.Echo(t, c, "back")
	}
	if r, err = n.servers.Check(t.Context()); err != nil || r.Draining != 0 || r.Repaired != 0 {
		t.Errorf("result %+v: %v", r, err)
	}
}

// The second of two virtual servers came by its real servers in another order, and drains one.
func TestHashesChooseAlikeAfterAnyHistory(t *testing.T) {
	n := newRealNode(t)
	for i, scheduler := range []string{"mh", "sh"} {
		fresh, old := service(vip(0), loadbalancer.TCP, scheduler, backends(1, 2, 4, 5)...), service(vip(1), loadbalancer.TCP, scheduler, backends(3, 5)...)
		fresh.Flags, old.Flags = loadbalancer.SchedPort, loadbalancer.SchedPort
		n.apply(t, old)
		for j := range 10 {
			dial(t, vip(1), 21000+100*i+j)
		}
		for _, list := range [][]int{{2, 3, 5}, {2, 3, 4}, {1, 2, 4}, {1, 2, 4, 5}} {
			old.Reals = backends(list...)
			n.apply(t, old)
		}
		n.apply(t, fresh, old)
		different := 0
		seen := map[int]int{}
		flows := []int{300, 60}[i]
		for port := 30000 + 1000*i; port < 30000+1000*i+flows; port++ {
			a, first := dial(t, vip(0), port)
			b, second := dial(t, vip(1), port)
			seen[second]++
			if first != second {
				different++
			}
			_, _ = a.Close(), b.Close()
		}
		// While one drains sh has places for it, whose clients go elsewhere: it promises nothing.
		if scheduler == "mh" && different > 0 || len(seen) != 4 || seen[3] > 0 {
			t.Errorf("%s: %d of %d flows differ, answers %v", scheduler, different, flows, seen)
		}
		t.Logf("%s: %d of %d flows differ, answers %v", scheduler, different, flows, seen)
	}
}

// A client that never stops sending is served by somebody else when its real server goes.
func TestUDPFlowsMoveOn(t *testing.T) {
	n := newRealNode(t)
	v := service(vip(0), loadbalancer.UDP, "rr", backends(1, 2)...)
	n.apply(t, v)
	local := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(client + ":22000"))
	c, err := (&net.Dialer{LocalAddr: local}).DialContext(t.Context(), "udp4", vip(0).String()+":80")
	netns.Must(t, err)
	defer func() { _ = c.Close() }()
	ask := func() int {
		b := make([]byte, 16)
		if _, err := c.Write([]byte("?")); err != nil {
			return 0
		}
		netns.Must(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		if _, err := c.Read(b); err != nil {
			return 0
		}
		return int(b[0] - '0')
	}
	var first int
	for range 50 {
		if first = ask(); first != 0 {
			break
		}
	}
	other := 3 - first
	for range 5 {
		if got := ask(); got != first {
			t.Fatalf("%d answered, then %d", first, got)
		}
	}
	v.Reals = backends(other)
	n.apply(t, v)
	// A packet that the kernel drops is an error of the sender at once, so count time.
	const limit = 10 * time.Second
	for begin := time.Now(); time.Since(begin) < limit; <-time.After(5 * time.Millisecond) {
		if got := ask(); got == other {
			return
		}
	}
	t.Errorf("still nobody else than %d after %s", first, limit)
}
