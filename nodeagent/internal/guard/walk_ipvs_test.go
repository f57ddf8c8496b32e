// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package guard_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	size  = 10
	short = 1500 * time.Millisecond
	long  = 10 * time.Second
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func said(who string, from netip.Addr, n int) string { return fmt.Sprintf("%s %s %d", who, from, n) }

// Each test is run for IPv4 and for IPv6, in one network for all, behind rules like
// kube-proxy's.
func TestIPVSWalk(t *testing.T) {
	r := newRig(t)
	r.kubeProxy()
	for name, test := range map[string]func(*rig, addresses){
		"who answers": testWalk, "node ports and host network": testTargets, "refuses": testRefuses,
		"fragments and path MTU": testPathMTU, "sources": testSources, "waits": testWaits,
		"resets what it does not know": testResets, "holds": testHolds, "node addresses": testForeign,
	} {
		for family, a := range map[string]addresses{"IPv4": r.four, "IPv6": r.six} {
			t.Run(name+"/"+family, func(t *testing.T) {
				r.t = t
				test(r, a)
				r.t = nil
			})
		}
	}
	r.t = t
}

func ping(t *testing.T, from *host, to netip.Addr) {
	t.Helper()
	must(t, from.do(func() error { return command(from.context(), "", "ping", "-c1", "-W3", to.String()) }))
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Who answers, and whom the pod sees, from everywhere.
func testWalk(r *rig, a addresses) {
	t := r.t
	bridge := a.pod1.Prev() // of the node, where the pods of this node see it
	pods := []netip.AddrPort{at(a.pod1, podPort), at(a.pod2, podPort)}
	inside := joined([]string{said("pod1", bridge, size), said("pod2", a.node, size)})
	vip := at(a.vip, 80)
	for _, network := range []string{"tcp", "udp"} {
		r.apply(r.service(a, 0x0fa00010, true, pods...))
		expect(t, network+" Cluster: a client", r.answers(r.client, network, vip, 4),
			joined([]string{said("pod1", a.client, size), said("pod2", a.node, size)}))
		expect(t, network+" Cluster: a pod", r.answers(r.pod3, network, vip, 4), inside)
		expect(t, network+" Cluster: a pod that is a real server", r.answers(r.pod1, network, vip, 4), inside)
		expect(t, network+" Cluster: the node", r.answers(r.node, network, vip, 4), inside)

		r.apply(r.service(a, 0x0fa00010, false, pods[0]))
		expect(t, network+" Local: a client", r.answers(r.client, network, vip, 4), said("pod1", a.client, size))
		expect(t, network+" Local: a pod", r.answers(r.pod3, network, vip, 4), inside)
		expect(t, network+" Local: a pod that is a real server", r.answers(r.pod1, network, vip, 4), inside)
		expect(t, network+" Local: the node", r.answers(r.node, network, vip, 4), inside)

		r.apply(r.service(a, 0x0fa00010, false))
		expect(t, network+" Local, no pod here: a client", r.client.ask(network, vip, size, short), refused)
		expect(t, network+" Local, no pod here: a pod", r.answers(r.pod3, network, vip, 4), inside)
		expect(t, network+" Local, no pod here: the node", r.answers(r.node, network, vip, 4), inside)
	}
}

func testTargets(r *rig, a addresses) {
	t := r.t
	vip := at(a.vip, 80)
	for _, network := range []string{"tcp", "udp"} {
		r.apply(r.service(a, 0x0fa00020, true, at(a.pod1, podPort), at(a.node2, nodePort)))
		expect(t, network+" node port: a client", r.answers(r.client, network, vip, 4),
			joined([]string{said("pod1", a.client, size), said("node2", a.node, size)}))

		f := r.service(a, 0x0fa00020, true, at(a.node, podPort))
		f.VirtualServers[1].Reals = f.VirtualServers[0].Reals
		f.VirtualServers[3].Reals = f.VirtualServers[2].Reals
		r.apply(f)
		expect(t, network+" host network: a client", r.answers(r.client, network, vip, 2), said("hostpod", a.client, size))
		if network == "tcp" { // a server of UDP on any address answers a pod from another one
			expect(t, "host network: a pod", r.answers(r.pod3, network, vip, 2), said("hostpod", a.pod3, size))
		}
		// The node itself: from which of its addresses does not matter.
		if got := r.node.ask(network, vip, size, short); len(got) < 7 || got[:7] != "hostpod" {
			t.Errorf("%s host network: the node: %q", network, got)
		}
	}
}

// What is not served is refused: ports of the node, its node ports, ports of nobody; while
// the node's own address stays as it was.
func testRefuses(r *rig, a addresses) {
	t := r.t
	r.apply(loadbalancer.Forwarding{}) // nothing of the test before
	expect(t, "before us, a port of the node", r.client.ask("tcp", at(a.vip, hostPort), size, short), said("node", a.client, size))
	expect(t, "before us, a node port", r.client.ask("tcp", at(a.vip, nodePort), size, short), said("pod1", a.client, size))
	r.apply(r.service(a, 0x0fa00030, true, at(a.pod1, podPort)))
	for _, vip := range []netip.Addr{a.vip, a.vip2} {
		for _, port := range []uint16{hostPort, nodePort, 9} {
			for name, from := range map[string]*host{"client": r.client, "pod": r.pod1, "node": r.node} {
				for _, network := range []string{"tcp", "udp"} {
					expect(t, fmt.Sprintf("%s %s to port %d of %s", name, network, port, vip), from.ask(network, at(vip, port), size, short), refused)
				}
			}
		}
	}
	expect(t, "a port of the node's address", r.client.ask("tcp", at(a.node, hostPort), size, short), said("node", a.client, size))
	expect(t, "a node port", r.client.ask("tcp", at(a.node, nodePort), size, short), said("pod1", a.client, size))
	ping(t, r.client, a.vip)
	ping(t, r.node, a.vip)
}

// Fragments reach the pod whole, and a far client behind a link of 1,400 bytes gets its
// answer: the ICMP error of the router follows the connection to the pod.
func testPathMTU(r *rig, a addresses) {
	t := r.t
	vip := at(a.vip, 80)
	for name, real := range map[string]netip.Addr{"pod1": a.pod1, "pod2": a.pod2} {
		source, far := a.client, a.far
		if name == "pod2" {
			source, far = a.node, a.node
		}
		r.apply(r.service(a, 0x0fa00040, true, at(real, podPort)))
		expect(t, "5,000 bytes by UDP to "+name, r.client.ask("udp", vip, 5000, short), said(name, source, 5000))
		expect(t, "far, to "+name, r.far.ask("tcp", vip, size, short), said(name, far, size))
		if n, err := r.far.download(vip, long); err != nil {
			t.Errorf("download from %s past a link of 1,400 bytes: %d bytes, then %v", name, n, err)
		}
	}
}

func testSources(r *rig, a addresses) {
	t := r.t
	vip := at(a.vip, 80)
	f := r.service(a, 0x0fa00050, true, at(a.pod1, podPort))
	for i := range f.Served {
		f.Served[i].Sources = []netip.Prefix{netip.PrefixFrom(a.client, a.client.BitLen())}
	}
	r.apply(f)
	for _, network := range []string{"tcp", "udp"} {
		expect(t, network+" from a listed source", r.client.ask(network, vip, size, short), said("pod1", a.client, size))
		expect(t, network+" from elsewhere", r.far.ask(network, vip, size, short), silence)
		expect(t, network+" from a pod", r.pod3.ask(network, vip, size, short), silence)
		if got := r.node.ask(network, vip, size, short); got == silence || got == refused {
			t.Errorf("%s from the node: %s", network, got)
		}
	}
	only := netip.MustParsePrefix("192.0.2.0/24")
	if a.vip.Is4() {
		only = netip.MustParsePrefix("2001:db8::/32")
	}
	for i := range f.Served {
		f.Served[i].Sources = []netip.Prefix{only}
	}
	r.apply(f)
	expect(t, "only the other family", r.client.ask("tcp", vip, size, short), silence)
}

// While the virtual servers or our link are gone, connections wait, wherever they come from.
func testWaits(r *rig, a addresses) {
	t := r.t
	vip := at(a.vip, 80)
	f := r.service(a, 0x0fa00060, true, at(a.pod1, podPort), at(a.pod2, podPort))
	for what, fault := range map[string]struct{ happen, mend func() }{
		"no virtual server": {r.flush, func() { r.program(f) }},
		"no link":           {func() { must(t, r.kernel.DeleteVIPLink()) }, r.link},
	} {
		for name, from := range map[string]*host{"client": r.client, "pod": r.pod3, "node": r.node} {
			r.apply(f)
			fault.happen()
			got := make(chan string)
			go func() { got <- from.ask("tcp", vip, size, long) }()
			<-time.After(300 * time.Millisecond)
			fault.mend()
			if said := <-got; said == refused || said == silence {
				t.Errorf("%s, %s: %s", what, name, said)
			}
		}
	}
}

// While all virtual servers are gone, and with them the hooks of IPVS, open connections
// wait, in both directions.
func testHolds(r *rig, a addresses) {
	t := r.t
	vip := at(a.vip, 80)
	// A client that can reach pods would reset what they send past IPVS.
	pod := fmt.Sprintf("%s/%d", a.pod1, a.pod1.BitLen())
	r.client.ip("route replace " + pod + " via " + a.node.String())
	t.Cleanup(func() { r.client.ip("route del " + pod) })
	// In nftables mode, kube-proxy lets pass what conntrack does not know.
	header := map[bool]string{true: "ip", false: "ip6"}[a.vip.Is4()]
	must(t, command(r.node.context(), "flush chain "+header+" kube forward", "nft", "-f", "-"))
	t.Cleanup(func() {
		must(t, command(r.node.context(), "add rule "+header+" kube forward ct state invalid drop", "nft", "-f", "-"))
	})
	for _, real := range []netip.Addr{a.pod1, a.pod2} {
		f := r.service(a, 0x0fa00090, true, at(real, podPort))
		for who, from := range map[string]*host{"client": r.client, "pod": r.pod3, "node": r.node} {
			for what, say := range map[string]string{"asks": "x", "is answered": late} {
				r.apply(f)
				conn, err := from.dial("tcp", vip, long)
				must(t, err)
				served, _, _ := strings.Cut(exchange(conn, size, long), " ") // in the cluster, by either pod
				got := make(chan string)
				if say == late { // it is on its way when it happens
					go func() { got <- exchangeText(conn, say, long) }()
					<-time.After(lateness / 2)
				}
				r.flush()
				if say != late {
					go func() { got <- exchangeText(conn, say, long) }()
				}
				<-time.After(lateness)
				r.program(f)
				if said := <-got; !strings.HasPrefix(said, served+" ") {
					t.Errorf("%s %s by %s without virtual servers: %q", who, what, served, said)
				}
				_ = conn.Close()
			}
		}
	}
}

// After a failover, a connection that the former node had is reset, so that its client
// connects anew instead of timing out.
func testResets(r *rig, a addresses) {
	t := r.t
	bits := a.vip.BitLen()
	r.apply(r.service(a, 0x0fa00070, true, at(a.pod1, podPort)))
	r.node2.ip(fmt.Sprintf("addr add %s/%d dev lo", a.vip, bits))
	t.Cleanup(func() { r.node2.ip(fmt.Sprintf("addr del %s/%d dev lo", a.vip, bits)) })
	route := func(via netip.Addr) { r.client.ip(fmt.Sprintf("route replace %s/%d via %s", a.vip, bits, via)) }
	route(a.node2)
	conn, err := r.client.dial("tcp", at(a.vip, 80), long)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	expect(t, "the former node", exchange(conn, size, long), said("former", a.client, size))
	route(a.node)
	expect(t, "the next node", exchange(conn, size, long), refused)
}

// As an external IP, the node's own address is served on that port only.
func testForeign(r *rig, a addresses) {
	t := r.t
	f := r.service(a, 0x0fa00080, true, at(a.pod1, podPort))
	f.VIPs = nil
	for i := range f.Served {
		f.Served[i].Addr, f.Served[i].Foreign = a.node, true
		f.VirtualServers[2*i].Addr = a.node
	}
	r.apply(f)
	for _, network := range []string{"tcp", "udp"} {
		expect(t, network+" a client", r.client.ask(network, at(a.node, 80), size, short), said("pod1", a.client, size))
		expect(t, network+" another port", r.client.ask(network, at(a.node, hostPort), size, short), said("node", a.client, size))
	}
	expect(t, "a node port", r.client.ask("tcp", at(a.node, nodePort), size, short), said("pod1", a.client, size))
	r.flush()
	expect(t, "no virtual server", r.client.ask("tcp", at(a.node, 80), size, short), silence)

	// A pod in the host's network that listens where its Service is served.
	same := at(a.node, podPort)
	f = loadbalancer.Forwarding{
		Served:         []loadbalancer.Served{{Addr: a.node, Protocol: loadbalancer.TCP, Port: podPort, Foreign: true}},
		VirtualServers: []loadbalancer.VirtualServer{server(loadbalancer.VirtualServerKey{Addr: a.node, Protocol: loadbalancer.TCP, Port: podPort}, []netip.AddrPort{same})},
	}
	r.apply(f)
	expect(t, "itself", r.client.ask("tcp", same, size, short), said("hostpod", a.client, size))
}
