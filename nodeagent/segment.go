// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/pulse"
)

// maxWitnesses is how many members vouch for one link.
const maxWitnesses = 3

// watch has the pulse ask those nodes after whom this one would have to take over, and
// those that the gossip misses.
func (l *loop) watch(view member.View, state plan.NodeState) {
	self := l.a.name()
	owners := make(map[loadbalancer.NodeName]map[string]struct{})
	for _, g := range state.Groups {
		if g.Heir != self || g.Owner.Node == self {
			continue
		}
		links := owners[g.Owner.Node]
		if links == nil {
			links = make(map[string]struct{})
			owners[g.Owner.Node] = links
		}
		for _, an := range g.Announce {
			links[an.Interface] = struct{}{}
		}
	}
	var targets []pulse.Target
	add := func(n loadbalancer.NodeName, m plan.Member, run member.Run, lost bool) {
		if t, ok := l.segment(n, m, owners[n]); ok {
			t.Run, t.Lost = run.Joins, lost
			targets = append(targets, t)
		}
	}
	for n, m := range view.Members {
		_, owns := owners[n]
		_, dead := l.living.dead[n]
		// Of an agent that is back and has told nothing yet the links are not known.
		if (owns || dead) && m.Known {
			add(n, m, view.Runs[n], false)
		}
	}
	for n, a := range l.living.absent {
		add(n, a.member, a.run, true)
	}
	for n, m := range l.awaited {
		add(n, m, member.Run{}, true)
	}
	slices.SortFunc(targets, compareTargets)
	l.a.pulse.Watch(targets, l.witnesses(view, targets))
}

func compareTargets(a, b pulse.Target) int { return cmp.Compare(a.Node, b.Node) }

// witnesses are members on the links on which somebody is watched: the next few by name,
// so that not everybody asks the same ones.
func (l *loop) witnesses(view member.View, targets []pulse.Target) []pulse.Target {
	links := make(map[string]struct{})
	for _, t := range targets {
		links[t.Link] = struct{}{}
	}
	var names []loadbalancer.NodeName
	if len(links) > 0 {
		for n, m := range view.Members {
			if _, dead := l.living.dead[n]; !dead && m.Known && !m.Leaving && view.Runs[n].Restarting == 0 {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	first, _ := slices.BinarySearch(names, l.a.name())
	var out []pulse.Target
	for i := range names {
		n := names[(first+i)%len(names)]
		if t, ok := l.segment(n, view.Members[n], links); ok && len(out) < maxWitnesses*len(links) {
			if _, on := links[t.Link]; on {
				out = append(out, t)
			}
		}
	}
	slices.SortFunc(out, compareTargets)
	return out
}

// segment is how to ask a node's kernel: on one of this node's links, which it has a
// prefix in common with, for an address of the node's own there. The links in prefer come
// first, then IPv4, then the order of names. False: there is no such link.
func (l *loop) segment(n loadbalancer.NodeName, m plan.Member, prefer map[string]struct{}) (pulse.Target, bool) {
	var best pulse.Target
	found := false
	for _, k := range l.links {
		for _, own := range k.Prefixes {
			if own.IsSingleIP() {
				continue
			}
			for _, i := range m.Interfaces {
				addr, ok := addrIn(own, i, l.nodes[n].InternalIPs)
				if !ok {
					continue
				}
				t := pulse.Target{Node: n, Link: k.Name, Addr: addr, Source: own.Addr(), To: i.MAC}
				if !found || better(t, best, prefer) {
					best, found = t, true
				}
			}
		}
	}
	return best, found
}

// addrIn is an address of an interface in a prefix of ours: one of the Node's, else the
// lowest, those without a network last. Others may float from node to node: they would
// show the life of whichever has them.
func addrIn(own netip.Prefix, i loadbalancer.Interface, internal []netip.Addr) (netip.Addr, bool) {
	var best netip.Prefix
	rank := func(p netip.Prefix) int {
		switch {
		case slices.Contains(internal, p.Addr()):
			return 0
		case p.IsSingleIP():
			return 2
		default:
			return 1
		}
	}
	for _, p := range i.Prefixes {
		if !own.Contains(p.Addr()) || p.Addr() == own.Addr() {
			continue
		}
		if !best.IsValid() || cmp.Or(cmp.Compare(rank(p), rank(best)), p.Addr().Compare(best.Addr())) < 0 {
			best = p
		}
	}
	return best.Addr(), best.IsValid()
}

func better(a, b pulse.Target, prefer map[string]struct{}) bool {
	_, pa := prefer[a.Link]
	_, pb := prefer[b.Link]
	if pa != pb {
		return pa
	}
	if a.Addr.Is4() != b.Addr.Is4() {
		return a.Addr.Is4()
	}
	return cmp.Or(cmp.Compare(a.Link, b.Link), a.Addr.Compare(b.Addr)) < 0
}

// askPulse asks one node's kernel.
func (a *Agent) askPulse(t pulse.Target) bool {
	if t.Addr.Is4() {
		return a.arp.Ask(t.Link, t.Addr, t.Source, t.To)
	}
	return a.ndp.Ask(t.Link, t.Addr, t.Source, t.To)
}
