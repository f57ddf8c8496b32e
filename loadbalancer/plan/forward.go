// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// forwarding plans the data plane of the node: of every record, whoever announces it, so
// that a take-over needs nothing but an announcement.
func (m *Memory) forwarding(p *planner) loadbalancer.Forwarding {
	if !p.s.Forwards {
		m.forget()
		return loadbalancer.Forwarding{}
	}
	f := newForwarder(p)
	m.begin(f)
	for uid, r := range p.s.Records {
		if r.DataPlane == loadbalancer.IPVS {
			m.record(f, uid, r)
		}
	}
	m.end()
	if shared := f.shared(); !maps.Equal(shared, m.shared) {
		m.shared, m.changed = shared, true
	}
	inCluster := f.inCluster()
	if m.changed || !slices.Equal(inCluster, m.last.InCluster) {
		m.last = m.assemble()
		m.last.InCluster = inCluster
	}
	return m.last
}

// forwarder is what the forwarding of records depends on beside themselves.
type forwarder struct {
	*planner
	// bound are the claims by address that are not being released.
	bound map[netip.Addr]*loadbalancer.Claim
	// own are this node's addresses.
	own map[netip.Addr]struct{}
	// dead nodes get no new connections.
	dead map[loadbalancer.NodeName]struct{}
	// targets are the addresses at which nodes' node ports are reached.
	targets map[loadbalancer.NodeName]nodeAddrs
}

// nodeAddrs are one address of a node per family, invalid where it has none.
type nodeAddrs struct{ v4, v6 netip.Addr }

func (n nodeAddrs) of(is6 bool) netip.Addr {
	if is6 {
		return n.v6
	}
	return n.v4
}

func newForwarder(p *planner) *forwarder {
	f := &forwarder{
		planner: p, bound: make(map[netip.Addr]*loadbalancer.Claim, len(p.s.Claims)), own: make(map[netip.Addr]struct{}),
		targets: make(map[loadbalancer.NodeName]nodeAddrs, len(p.s.Nodes)), dead: deadNodes(&p.s),
	}
	for i := range p.s.Claims {
		if c := &p.s.Claims[i]; !c.Releasing {
			f.bound[c.Addr] = c
		}
	}
	for _, a := range p.s.Nodes[p.s.Self].Addrs {
		f.own[a] = struct{}{}
	}
	for _, i := range p.s.Members[p.s.Self].Interfaces {
		for _, prefix := range i.Prefixes {
			f.own[prefix.Addr()] = struct{}{}
		}
	}
	for name, n := range p.s.Nodes {
		var t nodeAddrs
		for _, a := range slices.Concat(n.InternalIPs, n.Addrs) {
			switch {
			case a.Is4() && !t.v4.IsValid():
				t.v4 = a
			case a.Is6() && !t.v6.IsValid():
				t.v6 = a
			}
		}
		f.targets[name] = t
	}
	return f
}

// reservedHere says whether an address may not be virtual: it is a node's, a gateway's or a pod's.
func (p *planner) reservedHere(a netip.Addr) bool {
	if _, bad := p.reserved[a]; bad {
		return true
	}
	// The last range that begins at or before the address is the only one that may hold it.
	i, _ := slices.BinarySearchFunc(p.podRanges, a, func(p netip.Prefix, a netip.Addr) int {
		if p.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return i > 0 && p.podRanges[i-1].Contains(a)
}

// deadNodes are the nodes that real servers are taken from: none if they are more than half
// of all, because then it is rather this node that does not see well. A node that plans is
// not dead.
func deadNodes(s *Snapshot) map[loadbalancer.NodeName]struct{} {
	dead := maps.Clone(s.Dead)
	delete(dead, s.Self)
	all := len(s.Nodes)
	for n := range dead {
		if _, known := s.Nodes[n]; !known {
			all++
		}
	}
	if 2*len(dead) > all {
		return nil
	}
	return dead
}

// addrs appends the virtual addresses of a record: those that a bound claim gives it.
func (f *forwarder) addrs(out []netip.Addr, r loadbalancer.Record) []netip.Addr {
	for _, a := range r.Addrs {
		c, ok := f.bound[a]
		if ok && slices.Contains(c.Services, r.UID) && !f.reservedHere(a) {
			out = append(out, a)
		}
	}
	return out
}

// ownAddrs appends the addresses of spec.externalIPs that this node has itself.
func (f *forwarder) ownAddrs(out []netip.Addr, r loadbalancer.Record) []netip.Addr {
	for _, a := range r.NodeAddrs {
		if _, mine := f.own[a]; mine {
			out = append(out, a)
		}
	}
	return out
}

// shared are the virtual addresses that have Services of kube-proxy too.
func (f *forwarder) shared() map[netip.Addr]struct{} {
	out := make(map[netip.Addr]struct{})
	for _, r := range f.s.Records {
		if r.DataPlane == loadbalancer.IPVS {
			continue
		}
		for _, a := range f.addrs(nil, r) {
			out[a] = struct{}{}
		}
	}
	return out
}

// inCluster are the sources that count as within the cluster.
func (f *forwarder) inCluster() []netip.Prefix {
	return loadbalancer.Disjoint(slices.Concat(f.podRanges, f.s.InCluster))
}
