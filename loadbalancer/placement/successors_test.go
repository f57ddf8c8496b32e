// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
)

type nodeNames = []loadbalancer.NodeName

func candidates(nodes ...loadbalancer.NodeName) []placement.Candidate {
	out := make([]placement.Candidate, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, placement.Candidate{Node: n})
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
		{name: "cut", candidates: candidates("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"), length: placement.MaxSuccessors},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := placement.Successors(group, tc.owner, tc.current, tc.candidates)
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
			Node: nodeName(n), NotReady: rapid.IntRange(0, 9).Draw(t, "notReady") == 0, Load: rapid.IntRange(0, 3).Draw(t, "load"),
		})
	}
	return out
}

func nodeName(n int) loadbalancer.NodeName { return loadbalancer.NodeName(fmt.Sprintf("node-%02d", n)) }

func groupName(n int) loadbalancer.Group { return loadbalancer.Group(fmt.Sprintf("10.0.0.%d", n)) }

// The list depends on the arguments only, names candidates only and each once, puts
// ready ones first, and proposing again from its own result changes nothing.
func TestSuccessorsAreDeterministicAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cands := drawCandidates(t, 0)
		group := groupName(rapid.IntRange(0, 255).Draw(t, "group"))
		owner := nodeName(rapid.IntRange(0, 30).Draw(t, "owner"))
		got := placement.Successors(group, owner, nil, cands)

		shuffled := rapid.Permutation(cands).Draw(t, "shuffled")
		if diff := cmp.Diff(got, placement.Successors(group, owner, nil, shuffled)); diff != "" {
			t.Fatalf("order of candidates matters:\n%s", diff)
		}
		if diff := cmp.Diff(got, placement.Successors(group, owner, got, cands)); diff != "" {
			t.Fatalf("proposing again changes the list:\n%s", diff)
		}
		if want := min(len(cands), placement.MaxSuccessors); len(got) != want {
			t.Fatalf("%d names of %d candidates", len(got), len(cands))
		}
		late := false
		for i, name := range got {
			at := slices.IndexFunc(cands, func(c placement.Candidate) bool { return c.Node == name })
			if at < 0 || slices.Contains(got[:i], name) {
				t.Fatalf("%s is no candidate or named twice in %v", name, got)
			}
			if late && !cands[at].NotReady {
				t.Fatalf("ready %s after one that is not in %v", name, got)
			}
			late = late || cands[at].NotReady
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
				cands = append(cands, placement.Candidate{Node: nodeName(n), Load: load[nodeName(n)]})
			}
			load[placement.Successors(groupName(g), "", nil, cands)[0]]++
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
		before := placement.Successors(group, "", nil, cands)
		gone := rapid.SampledFrom(cands).Draw(t, "gone").Node
		rest := slices.DeleteFunc(slices.Clone(cands), func(c placement.Candidate) bool { return c.Node == gone })
		after := placement.Successors(group, before[0], before, rest)

		kept := slices.DeleteFunc(slices.Clone(before), func(n loadbalancer.NodeName) bool { return n == gone })
		if diff := cmp.Diff(kept, after[:len(kept)]); diff != "" {
			t.Fatalf("names moved when %s went:\n%s", gone, diff)
		}
		back := placement.Successors(group, after[0], after, cands)
		lost := slices.ContainsFunc(cands, func(c placement.Candidate) bool { return c.Node == after[0] && c.NotReady })
		if !lost && back[0] != after[0] {
			t.Fatalf("head moved from %s to %s when %s came", after[0], back[0], gone)
		}
	})
}

// The groups of a dead node fall to all the others, not to one.
func TestSuccessorsSpreadADeadNodesGroups(t *testing.T) {
	heirs := map[loadbalancer.NodeName]int{}
	for g := range 200 {
		list := placement.Successors(groupName(g), "a", nil, candidates("a", "b", "c", "d", "e"))
		heirs[list[1]]++
	}
	for _, n := range slices.Sorted(maps.Keys(heirs)) {
		if heirs[n] < 25 || heirs[n] > 75 {
			t.Errorf("%s inherits %d of 200 groups, want about 50: %v", n, heirs[n], heirs)
		}
	}
	if len(heirs) != 4 {
		t.Errorf("heirs %v, want all four", heirs)
	}
}
