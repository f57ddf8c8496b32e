// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
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
	// ID is the caller's number of the node, the index into what [Proposal].Heirs returns.
	ID int
	// Seed is [Seed] of the name, which the caller keeps: to compute it for every node
	// and group would cost more than all the rest.
	Seed uint64
	// Cordoned candidates come after all others, as agents pass them over.
	Cordoned bool
	// NotReady candidates come after every ready one that is not cordoned.
	NotReady bool
	// Weight is the sum of the administrator's preferences for this node; the heaviest
	// come first.
	Weight int
	// Load is the number of other groups whose first successor is this node.
	Load int
}

// Proposal is what a list of successors follows from.
type Proposal struct {
	Group loadbalancer.Group
	// Owner announces the group, empty when nobody does.
	Owner loadbalancer.NodeName
	// Current is the list so far, best first.
	Current []loadbalancer.NodeName
	// Candidates ascending by name.
	Candidates []Candidate
	// Heirs returns, by the second's ID, the number of other groups that have the first and
	// a second node as their first two successors; nil for a caller that does not count.
	Heirs func(first loadbalancer.NodeName) []int
}

// Seed is what of a node's rank is the same for all groups.
func Seed(n loadbalancer.NodeName) uint64 {
	sum := sha256.Sum256([]byte(n))
	return binary.BigEndian.Uint64(sum[:8])
}

// Successors proposes who announces a group, best first, at most [MaxSuccessors] names.
// Candidates that are not cordoned come before those that are, then ready ones before
// others, then heavier ones before lighter ones. Within these classes:
//
// The first name is sticky: the present owner, whatever its weight, else the first usable
// name of the current list; only a group with neither goes to the least loaded node.
//
// The second name, the heir, is sticky too unless another is heir of fewer of the first's
// groups: so the groups of a dead node spread evenly over the rest, and a node that comes
// takes its part of the inheritance without a group being moved.
//
// The others follow in an order that depends on the group's and the node's name only,
// so that a node that comes or goes moves no other.
func Successors(p Proposal) []loadbalancer.NodeName {
	seed := Seed(loadbalancer.NodeName(p.Group))
	first := p.first(seed)
	if first == "" {
		return []loadbalancer.NodeName{}
	}
	names := make([]loadbalancer.NodeName, 0, min(len(p.Candidates), MaxSuccessors))
	names = append(names, first)
	if second := p.heir(seed, first); second != "" {
		names = append(names, second)
	}
	for _, r := range p.best(seed) {
		if len(names) < MaxSuccessors && !slices.Contains(names, r.Node) {
			names = append(names, r.Node)
		}
	}
	return names
}

// first chooses the node that the group is proposed for.
func (p *Proposal) first(seed uint64) loadbalancer.NodeName {
	top := p.top("")
	if top == nil {
		return ""
	}
	if owner := p.find(p.Owner); owner != nil && owner.class() == top.class() {
		return owner.Node
	}
	if c := p.sticky("", top); c != nil {
		return c.Node
	}
	return p.least(seed, "", top, func(c *Candidate) int { return c.Load }).Node
}

// heir chooses the node that is to follow first.
func (p *Proposal) heir(seed uint64, first loadbalancer.NodeName) loadbalancer.NodeName {
	top := p.top(first)
	if top == nil {
		return ""
	}
	inherits := func(*Candidate) int { return 0 }
	if p.Heirs != nil {
		counts := p.Heirs(first)
		inherits = func(c *Candidate) int { return counts[c.ID] }
	}
	least := p.least(seed, first, top, inherits)
	if c := p.sticky(first, top); c != nil && inherits(c) <= inherits(least) {
		return c.Node
	}
	return least.Node
}

// top returns a candidate of the best class and weight, another than without; nil of none.
func (p *Proposal) top(without loadbalancer.NodeName) *Candidate {
	var top *Candidate
	for i := range p.Candidates {
		c := &p.Candidates[i]
		if c.Node != without && (top == nil || c.before(top) < 0) {
			top = c
		}
	}
	return top
}

// sticky returns the first of the current list that is as good as top, nil of none.
func (p *Proposal) sticky(without loadbalancer.NodeName, top *Candidate) *Candidate {
	for _, n := range p.Current {
		if c := p.find(n); c != nil && n != without && c.before(top) == 0 {
			return c
		}
	}
	return nil
}

// least returns the candidate with the least burden of those that are as good as top;
// of equals the one with less load, then the one that ranks higher.
func (p *Proposal) least(seed uint64, without loadbalancer.NodeName, top *Candidate, burden func(*Candidate) int) *Candidate {
	var best *Candidate
	var bestBurden int
	for i := range p.Candidates {
		c := &p.Candidates[i]
		if c.Node == without || c.before(top) != 0 {
			continue
		}
		b := burden(c)
		if best == nil || b < bestBurden || b == bestBurden && (c.Load < best.Load || c.Load == best.Load && c.score(seed) > best.score(seed)) {
			best, bestBurden = c, b
		}
	}
	return best
}

// ranked is a candidate with its rank for one group.
type ranked struct {
	*Candidate
	score uint64
}

// best returns the first candidates by class, weight and score, as many as a list may have.
func (p *Proposal) best(seed uint64) []ranked {
	best := make([]ranked, 0, MaxSuccessors+1)
	for i := range p.Candidates {
		r := ranked{&p.Candidates[i], p.Candidates[i].score(seed)}
		if len(best) == MaxSuccessors && compareRanks(best[MaxSuccessors-1], r) <= 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, r, compareRanks)
		best = slices.Insert(best, at, r)
		best = best[:min(len(best), MaxSuccessors)]
	}
	return best
}

func compareRanks(a, b ranked) int {
	// cmp.Or would compare the names of every pair.
	if c := a.before(b.Candidate); c != 0 {
		return c
	}
	if c := cmp.Compare(b.score, a.score); c != 0 {
		return c
	}
	return cmp.Compare(a.Node, b.Node)
}

// find looks a candidate up by name, nil when it is none.
func (p *Proposal) find(n loadbalancer.NodeName) *Candidate {
	i, found := slices.BinarySearchFunc(p.Candidates, n, func(c Candidate, n loadbalancer.NodeName) int { return cmp.Compare(c.Node, n) })
	if !found {
		return nil
	}
	return &p.Candidates[i]
}

// class is lower for better nodes, whatever anybody prefers.
func (c *Candidate) class() int {
	class := 0
	if c.Cordoned {
		class += 2
	}
	if c.NotReady {
		class++
	}
	return class
}

// before orders by class and weight: negative when c is better than d.
func (c *Candidate) before(d *Candidate) int {
	if c.class() != d.class() {
		return c.class() - d.class()
	}
	return d.Weight - c.Weight
}

// score is the rank of a node for the group of a seed, highest first: a mix of both whose
// bits depend on all of theirs (the finalizer of SplitMix64).
func (c *Candidate) score(group uint64) uint64 {
	z := (c.Seed ^ group) + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
