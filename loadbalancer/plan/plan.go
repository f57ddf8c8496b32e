// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// For plans the node s.Self. It costs time in proportion to the groups and to what nodes
// claim, not to groups times nodes, and to the records and their endpoints.
func For(s Snapshot) NodeState { return new(Memory).For(s) }

// For is like the function For and costs less where little changed since the last plan, most
// of all where s.Changed says what did. Then Groups are valid until the next plan only.
func (m *Memory) For(s Snapshot) NodeState {
	p, a, groups := m.groups.plan(&s)
	return NodeState{Groups: groups, Forwarding: m.forwarding(p), BGP: m.bgp.plan(p, a)}
}

// newPlanner prepares decisions on groups.
func newPlanner(s *Snapshot) planner {
	p := planner{
		s: *s, reserved: reservedAddrs(s), podRanges: podRanges(s), claims: claimsByName(s.Members),
		candidates: make([]candidate, 0, len(s.Members)), index: make(map[loadbalancer.NodeName]int, len(s.Members)),
	}
	for name, m := range s.Members {
		p.index[name] = len(p.candidates)
		n, known := s.Nodes[name]
		p.candidates = append(p.candidates, candidate{
			name: name, ifaces: m.Interfaces, why: mayServe(m, n, known), cordoned: n.Cordoned, absent: m.Absent,
		})
	}
	return p
}

// groups decides on all groups.
func (p *planner) groups(all []loadbalancer.Claim) map[loadbalancer.Group]GroupState {
	groups := make(map[loadbalancer.Group][]loadbalancer.Claim, len(all))
	for _, c := range all {
		groups[c.Group] = append(groups[c.Group], c)
	}
	out := make(map[loadbalancer.Group]GroupState, len(groups))
	for g, claims := range groups {
		out[g] = p.group(g, claims)
	}
	return out
}

// reservedAddrs are the nodes' own addresses and their gateways', which nobody may
// announce: as a virtual address they would cut off the node that has them, or all.
func reservedAddrs(s *Snapshot) map[netip.Addr]struct{} {
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
		for _, a := range m.Gateways {
			out[a] = struct{}{}
		}
	}
	return out
}

// podRanges are the pods' addresses on all nodes, disjoint and ascending.
func podRanges(s *Snapshot) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range s.Nodes {
		out = append(out, n.PodCIDRs...)
	}
	return loadbalancer.Disjoint(out)
}

type planner struct {
	s          Snapshot
	reserved   map[netip.Addr]struct{}
	podRanges  []netip.Prefix
	candidates []candidate
	// index of the candidates by name.
	index map[loadbalancer.NodeName]int
	// claims that members gossip, by name of claim or group.
	claims claimIndex
}

// target is an address that layer 2 announces.
type target struct {
	addr netip.Addr
	// wishes are the advertisements of each Service that has the address and any.
	wishes [][]loadbalancer.Advertisement
}

// group decides on one group. Claims are those of the group; it sorts them.
func (p *planner) group(g loadbalancer.Group, claims []loadbalancer.Claim) GroupState {
	slices.SortFunc(claims, func(a, b loadbalancer.Claim) int { return a.Addr.Compare(b.Addr) })
	t := p.targets(claims)
	if len(t.list) > 1 {
		p.leaveOut(&t)
	}
	st := GroupState{Silent: t.silent}
	for _, c := range claims {
		st.Claims = append(st.Claims, c.Addr)
	}
	for _, t := range t.list {
		st.Addrs = append(st.Addrs, t.addr)
	}
	members := boundClaims(claims)
	v := p.view(g, members, &t)
	st.Verdict = placement.Owner(v)
	if p.togetherOnly(st.Verdict, v.Nodes, &t) {
		st.Reason = reason.NoCommonNode
	}
	if t.why == reason.Released && st.Action == placement.Withdraw {
		// Make-before-break is for addresses that have a future.
		st.Action = placement.Yield
	}
	if st.Action == placement.Yield && t.why != reason.Released {
		st.Orphans = p.orphans(members)
	}
	for _, t := range t.list {
		for _, i := range interfacesFor(p.s.Self, p.s.Members[p.s.Self].Interfaces, t) {
			st.Announce = append(st.Announce, Announcement{Interface: i, Addr: t.addr})
		}
	}
	return st
}

// boundClaims are the claims that a group's owner follows from: those with a future, or
// all if none has one.
func boundClaims(claims []loadbalancer.Claim) []loadbalancer.Claim {
	if !slices.ContainsFunc(claims, func(c loadbalancer.Claim) bool { return c.Releasing }) {
		return claims
	}
	bound := slices.DeleteFunc(slices.Clone(claims), func(c loadbalancer.Claim) bool { return c.Releasing })
	if len(bound) == 0 {
		return claims
	}
	return bound
}

// view is what the owner of a group depends on. What nodes claim of any of its members
// counts for the group: it may have had another name a moment ago, or been several.
func (p *planner) view(g loadbalancer.Group, members []loadbalancer.Claim, t *targets) placement.View {
	local, keepOnly := p.localServices(t.services)
	v := placement.View{Self: p.s.Self, Group: g, Highest: p.s.Highest[g], KeepOnly: keepOnly}
	v.Claims = p.claims.appendTo(nil, g)
	for _, c := range members {
		if c.Persisted.Beats(v.Persisted) {
			v.Persisted = c.Persisted
		}
		if len(v.Successors) == 0 {
			v.Successors = c.Successors
		}
		if c.Name != g {
			v.Claims = p.claims.appendTo(v.Claims, c.Name)
			v.Highest = max(v.Highest, p.s.Highest[c.Name])
		}
	}
	persisted, known := p.s.Nodes[v.Persisted.Node]
	v.PersistedGone = !known || !persisted.Ready
	v.Nodes = &electors{planner: p, targets: t, local: local, keepOnly: keepOnly}
	v.Guard = p.guard(v)
	return v
}

// leaveOut silences the addresses of a group that no live node could announce, whatever
// became of the others, so that they do not stop those. If that is all of them, they stay.
func (p *planner) leaveOut(t *targets) {
	var list []target
	for _, one := range t.list {
		if p.anyCandidate(func(c *candidate) bool { return c.mayAnnounce([]target{one}, nil, true) == "" }) {
			list = append(list, one)
		}
	}
	if len(list) == 0 || len(list) == len(t.list) {
		return
	}
	for _, one := range t.list {
		if slices.ContainsFunc(list, func(o target) bool { return o.addr == one.addr }) {
			continue
		}
		switch {
		case p.disputed([]target{one}):
			t.silence(one.addr, reason.NoCommonNode)
		case p.anyCandidate(func(c *candidate) bool { return c.selected(one) }):
			t.silence(one.addr, reason.NoInterface)
		default:
			t.silence(one.addr, reason.NodeNotSelected)
		}
	}
	t.list = list
}

// orphans are the claims of this node, ascending by address, that the better claim does
// not cover: nobody else has taken just these addresses yet.
func (p *planner) orphans(members []loadbalancer.Claim) []netip.Addr {
	var out []netip.Addr
	for _, c := range members {
		own := loadbalancer.Ownership{Node: p.s.Self, Epoch: p.s.Members[p.s.Self].Claims[c.Name]}
		if own.Epoch == 0 || c.Persisted.Node != p.s.Self && c.Persisted.Beats(own) {
			continue
		}
		if !slices.ContainsFunc(p.claims.appendTo(nil, c.Name), func(o loadbalancer.Ownership) bool {
			return o.Node != p.s.Self && o.Beats(own)
		}) {
			out = append(out, c.Addr)
		}
	}
	return out
}

// guard is why this node must not take a group over. A node that sees too few others is
// not kept from what the API says is its own: that is for one that has just started.
func (p *planner) guard(v placement.View) reason.Reason {
	if p.s.Guard != "" && (p.s.Guard != reason.Minority || v.Persisted.Node != p.s.Self) {
		return p.s.Guard
	}
	_, awaited := p.s.Awaited[v.Persisted.Node]
	if awaited || p.s.Hold && (v.Highest > 0 || v.Persisted.Node != "") {
		return reason.Listening
	}
	return ""
}

// targets is what of a group layer 2 announces.
type targets struct {
	list []target
	// services that have any of these addresses, advertised or not.
	services []loadbalancer.Record
	// silent are the addresses of the group that are not in the list, and why.
	silent map[netip.Addr]reason.Reason
	// why the list is empty, "" when it is not.
	why reason.Reason
}

func (t *targets) silence(a netip.Addr, why reason.Reason) {
	if t.silent == nil {
		t.silent = make(map[netip.Addr]reason.Reason)
	}
	t.silent[a] = why
}

// targets picks the claims that layer 2 announces and joins them with the records of
// their Services. A Service without an advertisement has nothing to say: those that
// share its address are announced all the same.
func (p *planner) targets(claims []loadbalancer.Claim) targets {
	var out targets
	for _, c := range claims {
		t := target{addr: c.Addr}
		why, otherwise := p.unannounceable(c), reason.NoAdvertisement
		for _, r := range p.recordsOf(nil, c) {
			if why != "" {
				break
			}
			if len(bgpAdvertisements(&r, c.Addr)) > 0 {
				otherwise = reason.BGPOnly
			}
			if !slices.ContainsFunc(out.services, func(s loadbalancer.Record) bool { return s.UID == r.UID }) {
				out.services = append(out.services, r)
			}
			if ads := p.advertisements(r); len(ads) > 0 {
				t.wishes = append(t.wishes, ads)
			}
		}
		if why == "" && len(t.wishes) == 0 {
			why = otherwise
		}
		if why == "" {
			out.list = append(out.list, t)
			continue
		}
		out.silence(c.Addr, why)
		if out.why == "" || out.why == reason.Released {
			out.why = why
		}
	}
	if len(out.list) > 0 {
		out.why = ""
	}
	return out
}

// unannounceable says why a claim's address is never announced, "" when it may be.
func (p *planner) unannounceable(c loadbalancer.Claim) reason.Reason {
	_, bad := p.reserved[c.Addr]
	switch {
	case c.Releasing:
		return reason.Released
	case bad:
		return reason.AddressReserved
	default:
		return ""
	}
}

// recordsOf appends the records of a claim's Services that name its address.
func (p *planner) recordsOf(out []loadbalancer.Record, c loadbalancer.Claim) []loadbalancer.Record {
	for _, uid := range c.Services {
		if r, ok := p.s.Records[uid]; ok && slices.Contains(r.Addrs, c.Addr) {
			out = append(out, r)
		}
	}
	return out
}

func (p *planner) advertisements(r loadbalancer.Record) []loadbalancer.Advertisement {
	var out []loadbalancer.Advertisement
	for _, name := range r.Advertisements {
		if ad, ok := p.s.Advertisements[name]; ok {
			out = append(out, ad)
		}
	}
	return out
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
