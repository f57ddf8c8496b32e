// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// For plans the node s.Self.
func For(s Snapshot) NodeState {
	p := planner{s: s, reserved: reservedAddrs(s), live: make(map[loadbalancer.NodeName]reason.Reason, len(s.Members))}
	for name, m := range s.Members {
		p.candidates = append(p.candidates, candidate{name: name, ifaces: m.Interfaces, claims: m.Claims, why: p.mayServe(name, m)})
	}
	groups := make(map[loadbalancer.Group][]loadbalancer.Claim)
	for _, c := range s.Claims {
		groups[c.Group] = append(groups[c.Group], c)
	}
	out := NodeState{Groups: make(map[loadbalancer.Group]GroupState, len(groups))}
	for g, claims := range groups {
		slices.SortFunc(claims, func(a, b loadbalancer.Claim) int { return a.Addr.Compare(b.Addr) })
		out.Groups[g] = p.group(g, claims)
	}
	return out
}

// reservedAddrs are the nodes' own addresses, which nobody may announce: as a virtual
// address they would cut the node that has them off.
func reservedAddrs(s Snapshot) map[netip.Addr]struct{} {
	out := make(map[netip.Addr]struct{})
	for _, n := range s.Nodes {
		for _, a := range n.Addrs {
			out[a] = struct{}{}
		}
	}
	for _, m := range s.Members {
		for _, i := range m.Interfaces {
			for _, p := range i.Prefixes {
				out[p.Addr()] = struct{}{}
			}
		}
	}
	return out
}

type planner struct {
	s          Snapshot
	reserved   map[netip.Addr]struct{}
	candidates []candidate
	// live is one group's View.Live after the other's: with hundreds of nodes and
	// thousands of groups a map for each costs more than all the rest.
	live map[loadbalancer.NodeName]reason.Reason
}

// candidate is a live node, with what does not depend on the group.
type candidate struct {
	name   loadbalancer.NodeName
	ifaces []loadbalancer.Interface
	claims map[loadbalancer.Group]uint64
	// why it may not announce anything, empty when it may.
	why reason.Reason
}

// target is what of a group layer 2 announces, and under which rules.
type target struct {
	addr netip.Addr
	ads  []loadbalancer.Advertisement
}

// group decides on one group. Claims are those of the group by address.
func (p *planner) group(g loadbalancer.Group, claims []loadbalancer.Claim) GroupState {
	targets, services, why := p.targets(claims)
	st := GroupState{}
	for _, t := range targets {
		st.Addrs = append(st.Addrs, t.addr)
	}
	local, keepOnly := p.localServices(services)
	v := placement.View{
		Self: p.s.Self, Group: g, Highest: p.s.Highest[g], KeepOnly: keepOnly, Live: p.live,
	}
	for _, c := range claims {
		if c.Persisted.Beats(v.Persisted) {
			v.Persisted = c.Persisted
		}
		if len(v.Successors) == 0 {
			v.Successors = c.Successors
		}
	}
	persisted, known := p.s.Nodes[v.Persisted.Node]
	v.PersistedGone = !known || !persisted.Ready
	clear(p.live)
	for i := range p.candidates {
		c := &p.candidates[i]
		switch {
		case why != "":
			v.Live[c.name] = why
		case c.why != "":
			v.Live[c.name] = c.why
		default:
			v.Live[c.name] = c.mayAnnounce(targets, local, keepOnly)
		}
		if e := c.claims[g]; e > 0 {
			v.Claims = append(v.Claims, loadbalancer.Ownership{Node: c.name, Epoch: e})
		}
	}
	v.Guard = p.guard(v)
	st.Verdict = placement.Owner(v)
	if why == reason.Released && st.Action == placement.Withdraw {
		// Make-before-break is for addresses that have a future.
		st.Action = placement.Yield
	}
	for _, t := range targets {
		for _, i := range interfacesFor(p.s.Self, p.s.Members[p.s.Self].Interfaces, t) {
			st.Announce = append(st.Announce, Announcement{Interface: i, Addr: t.addr})
		}
	}
	return st
}

func (p *planner) guard(v placement.View) reason.Reason {
	if p.s.Guard != "" {
		return p.s.Guard
	}
	if p.s.Hold && (v.Highest > 0 || v.Persisted.Node != "") {
		return reason.Listening
	}
	return ""
}

// targets picks the claims that layer 2 announces and joins them with the records of
// their Services. why is the reason when there is none.
func (p *planner) targets(claims []loadbalancer.Claim) (ts []target, services []loadbalancer.Record, why reason.Reason) {
	why = reason.Released
	seen := map[loadbalancer.ServiceUID]bool{}
	for _, c := range claims {
		if c.Releasing {
			continue
		}
		if !c.Addr.Is4() {
			if why == reason.Released {
				why = reason.FamilyNotAnnounced
			}
			continue
		}
		if _, bad := p.reserved[c.Addr]; bad {
			why = reason.AddressReserved
			continue
		}
		t := target{addr: c.Addr}
		for _, uid := range c.Services {
			r, ok := p.s.Records[uid]
			if !ok || !slices.Contains(r.Addrs, c.Addr) {
				continue
			}
			if !seen[uid] {
				seen[uid] = true
				services = append(services, r)
			}
			for _, name := range r.Advertisements {
				if ad, ok := p.s.Advertisements[name]; ok {
					t.ads = append(t.ads, ad)
				}
			}
		}
		if len(t.ads) == 0 {
			why = reason.NoAdvertisement
			continue
		}
		ts = append(ts, t)
	}
	if len(ts) > 0 {
		why = ""
	}
	return ts, services, why
}

// localServices returns the endpoints of the Services with the Local policy, and
// whether none of them has any: then the group stays where it is.
func (p *planner) localServices(services []loadbalancer.Record) (local []loadbalancer.Endpoints, keepOnly bool) {
	for _, r := range services {
		if r.Policy != loadbalancer.Local {
			continue
		}
		e := p.s.Endpoints[r.Service]
		if e.Any {
			local = append(local, e)
		} else {
			keepOnly = true
		}
	}
	return local, keepOnly && len(local) == 0
}

// mayServe says why a node may not announce anything, "" when it may.
func (p *planner) mayServe(name loadbalancer.NodeName, m Member) reason.Reason {
	n, known := p.s.Nodes[name]
	switch {
	case m.Leaving:
		return reason.Leaving
	case !m.Known || !known:
		return reason.WaitingForAgent
	case n.Excluded:
		return reason.NodeExcluded
	case n.NetworkUnavailable:
		return reason.NetworkUnavailable
	default:
		return ""
	}
}

// mayAnnounce says why a node may not announce the targets, "" when it may.
func (c *candidate) mayAnnounce(ts []target, local []loadbalancer.Endpoints, keepOnly bool) reason.Reason {
	for _, t := range ts {
		if !slices.ContainsFunc(t.ads, func(a loadbalancer.Advertisement) bool { return a.Selects(c.name) }) {
			return reason.NodeNotSelected
		}
		if !slices.ContainsFunc(c.ifaces, func(i loadbalancer.Interface) bool { return announcesOn(c.name, i, t) }) {
			return reason.NoInterface
		}
	}
	if keepOnly {
		return ""
	}
	for _, e := range local {
		if _, ok := e.Nodes[c.name]; !ok {
			return reason.NoLocalEndpoint
		}
	}
	return ""
}

// interfacesFor returns the interfaces on which a node announces a target, in the
// order of the node's interfaces.
func interfacesFor(name loadbalancer.NodeName, ifaces []loadbalancer.Interface, t target) []string {
	var out []string
	for _, i := range ifaces {
		if announcesOn(name, i, t) {
			out = append(out, i.Name)
		}
	}
	return out
}

// announcesOn says whether a node announces a target on an interface: one that an
// advertisement for this node names, or one in the address's subnet if an
// advertisement names none.
func announcesOn(name loadbalancer.NodeName, i loadbalancer.Interface, t target) bool {
	return slices.ContainsFunc(t.ads, func(a loadbalancer.Advertisement) bool {
		if !a.Selects(name) {
			return false
		}
		if len(a.Interfaces) > 0 {
			return slices.Contains(a.Interfaces, i.Name)
		}
		return inSubnet(i, t.addr)
	})
}

func inSubnet(i loadbalancer.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool {
		return !p.IsSingleIP() && p.Contains(a)
	})
}
