// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// candidate is a live node, with what does not depend on the group.
type candidate struct {
	name   loadbalancer.NodeName
	ifaces []loadbalancer.Interface
	// why it may not announce anything, empty when it may.
	why      reason.Reason
	cordoned bool
	absent   bool
}

// electors are the live nodes as one group sees them; they answer when asked, because an
// election asks for few of them.
type electors struct {
	*planner
	targets  *targets
	local    []loadbalancer.Endpoints
	keepOnly bool
}

// Why implements placement.Nodes.
func (e *electors) Why(n loadbalancer.NodeName) (reason.Reason, bool) {
	i, live := e.index[n]
	if !live {
		return "", false
	}
	return e.whyNot(&e.candidates[i]), true
}

// Len implements placement.Nodes.
func (e *electors) Len() int {
	if e.targets.why != "" {
		return 0 // nobody may
	}
	return len(e.candidates)
}

// At implements placement.Nodes.
func (e *electors) At(i int) (loadbalancer.NodeName, reason.Reason) {
	return e.candidates[i].name, e.whyNot(&e.candidates[i])
}

// whyNot says why a candidate may not announce the group, "" when it may. That it is
// absent or cordoned comes last: all the rest it must fulfil for that to matter. An absent
// node cannot hand over, so that its being cordoned waits for its return.
func (e *electors) whyNot(c *candidate) reason.Reason {
	why := cmp.Or(e.targets.why, c.why)
	if why == "" {
		why = c.mayAnnounce(e.targets.list, e.local, e.keepOnly)
	}
	switch {
	case why != "":
		return why
	case c.absent:
		return reason.Restarting
	case c.cordoned:
		return reason.NodeCordoned
	default:
		return ""
	}
}

// claimIndex holds what members claim, by name of claim or group, as linked lists in one
// slice: with as many names as claims, as a rule, a slice for each would cost more.
type claimIndex struct {
	last  map[loadbalancer.Group]int32 // index into all, plus one
	all   []loadbalancer.Ownership
	links []int32 // likewise, of the one before
	// members are looked at one by one if there is no index: for few names that costs less.
	members map[loadbalancer.NodeName]Member
}

func claimsByName(members map[loadbalancer.NodeName]Member) claimIndex {
	n := 0
	for _, m := range members {
		n += len(m.Claims)
	}
	x := claimIndex{
		last: make(map[loadbalancer.Group]int32, n),
		all:  make([]loadbalancer.Ownership, 0, n), links: make([]int32, 0, n),
	}
	for name, m := range members {
		for g, epoch := range m.Claims {
			if epoch == 0 {
				continue
			}
			x.all = append(x.all, loadbalancer.Ownership{Node: name, Epoch: epoch})
			x.links = append(x.links, x.last[g])
			x.last[g] = int32(len(x.all)) //nolint:gosec // two thousand million claims do not fit into any gossip
		}
	}
	return x
}

func (x *claimIndex) appendTo(out []loadbalancer.Ownership, g loadbalancer.Group) []loadbalancer.Ownership {
	for name, m := range x.members {
		if epoch := m.Claims[g]; epoch > 0 {
			out = append(out, loadbalancer.Ownership{Node: name, Epoch: epoch})
		}
	}
	for i := x.last[g]; i > 0; i = x.links[i-1] {
		out = append(out, x.all[i-1])
	}
	return out
}

// togetherOnly says whether nobody announces the group for no other reason than that its
// addresses and Services cannot be announced together.
func (p *planner) togetherOnly(v placement.Verdict, nodes placement.Nodes, t *targets) bool {
	if v.Owner.Node != "" || t.why != "" || v.Reason != reason.NodeNotSelected && v.Reason != reason.NoInterface {
		return false
	}
	for i := range nodes.Len() {
		if _, why := nodes.At(i); why == "" || why == reason.NodeCordoned || why == reason.Restarting {
			return false
		}
	}
	return p.disputed(t.list)
}

// anyCandidate says whether f holds for a node that may announce anything at all.
func (p *planner) anyCandidate(f func(c *candidate) bool) bool {
	for i := range p.candidates {
		if p.candidates[i].why == "" && f(&p.candidates[i]) {
			return true
		}
	}
	return false
}

// disputed says whether every wish has a node that could fulfil it alone: then it is only
// together that they cannot be fulfilled.
func (p *planner) disputed(ts []target) bool {
	wishes := 0
	for _, t := range ts {
		for _, w := range t.wishes {
			wishes++
			alone := []target{{addr: t.addr, wishes: [][]loadbalancer.Advertisement{w}}}
			if !p.anyCandidate(func(c *candidate) bool { return c.mayAnnounce(alone, nil, true) == "" }) {
				return false
			}
		}
	}
	return wishes > 1
}

// mayServe says why a node may not announce anything, "" when it may.
func mayServe(m Member, n loadbalancer.Node, known bool) reason.Reason {
	switch {
	case m.Leaving:
		return reason.Leaving
	case !m.Known || !known:
		return reason.WaitingForAgent
	default:
		return placement.Barred(n)
	}
}

// mayAnnounce says why a node may not announce the targets, "" when it may: it has to
// fulfil every wish for every address, and to serve every Service with the Local policy.
func (c *candidate) mayAnnounce(ts []target, local []loadbalancer.Endpoints, keepOnly bool) reason.Reason {
	for _, t := range ts {
		if !c.selected(t) {
			return reason.NodeNotSelected
		}
		if !slices.ContainsFunc(c.ifaces, func(i loadbalancer.Interface) bool { return fulfils(c.name, i, t) }) {
			return reason.NoInterface
		}
	}
	if keepOnly {
		return ""
	}
	return mayServeLocally(c.name, local)
}

// mayServeLocally says why a node may not announce Services with the Local policy, "" when
// it may: each has to have an endpoint there.
func mayServeLocally(n loadbalancer.NodeName, local []loadbalancer.Endpoints) reason.Reason {
	for _, e := range local {
		if _, ok := e.Nodes[n]; !ok {
			return reason.NoLocalEndpoint
		}
	}
	return ""
}

// selected says whether all Services of a target want it announced by this node.
func (c *candidate) selected(t target) bool {
	for _, w := range t.wishes {
		if !slices.ContainsFunc(w, func(a loadbalancer.Advertisement) bool { return a.Selects(c.name) }) {
			return false
		}
	}
	return true
}

// interfacesFor returns the interfaces on which a node announces a target, in the
// order of the node's interfaces.
func interfacesFor(name loadbalancer.NodeName, ifaces []loadbalancer.Interface, t target) []string {
	var out []string
	for _, i := range ifaces {
		if fulfils(name, i, t) {
			out = append(out, i.Name)
		}
	}
	return out
}

// fulfils says whether a node announces a target on an interface: where all its
// Services want it.
func fulfils(name loadbalancer.NodeName, i loadbalancer.Interface, t target) bool {
	for _, w := range t.wishes {
		if !announcesOn(name, i, t.addr, w) {
			return false
		}
	}
	return true
}

// announcesOn says whether a Service with these advertisements wants an address
// announced on an interface of a node: one that an advertisement for this node names,
// or one in the address's subnet if an advertisement names none.
func announcesOn(name loadbalancer.NodeName, i loadbalancer.Interface, addr netip.Addr, ads []loadbalancer.Advertisement) bool {
	return slices.ContainsFunc(ads, func(a loadbalancer.Advertisement) bool {
		if !a.Selects(name) || addr.Is4() && i.NoIPv4 || addr.Is6() && i.NoIPv6 {
			return false
		}
		if len(a.Interfaces) > 0 {
			return slices.Contains(a.Interfaces, i.Name)
		}
		return inSubnet(i, addr)
	})
}

func inSubnet(i loadbalancer.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool {
		return !p.IsSingleIP() && p.Contains(a)
	})
}
