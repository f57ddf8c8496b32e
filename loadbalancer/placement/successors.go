// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// MaxSuccessors is the length that a proposal is cut to. Beyond it agents fall back to
// rendezvous hashing over whoever is alive, so a longer list buys nothing.
const MaxSuccessors = 8

// Candidate is a node that may announce a group: the writer of the list has already
// left out excluded, unselected and unreachable nodes.
type Candidate struct {
	Node loadbalancer.NodeName
	// NotReady candidates come after every ready one.
	NotReady bool
	// Load is the number of other groups whose first successor is this node.
	Load int
}

// Successors proposes who announces a group, best first, at most [MaxSuccessors] names.
//
// The first name is sticky: the present owner, else the first usable name of the
// current list; only a group with neither goes to the least loaded node. The others
// follow in rendezvous order of (group, node), which spreads the groups of a dead node
// over all the rest and moves nothing else when a node comes or goes. Load decides only
// the first name, so that one group's movement never reshuffles another's list.
//
// The result depends on the arguments only, and not on the order of candidates.
func Successors(
	group loadbalancer.Group, owner loadbalancer.NodeName, current []loadbalancer.NodeName, candidates []Candidate,
) []loadbalancer.NodeName {
	ranked := rank(group, candidates)
	first := firstSuccessor(owner, current, ranked)
	names := make([]loadbalancer.NodeName, 0, min(len(ranked), MaxSuccessors))
	if first != "" {
		names = append(names, first)
	}
	for _, c := range ranked {
		if len(names) == MaxSuccessors {
			break
		}
		if c.Node != first {
			names = append(names, c.Node)
		}
	}
	return names
}

// rank sorts ready candidates before others, each part by rendezvous score, highest first.
func rank(group loadbalancer.Group, candidates []Candidate) []Candidate {
	type scored struct {
		Candidate
		score uint64
	}
	all := make([]scored, 0, len(candidates))
	for _, c := range candidates {
		all = append(all, scored{c, Score(c.Node, group)})
	}
	slices.SortFunc(all, func(a, b scored) int {
		// cmp.Or would compare the names of every pair.
		if c := readyFirst(a.Candidate, b.Candidate); c != 0 {
			return c
		}
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return cmp.Compare(a.Node, b.Node)
	})
	ranked := make([]Candidate, 0, len(all))
	for _, c := range all {
		ranked = append(ranked, c.Candidate)
	}
	return ranked
}

// firstSuccessor chooses among the ready candidates, or among all when none is ready.
func firstSuccessor(owner loadbalancer.NodeName, current []loadbalancer.NodeName, ranked []Candidate) loadbalancer.NodeName {
	usable := ranked
	if i := slices.IndexFunc(ranked, func(c Candidate) bool { return c.NotReady }); i > 0 {
		usable = ranked[:i]
	}
	if len(usable) == 0 {
		return ""
	}
	for _, name := range append([]loadbalancer.NodeName{owner}, current...) {
		if slices.ContainsFunc(usable, func(c Candidate) bool { return c.Node == name }) {
			return name
		}
	}
	// The first of the least loaded is the one that ranks highest.
	return slices.MinFunc(usable, func(a, b Candidate) int { return cmp.Compare(a.Load, b.Load) }).Node
}

func readyFirst(a, b Candidate) int {
	switch {
	case a.NotReady == b.NotReady:
		return 0
	case b.NotReady:
		return -1
	default:
		return 1
	}
}
