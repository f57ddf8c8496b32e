// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// share is what one record adds to the forwarding. It does not change once made.
type share struct {
	// fronts are where the Service is reached.
	fronts []front
	// outside are the virtual servers for packets from outside the cluster.
	outside []loadbalancer.VirtualServer
	// inside are those for packets from within, one per port and family.
	inside []inside
	// local are the addresses of real servers on this node.
	local []netip.Addr
}

// front is one address and port of a record.
type front struct {
	// Served lacks its mark yet.
	loadbalancer.Served
	// outside is the index of its virtual server for packets from outside, -1 for none.
	outside int
	// inside is the index of that for packets from within.
	inside int
}

// inside is a virtual server that lacks its mark yet.
type inside struct {
	markKey
	loadbalancer.VirtualServer
}

// asked is what a record asks of its virtual servers, joined with what this node has.
type asked struct {
	loadbalancer.Record
	// addrs are served as virtual addresses, own because they are this node's.
	addrs, own []netip.Addr
	backends   []loadbalancer.Backend
}

// share plans one record.
func (f *forwarder) share(r *asked) *share {
	out := new(share)
	for _, port := range r.Ports {
		for _, is6 := range []bool{false, true} {
			f.port(out, r, port, is6)
		}
	}
	slices.SortFunc(out.local, netip.Addr.Compare)
	out.local = slices.Compact(out.local)
	return out
}

// port adds one port of a record in one family.
//
// A virtual server without real servers has the kernel answer that the port is unreachable,
// which is right while nothing serves the Service. Under the Local policy, where pods of
// other nodes do, it is left out: the packet then finds nothing, and its client tries again
// until the node that announces the address next has it.
func (f *forwarder) port(out *share, r *asked, port loadbalancer.ServicePort, is6 bool) {
	foreign := func(a netip.Addr) bool { return a.Is6() != is6 }
	addrs, own := slices.DeleteFunc(slices.Clone(r.addrs), foreign), slices.DeleteFunc(slices.Clone(r.own), foreign)
	if len(addrs)+len(own) == 0 {
		return
	}
	all := f.weigh(r.backends, func(b *loadbalancer.Backend) bool {
		return b.PortName == port.Name && b.Protocol == port.Protocol && b.Addr.Is6() == is6
	})
	within := pods(all)
	without := within
	switch {
	case r.Policy == loadbalancer.Local:
		without = pods(f.weigh(r.backends, func(b *loadbalancer.Backend) bool {
			return b.Node == f.s.Self && b.PortName == port.Name && b.Protocol == port.Protocol && b.Addr.Is6() == is6
		}))
	case r.Targets == loadbalancer.TargetNodePort && port.NodePort != 0:
		without = f.nodePorts(all, port.NodePort, is6)
	}
	for _, b := range all {
		if b.Node == f.s.Self {
			out.local = append(out.local, b.Addr)
		}
	}
	out.inside = append(out.inside, inside{markKey{r.UID, port.Port, port.Protocol, is6}, insideServer(r, is6, within)})
	vs := virtualServer(r)
	vs.Protocol, vs.Port, vs.Reals = port.Protocol, port.Port, without
	server := -1
	for i, a := range slices.Concat(addrs, own) {
		if len(without) > 0 || len(within) == 0 {
			vs.Addr, server = a, len(out.outside)
			out.outside = append(out.outside, vs)
		}
		out.fronts = append(out.fronts, front{outside: server, inside: len(out.inside) - 1, Served: loadbalancer.Served{
			Addr: a, Protocol: port.Protocol, Port: port.Port, Masquerade: r.Policy == loadbalancer.Cluster, Foreign: i >= len(addrs), Sources: r.Sources,
		}})
	}
}

// virtualServer has what all virtual servers of a record have in common.
func virtualServer(r *asked) loadbalancer.VirtualServer {
	return loadbalancer.VirtualServer{
		Service: r.Service, Scheduler: cmp.Or(r.Scheduler, defaultScheduler(r)), Flags: schedulerFlags(r), Affinity: r.Affinity.Truncate(time.Second),
	}
}

// defaultScheduler takes turns. Where somebody gave weights, or node ports stand for several
// pods each, it must be one that looks at them.
func defaultScheduler(r *asked) string {
	if r.Policy == loadbalancer.Cluster && r.Targets == loadbalancer.TargetNodePort ||
		slices.ContainsFunc(r.backends, func(b loadbalancer.Backend) bool { return b.Weight > 1 }) {
		return "wrr"
	}
	return "rr"
}

// insideServer is the virtual server for packets from within the cluster, without its mark.
// Persistence does not go together with a mark: the kernel then leaves the destination port
// as it is (ip_vs_sched_persist), which is the Service's and not the pod's. Hashing by the
// client's address, which here is always its own, keeps it with its pod as well.
func insideServer(r *asked, is6 bool, reals []loadbalancer.RealServer) loadbalancer.VirtualServer {
	vs := virtualServer(r)
	vs.Reals = reals
	if vs.Affinity > 0 {
		vs.Scheduler, vs.Flags, vs.Affinity = "mh", loadbalancer.SchedFallback, 0
	}
	vs.Addr = netip.IPv4Unspecified()
	if is6 {
		vs.Addr = netip.IPv6Unspecified()
	}
	return vs
}

// schedulerFlags are those that a record asks for. The hashing schedulers sh and mh refuse
// the clients of a real server of weight 0, which is one that drains or whose node is dead,
// unless they may fall back to another one: they always may.
func schedulerFlags(r *asked) loadbalancer.SchedulerFlags {
	if r.Scheduler == "sh" || r.Scheduler == "mh" {
		return r.Flags | loadbalancer.SchedFallback
	}
	return r.Flags
}

// weighted is a backend with its weight in a virtual server.
type weighted struct {
	*loadbalancer.Backend
	weight uint32
}

// weigh returns the backends of one virtual server that may have connections. The best of
// them get new ones: ready ones, else those that terminate and still serve (KEP-1669), and
// those of dead nodes only where there is nothing else. The others have the weight 0. UDP
// has no connections that end: its flows are not left with a dead node.
func (f *forwarder) weigh(all []loadbalancer.Backend, match func(b *loadbalancer.Backend) bool) []weighted {
	out := make([]weighted, 0, len(all))
	best := unfit
	for i := range all {
		if b := &all[i]; match(b) {
			if rank := f.rank(b); rank != unfit {
				best = min(best, rank)
				out = append(out, weighted{b, 0})
			}
		}
	}
	for i, b := range out {
		if f.rank(b.Backend) == best {
			out[i].weight = max(1, uint32(b.Weight))
		}
	}
	return slices.DeleteFunc(out, func(b weighted) bool {
		return b.weight == 0 && b.Protocol == loadbalancer.UDP && f.rank(b.Backend) >= readyOnDead
	})
}

// rank orders backends, the best first.
type rank uint8

const (
	ready rank = iota
	terminating
	readyOnDead
	terminatingOnDead
	unfit
)

func (f *forwarder) rank(b *loadbalancer.Backend) rank {
	_, dead := f.dead[b.Node]
	switch {
	case b.Ready && !dead:
		return ready
	case b.Ready:
		return readyOnDead
	case !b.Serving || !b.Terminating:
		return unfit
	case dead:
		return terminatingOnDead
	default:
		return terminating
	}
}

// pods are the real servers that are the backends themselves.
func pods(in []weighted) []loadbalancer.RealServer {
	out := make([]loadbalancer.RealServer, 0, len(in))
	for _, b := range in {
		out = append(out, loadbalancer.RealServer{RealServerKey: loadbalancer.RealServerKey{Addr: b.Addr, Port: b.Port}, Weight: b.weight})
	}
	return ordered(out)
}

// nodePorts are the real servers of a node-port target: for other nodes their node port
// with the weight of all their pods, and the pods themselves of this node, whose own node
// port the kernel would refuse, and of machines that are no node.
func (f *forwarder) nodePorts(in []weighted, port uint16, is6 bool) []loadbalancer.RealServer {
	var here []weighted
	nodes := make(map[netip.Addr]uint32)
	for _, b := range in {
		if a := f.targets[b.Node].of(is6); b.Node != f.s.Self && a.IsValid() {
			nodes[a] += b.weight
		} else {
			here = append(here, b)
		}
	}
	out := pods(here)
	for a, weight := range nodes {
		out = append(out, loadbalancer.RealServer{RealServerKey: loadbalancer.RealServerKey{Addr: a, Port: port}, Weight: weight})
	}
	return ordered(out)
}

// ordered sorts real servers. Of those that are one, the heavier counts.
func ordered(in []loadbalancer.RealServer) []loadbalancer.RealServer {
	slices.SortFunc(in, func(a, b loadbalancer.RealServer) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(b.Weight, a.Weight))
	})
	return slices.CompactFunc(in, func(a, b loadbalancer.RealServer) bool { return a.RealServerKey == b.RealServerKey })
}
