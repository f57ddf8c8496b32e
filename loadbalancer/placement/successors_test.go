// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
)

type nodeNames = []loadbalancer.NodeName

func candidates(nodes ...loadbalancer.NodeName) []placement.Candidate {
	out := make([]placement.Candidate, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, placement.Candidate{Node: n, Seed: placement.Seed(n)})
	}
	return out
}

func TestSuccessors(t *testing.T) {
	const group = "172.20.255.200"
	for _, tc := range []struct {
		name       string
		owner      loadbalancer.NodeName
		current    nodeNames
		candidates []placement.Candidate
		// first is the wanted head, last the wanted end.
		first, last loadbalancer.NodeName
		length      int
	}{
		{name: "no candidate", owner: "a", current: nodeNames{"a"}},
		{name: "least loaded", candidates: []placement.Candidate{{Node: "a", Load: 2}, {Node: "b", Load: 1}, {Node: "c", Load: 2}}, first: "b", length: 3},
		{
			name: "owner stays although loaded", owner: "a", current: nodeNames{"b"},
			candidates: []placement.Candidate{{Node: "a", Load: 9}, {Node: "b"}}, first: "a", last: "b", length: 2,
		},
		{name: "owner that may not announce gives way to the list", owner: "x", current: nodeNames{"y", "b", "a"}, candidates: candidates("a", "b"), first: "b", last: "a", length: 2},
		{
			name: "head of the list stays although loaded", current: nodeNames{"b"},
			candidates: []placement.Candidate{{Node: "a"}, {Node: "b", Load: 5}}, first: "b", last: "a", length: 2,
		},
		{
			name: "an owner that is not ready sorts last", owner: "a", current: nodeNames{"a", "b"},
			candidates: []placement.Candidate{{Node: "a", NotReady: true}, {Node: "b", Load: 3}}, first: "b", last: "a", length: 2,
		},
		{
			name: "an owner that is not ready stays when nobody is", owner: "b",
			candidates: []placement.Candidate{{Node: "a", NotReady: true}, {Node: "b", NotReady: true, Load: 3}}, first: "b", last: "a", length: 2,
		},
		{
			name: "a cordoned owner gives way, to the heir", owner: "a", current: nodeNames{"a", "c", "b"},
			candidates: []placement.Candidate{{Node: "a", Cordoned: true}, {Node: "b"}, {Node: "c", Load: 3}}, first: "c", last: "a", length: 3,
		},
		{
			name: "a cordoned owner gives way to one that is not ready, as agents have it", owner: "a",
			candidates: []placement.Candidate{{Node: "a", Cordoned: true}, {Node: "b", NotReady: true}}, first: "b", last: "a", length: 2,
		},
		{
			name: "a cordoned owner stays when all are", owner: "b",
			candidates: []placement.Candidate{{Node: "a", Cordoned: true}, {Node: "b", Cordoned: true, Load: 3}}, first: "b", last: "a", length: 2,
		},
		{
			name: "the heaviest before the least loaded", candidates: []placement.Candidate{{Node: "a"}, {Node: "b", Weight: 5, Load: 7}, {Node: "c", Weight: 1}},
			first: "b", last: "a", length: 3,
		},
		{
			name: "of equal weight the least loaded", candidates: []placement.Candidate{{Node: "a"}, {Node: "b", Weight: 5, Load: 7}, {Node: "c", Weight: 5, Load: 6}},
			first: "c", last: "a", length: 3,
		},
		{
			name: "weight moves nothing that has an owner", owner: "a", current: nodeNames{"a", "b"},
			candidates: []placement.Candidate{{Node: "a"}, {Node: "b", Weight: 100}}, first: "a", last: "b", length: 2,
		},
		{
			name: "weight before the head of a list that nobody has acted on", current: nodeNames{"a", "b"},
			candidates: []placement.Candidate{{Node: "a"}, {Node: "b", Weight: 100}}, first: "b", last: "a", length: 2,
		},
		{
			name: "a heavy node that is not ready comes last", candidates: []placement.Candidate{{Node: "a"}, {Node: "b", NotReady: true, Weight: 9}},
			first: "a", last: "b", length: 2,
		},
		{name: "cut", candidates: candidates("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"), length: placement.MaxSuccessors},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := placement.Successors(placement.Proposal{Group: group, Owner: tc.owner, Current: tc.current, Candidates: tc.candidates})
			if len(got) != tc.length {
				t.Fatalf("got %v, want %d names", got, tc.length)
			}
			if tc.first != "" && got[0] != tc.first {
				t.Errorf("got %v, want %s first", got, tc.first)
			}
			if tc.last != "" && got[len(got)-1] != tc.last {
				t.Errorf("got %v, want %s last", got, tc.last)
			}
		})
	}
}

func drawCandidates(t *rapid.T, least int) []placement.Candidate {
	nodes := rapid.SliceOfNDistinct(rapid.IntRange(0, 30), least, 20, rapid.ID[int]).Draw(t, "nodes")
	out := make([]placement.Candidate, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, placement.Candidate{
			Node: nodeName(n), ID: n, Seed: placement.Seed(nodeName(n)), Load: rapid.IntRange(0, 3).Draw(t, "load"),
			NotReady: rapid.IntRange(0, 9).Draw(t, "notReady") == 0, Cordoned: rapid.IntRange(0, 9).Draw(t, "cordoned") == 0,
			Weight: rapid.SampledFrom([]int{0, 0, 0, 5}).Draw(t, "weight"),
		})
	}
	slices.SortFunc(out, func(a, b placement.Candidate) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

func nodeName(n int) loadbalancer.NodeName { return loadbalancer.NodeName(fmt.Sprintf("node-%02d", n)) }

func groupName(n int) loadbalancer.Group {
	return loadbalancer.Group(fmt.Sprintf("10.0.%d.%d", n/250, n%250))
}

// rank is what decides before everything else.
func rank(c placement.Candidate) string {
	return fmt.Sprintf("%t %t %3d", c.Cordoned, c.NotReady, 100-c.Weight)
}

// The list names candidates only and each once, best ones first, and proposing again from
// its own result changes nothing.
func TestSuccessorsAreOrderedAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := placement.Proposal{Group: groupName(rapid.IntRange(0, 255).Draw(t, "group")), Candidates: drawCandidates(t, 0)}
		if rapid.Bool().Draw(t, "owned") {
			p.Owner = nodeName(rapid.IntRange(0, 30).Draw(t, "owner"))
		}
		burden := rapid.SliceOfN(rapid.IntRange(0, 2), 31, 31).Draw(t, "heirs")
		p.Heirs = func(loadbalancer.NodeName) []int { return burden }
		got := placement.Successors(p)
		p.Current = got
		if diff := gocmp.Diff(got, placement.Successors(p)); diff != "" {
			t.Fatalf("proposing again changes the list:\n%s", diff)
		}
		if want := min(len(p.Candidates), placement.MaxSuccessors); len(got) != want {
			t.Fatalf("%d names of %d candidates", len(got), len(p.Candidates))
		}
		before := ""
		for i, name := range got {
			at := slices.IndexFunc(p.Candidates, func(c placement.Candidate) bool { return c.Node == name })
			if at < 0 || slices.Contains(got[:i], name) {
				t.Fatalf("%s is no candidate or named twice in %v", name, got)
			}
			c := p.Candidates[at]
			if c.Node == p.Owner && i == 0 {
				c.Weight = 100 // it may be as light as it likes
			}
			if rank(c) < before {
				t.Fatalf("%+v comes too late in %v", c, got)
			}
			before = rank(c)
		}
	})
}

// Groups that come one after another spread over equal nodes to within one.
func TestSuccessorsBalanceWithinOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 12).Draw(t, "nodes")
		groups := rapid.IntRange(0, 200).Draw(t, "groups")
		load := map[loadbalancer.NodeName]int{}
		for g := range groups {
			var cands []placement.Candidate
			for n := range nodes {
				cands = append(cands, placement.Candidate{Node: nodeName(n), Seed: placement.Seed(nodeName(n)), Load: load[nodeName(n)]})
			}
			load[placement.Successors(placement.Proposal{Group: groupName(g), Candidates: cands})[0]]++
		}
		least, most := groups, 0
		for n := range nodes {
			least, most = min(least, load[nodeName(n)]), max(most, load[nodeName(n)])
		}
		if most-least > 1 {
			t.Fatalf("loads %v differ by more than one", load)
		}
	})
}

// A node that goes moves only the groups it was first for; the others keep their head
// and the order of the names left. A node that comes moves no head at all.
func TestSuccessorsMoveLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cands := drawCandidates(t, 2)
		group := groupName(rapid.IntRange(0, 255).Draw(t, "group"))
		before := placement.Successors(placement.Proposal{Group: group, Candidates: cands})
		gone := rapid.SampledFrom(cands).Draw(t, "gone").Node
		rest := slices.DeleteFunc(slices.Clone(cands), func(c placement.Candidate) bool { return c.Node == gone })
		after := placement.Successors(placement.Proposal{Group: group, Owner: before[0], Current: before, Candidates: rest})

		kept := slices.DeleteFunc(slices.Clone(before), func(n loadbalancer.NodeName) bool { return n == gone })
		if diff := gocmp.Diff(kept, after[:len(kept)]); diff != "" {
			t.Fatalf("names moved when %s went:\n%s", gone, diff)
		}
		back := placement.Successors(placement.Proposal{Group: group, Owner: after[0], Current: after, Candidates: cands})
		lost := slices.ContainsFunc(cands, func(c placement.Candidate) bool { return c.Node == after[0] && (c.NotReady || c.Cordoned) })
		if !lost && back[0] != after[0] {
			t.Fatalf("head moved from %s to %s when %s came", after[0], back[0], gone)
		}
	})
}

// books count heads and heirs as a writer of lists does.
type books struct {
	lists map[loadbalancer.Group]nodeNames
	load  map[loadbalancer.NodeName]int
	heirs map[[2]loadbalancer.NodeName]int
}

func newBooks() *books {
	return &books{map[loadbalancer.Group]nodeNames{}, map[loadbalancer.NodeName]int{}, map[[2]loadbalancer.NodeName]int{}}
}

func (b *books) add(list nodeNames, n int) {
	if len(list) > 0 {
		b.load[list[0]] += n
	}
	if len(list) > 1 {
		b.heirs[[2]loadbalancer.NodeName(list[:2])] += n
	}
}

// propose writes a group's list anew and says whether its head moved.
func (b *books) propose(group loadbalancer.Group, owner loadbalancer.NodeName, nodes nodeNames) (moved bool) {
	old := b.lists[group]
	b.add(old, -1)
	cands := candidates(nodes...)
	for i := range cands {
		cands[i].ID, cands[i].Load = i, b.load[cands[i].Node]
	}
	list := placement.Successors(placement.Proposal{
		Group: group, Owner: owner, Current: old, Candidates: cands,
		Heirs: func(first loadbalancer.NodeName) []int {
			counts := make([]int, len(nodes))
			for i, second := range nodes {
				counts[i] = b.heirs[[2]loadbalancer.NodeName{first, second}]
			}
			return counts
		},
	})
	b.lists[group] = list
	b.add(list, 1)
	return len(old) > 0 && old[0] != list[0]
}

func numbered(n int) nodeNames {
	out := make(nodeNames, 0, n)
	for i := range n {
		out = append(out, nodeName(i))
	}
	return out
}

func spread(counts map[loadbalancer.NodeName]int, over nodeNames) (least, most int) {
	least = counts[over[0]]
	for _, n := range over {
		least, most = min(least, counts[n]), max(most, counts[n])
	}
	return least, most
}

// A dead node's groups spread over the others to within one, whoever wrote the list and
// when, a node that comes inherits its part and gets no group, and one that goes moves
// only its own.
func TestSuccessorsSpreadADeadNodesGroups(t *testing.T) {
	for _, nodes := range []int{3, 4, 10, 50} {
		t.Run(strconv.Itoa(nodes), func(t *testing.T) {
			const groups = 1000
			b := newBooks()
			for g := range groups { // one node has them all
				b.propose(groupName(g), nodeName(0), numbered(nodes))
			}
			inherited := map[loadbalancer.NodeName]int{}
			for g := range groups {
				inherited[b.lists[groupName(g)][1]]++
			}
			if least, most := spread(inherited, numbered(nodes)[1:]); most-least > 1 {
				t.Errorf("heirs of one node's groups: %d to %d", least, most)
			}
			for range 2 { // then another node comes
				for g := range groups {
					if b.propose(groupName(g), nodeName(0), numbered(nodes+1)) {
						t.Fatalf("group %d moves because a node came", g)
					}
				}
			}
			inherited = map[loadbalancer.NodeName]int{}
			for g := range groups {
				inherited[b.lists[groupName(g)][1]]++
			}
			if least, most := spread(inherited, numbered(nodes + 1)[1:]); most-least > 1 {
				t.Errorf("heirs after a node came: %d to %d", least, most)
			}
		})
	}
}

// The life of 300 groups on three nodes: balanced to within one when made; a fourth node
// moves none; the death of a node moves only its own, evenly over the rest.
func TestSuccessorsLifeOf300Groups(t *testing.T) {
	b := newBooks()
	nodes := numbered(3)
	for g := range 300 {
		b.propose(groupName(g), "", nodes)
	}
	if least, most := spread(b.load, nodes); most-least > 1 {
		t.Errorf("load %v", b.load)
	}
	nodes = numbered(4)
	for g := range 300 {
		if b.propose(groupName(g), b.lists[groupName(g)][0], nodes) {
			t.Errorf("group %d moves because a node came", g)
		}
	}
	dead := nodeName(1)
	rest := nodeNames{nodeName(0), nodeName(2), nodeName(3)}
	gained := map[loadbalancer.NodeName]int{}
	for g := range 300 {
		group := groupName(g)
		owner, heir := b.lists[group][0], b.lists[group][1]
		moved := b.propose(group, owner, rest)
		if moved != (owner == dead) {
			t.Errorf("group %d of %s moves: %t", g, owner, moved)
		}
		if moved {
			gained[b.lists[group][0]]++
			if b.lists[group][0] != heir {
				t.Errorf("group %d goes to %s instead of its heir %s", g, b.lists[group][0], heir)
			}
		}
	}
	if least, most := spread(gained, rest); most-least > 1 {
		t.Errorf("gained %v", gained)
	}
}
