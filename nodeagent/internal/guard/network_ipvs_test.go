// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package guard_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// The network of these tests, with IPv6 addresses of the same endings:
//
//	client .100 ─┐                            ┌─ pod1 10.10.1.2
//	node2  .3 ───┼─ 172.20.0.0/16 ─ .2 node ──┤  bridge cni0 10.10.1.1
//	far ─1400─ router .254                    └─ pod3 10.10.1.3
//	              node2 has pod2 10.10.2.2
//
// The node is the namespace that the test runs in. Where kube-proxy would be, rules at −100
// send every served port to a port that nobody listens on, and node port 30080 of any
// address of the node to pod1.
type rig struct {
	t                          *testing.T
	node                       *host // nil
	client, far, router, node2 *host
	pod1, pod2, pod3           *host
	kernel                     *kernel.Kernel
	table                      *kernel.IPVS
	guard                      *guard.Guard
	four, six                  addresses
}

// addresses of one family.
type addresses struct {
	vip, vip2, node, node2, pod1, pod2, pod3, client, far netip.Addr
	pods                                                  []netip.Prefix
}

func addrs4() addresses {
	a := netip.MustParseAddr
	return addresses{
		vip: a("172.20.255.200"), vip2: a("172.20.255.201"), node: a("172.20.0.2"), node2: a("172.20.0.3"),
		pod1: a("10.10.1.2"), pod2: a("10.10.2.2"), pod3: a("10.10.1.3"), client: a("172.20.0.100"), far: a("10.99.0.2"),
		pods: []netip.Prefix{netip.MustParsePrefix("10.10.1.0/24"), netip.MustParsePrefix("10.10.2.0/24")},
	}
}

func addrs6() addresses {
	a := netip.MustParseAddr
	return addresses{
		vip: a("fd20::ff:200"), vip2: a("fd20::ff:201"), node: a("fd20::2"), node2: a("fd20::3"),
		pod1: a("fd10:1::2"), pod2: a("fd10:2::2"), pod3: a("fd10:1::3"), client: a("fd20::100"), far: a("fd99::2"),
		pods: []netip.Prefix{netip.MustParsePrefix("fd10:1::/64"), netip.MustParsePrefix("fd10:2::/64")},
	}
}

const (
	podPort  = 8080
	nodePort = 30080
	hostPort = 22222
)

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, four: addrs4(), six: addrs6()}
	r.wire()
	k, err := kernel.New()
	must(t, err)
	t.Cleanup(k.Close)
	r.kernel = k
	r.link()
	t.Cleanup(func() { must(t, k.DeleteVIPLink()) })
	r.table, err = kernel.OpenIPVS() // loads ip_vs, whose settings are not there before
	must(t, err)
	t.Cleanup(r.table.Close)
	must(t, k.SetSysctl("net/ipv4/vs/conntrack", "1"))
	// The kernel refuses UDP to one host once a second, after the first six.
	must(t, k.SetSysctl("net/ipv4/icmp_ratelimit", "0"))
	must(t, k.SetSysctl("net/ipv6/icmp/ratelimit", "0"))
	nft, err := guard.Open()
	must(t, err)
	r.guard = guard.New(nft)
	t.Cleanup(func() { must(t, r.guard.Remove(context.WithoutCancel(t.Context()))) })
	return r
}

// link makes our link, with all addresses.
func (r *rig) link() {
	must(r.t, r.kernel.EnsureVIPLink())
	for _, a := range []netip.Addr{r.four.vip, r.four.vip2, r.six.vip, r.six.vip2} {
		must(r.t, r.kernel.AddVIP(a))
	}
}

func (r *rig) wire() {
	t := r.t
	r.node = thisHost(t)
	lan := newHost(t, "lan")
	lan.ip("link add br0 type bridge\nlink set br0 up")
	r.client, r.node2, r.router, r.far = newHost(t, "client"), newHost(t, "node2"), newHost(t, "router"), newHost(t, "far")
	for h, n := range map[*host]string{r.node: "2", r.client: "100", r.node2: "3", r.router: "254"} {
		lan.ip(fmt.Sprintf("link add p%s type veth peer name eth0 netns %s\nlink set p%s master br0 up", n, h.path(), n))
		h.ip(fmt.Sprintf("link set eth0 up\naddr add 172.20.0.%s/16 dev eth0\naddr add fd20::%s/64 dev eth0 nodad", n, n))
		h.route()
	}
	t.Cleanup(func() { r.node.ip("link del eth0\nlink del cni0") })
	// The client reaches the VIPs as if this node announced them.
	for _, h := range []*host{r.client, r.router} {
		h.ip("route add 172.20.255.0/24 via 172.20.0.2\nroute add fd20::ff:0/112 via fd20::2")
	}
	// A far client behind a link of 1,400 bytes.
	r.router.ip("link add far type veth peer name eth0 netns " + r.far.path() + `
		link set far mtu 1400 up
		addr add 10.99.0.1/24 dev far
		addr add fd99::1/64 dev far nodad`)
	r.far.ip(`link set eth0 up
		addr add 10.99.0.2/24 dev eth0
		addr add fd99::2/64 dev eth0 nodad
		route add default via 10.99.0.1
		route add default via fd99::1`)
	r.pods()
}

func (r *rig) pods() {
	// Pods of this node are on a bridge.
	r.node.ip("link add cni0 type bridge\nlink set cni0 up\naddr add 10.10.1.1/24 dev cni0\naddr add fd10:1::1/64 dev cni0 nodad")
	r.pod1, r.pod3, r.pod2 = newHost(r.t, "pod1"), newHost(r.t, "pod3"), newHost(r.t, "pod2")
	for h, n := range map[*host]int{r.pod1: 2, r.pod3: 3} {
		r.node.ip(fmt.Sprintf("link add c%d type veth peer name eth0 netns %s\nlink set c%d master cni0 up", n, h.path(), n))
		h.ip(podScript(1, n))
	}
	far := `
		route add 10.99.0.0/24 via 172.20.0.254
		route add fd99::/64 via fd20::254`
	r.node2.ip("link add c2 type veth peer name eth0 netns " + r.pod2.path() + `
		link set c2 up
		addr add 10.10.2.1/24 dev c2
		addr add fd10:2::1/64 dev c2 nodad
		route add 10.10.1.0/24 via 172.20.0.2
		route add fd10:1::/64 via fd20::2` + far)
	r.pod2.ip(podScript(2, 2))
	r.node.ip("route add 10.10.2.0/24 via 172.20.0.3\nroute add fd10:2::/64 via fd20::3" + far)
	for _, h := range []*host{r.pod1, r.pod2, r.pod3} {
		h.serve(podPort, h.name)
	}
	r.node2.serve(nodePort, "node2")
	r.node2.serve(80, "former")
	// Ports of the node itself: one that must not be reachable at a VIP, one that a pod in
	// the host's network has.
	r.node.serve(hostPort, "node")
	r.node.serve(podPort, "hostpod")
}

func podScript(net, n int) string {
	return fmt.Sprintf(`link set eth0 up
		addr add 10.10.%d.%d/24 dev eth0
		addr add fd10:%d::%d/64 dev eth0 nodad
		route add default via 10.10.%d.1
		route add default via fd10:%d::1`, net, n, net, n, net, net)
}

// kubeProxy puts rules where kube-proxy has them.
func (r *rig) kubeProxy() {
	r.t.Helper()
	var b strings.Builder
	for _, f := range []struct {
		header string
		a      addresses
	}{{"ip", r.four}, {"ip6", r.six}} {
		dead, live := f.a.pod1.String()+":9", f.a.pod1.String()+":8080"
		if f.header == "ip6" {
			dead, live = "["+f.a.pod1.String()+"]:9", "["+f.a.pod1.String()+"]:8080"
		}
		fmt.Fprintf(&b, "table %s kube {\n", f.header)
		for _, hook := range []string{"prerouting", "output"} {
			fmt.Fprintf(&b, ` chain %[1]s { type nat hook %[1]s priority -100
				%[2]s daddr { %[3]s, %[4]s, %[7]s } tcp dport 80 dnat to %[5]s
				%[2]s daddr { %[3]s, %[4]s, %[7]s } udp dport 80 dnat to %[5]s
				fib daddr type local tcp dport 30080 dnat to %[6]s
			}
			`, hook, f.header, f.a.vip, f.a.vip2, dead, live, f.a.node)
		}
		// kube-proxy drops what conntrack does not know.
		b.WriteString(" chain forward { type filter hook forward priority 0\n ct state invalid drop\n }\n}\n")
	}
	must(r.t, command(r.node.context(), b.String(), "nft", "-f", "-"))
	r.t.Cleanup(func() {
		must(r.t, command(r.node.context(), "delete table ip kube\ndelete table ip6 kube\n", "nft", "-f", "-"))
	})
}

// service makes the plan of one Service at vip:80 for TCP and UDP with these real servers
// for outside, and all pods inside.
func (r *rig) service(a addresses, mark uint32, masquerade bool, outside ...netip.AddrPort) loadbalancer.Forwarding {
	f := loadbalancer.Forwarding{
		VIPs: []netip.Addr{a.vip, a.vip2}, InCluster: a.pods, LocalReals: []netip.Addr{a.pod1, a.pod3},
	}
	inside := []netip.AddrPort{netip.AddrPortFrom(a.pod1, podPort), netip.AddrPortFrom(a.pod2, podPort)}
	for i, p := range []loadbalancer.Protocol{loadbalancer.TCP, loadbalancer.UDP} {
		m := mark + uint32(i)
		f.Served = append(f.Served, loadbalancer.Served{Addr: a.vip, Protocol: p, Port: 80, Mark: m, Masquerade: masquerade})
		unspecified := netip.IPv4Unspecified()
		if a.vip.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		f.VirtualServers = append(f.VirtualServers,
			server(loadbalancer.VirtualServerKey{Addr: a.vip, Protocol: p, Port: 80}, outside),
			server(loadbalancer.VirtualServerKey{Addr: unspecified, Mark: m}, inside))
	}
	return f
}

func server(key loadbalancer.VirtualServerKey, reals []netip.AddrPort) loadbalancer.VirtualServer {
	vs := loadbalancer.VirtualServer{VirtualServerKey: key, Scheduler: "rr"}
	for _, ap := range reals {
		vs.Reals = append(vs.Reals, loadbalancer.RealServer{
			RealServerKey: loadbalancer.RealServerKey{Addr: ap.Addr(), Port: ap.Port()}, Weight: 1,
		})
	}
	return vs
}

// apply programs a plan: virtual servers, then the guard. What the plan replaces goes first.
func (r *rig) apply(f loadbalancer.Forwarding) {
	r.t.Helper()
	r.flush()
	r.program(f)
	must(r.t, r.guard.Apply(r.t.Context(), f))
}

func (r *rig) program(f loadbalancer.Forwarding) {
	r.t.Helper()
	for _, vs := range f.VirtualServers {
		must(r.t, r.table.AddServer(vs))
		for _, real := range vs.Reals {
			must(r.t, r.table.AddReal(vs.VirtualServerKey, real))
		}
	}
}

func (r *rig) flush() {
	r.t.Helper()
	list, err := r.table.List()
	must(r.t, err)
	for _, s := range list {
		must(r.t, r.table.DeleteServer(s.VirtualServerKey))
	}
}

// answers asks n times and returns who answered to whom, each once, in order.
func (r *rig) answers(from *host, network string, to netip.AddrPort, n int) string {
	seen := make(map[string]bool)
	var out []string
	for range n {
		got := from.ask(network, to, 10, 3*time.Second)
		// Nobody repeats a packet of UDP but who asks.
		for try := 0; try < 2 && got == silence && network == "udp"; try++ {
			got = from.ask(network, to, 10, 3*time.Second)
		}
		if !seen[got] {
			seen[got] = true
			out = append(out, got)
		}
	}
	return joined(out)
}
