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
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func own(n string, e uint64) loadbalancer.Ownership {
	return loadbalancer.Ownership{Node: loadbalancer.NodeName(n), Epoch: e}
}

// known is the live nodes, and why they may not announce.
type known map[loadbalancer.NodeName]reason.Reason

func (k known) Why(n loadbalancer.NodeName) (reason.Reason, bool) {
	why, live := k[n]
	return why, live
}

func (k known) Len() int { return len(k) }

func (k known) At(i int) (loadbalancer.NodeName, reason.Reason) {
	name := slices.Sorted(maps.Keys(k))[i]
	return name, k[name]
}

func live(nodes ...string) known {
	m := known{}
	for _, n := range nodes {
		m[loadbalancer.NodeName(n)] = ""
	}
	return m
}

func liveBut(why reason.Reason, who string, nodes ...string) known {
	m := live(nodes...)
	m[loadbalancer.NodeName(who)] = why
	return m
}

func names(nodes ...string) []loadbalancer.NodeName {
	var out []loadbalancer.NodeName
	for _, n := range nodes {
		out = append(out, loadbalancer.NodeName(n))
	}
	return out
}

func TestOwner(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		view placement.View
		want placement.Verdict
	}{
		"new claim goes to the first successor": {
			placement.View{Self: "b", Successors: names("b", "a"), Nodes: live("a", "b")},
			placement.Verdict{Owner: own("b", 1), Action: placement.TakeOver, Heir: "a"},
		},
		"others wait for the first successor": {
			placement.View{Self: "a", Successors: names("b", "a"), Nodes: live("a", "b")},
			placement.Verdict{Owner: own("b", 0), Action: placement.Wait, Reason: reason.NotOwner, Heir: "a"},
		},
		"a dead owner is replaced by the first live successor with a higher epoch": {
			placement.View{
				Self: "c", Claims: []loadbalancer.Ownership{own("a", 4)}, Highest: 4, Persisted: own("a", 3),
				Successors: names("a", "b", "c"), Nodes: liveBut(reason.NoInterface, "b", "c"),
			},
			placement.Verdict{Owner: own("c", 5), Action: placement.TakeOver},
		},
		"no fail-back to a better successor": {
			placement.View{
				Self: "c", Claims: []loadbalancer.Ownership{own("c", 5)}, Persisted: own("c", 5),
				Successors: names("a", "c"), Nodes: live("a", "c"),
			},
			placement.Verdict{Owner: own("c", 5), Action: placement.Keep, Heir: "a"},
		},
		"the returned owner yields to the higher epoch": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("a", 4), own("c", 5)}, Persisted: own("a", 4),
				Successors: names("a", "c"), Nodes: live("a", "c"),
			},
			placement.Verdict{Owner: own("c", 5), Action: placement.Yield, Reason: reason.NotOwner, Heir: "a"},
		},
		"a tie goes to the lower name": {
			placement.View{Self: "c", Claims: []loadbalancer.Ownership{own("c", 5), own("a", 5)}, Nodes: live("a", "c")},
			placement.Verdict{Owner: own("a", 5), Action: placement.Yield, Reason: reason.NotOwner, Heir: "c"},
		},
		"an owner that may not announce any longer withdraws": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("a", 2)},
				Successors: names("a", "b"), Nodes: liveBut(reason.NodeExcluded, "a", "b"),
			},
			placement.Verdict{Owner: own("b", 0), Action: placement.Withdraw, Reason: reason.NodeExcluded},
		},
		"its successor takes over while it still answers": {
			placement.View{
				Self: "b", Claims: []loadbalancer.Ownership{own("a", 2)},
				Successors: names("a", "b"), Nodes: liveBut(reason.Leaving, "a", "b"),
			},
			placement.Verdict{Owner: own("b", 3), Action: placement.TakeOver},
		},
		"the restarted owner goes on by the API's record": {
			placement.View{Self: "a", Persisted: own("a", 7), Successors: names("b"), Nodes: live("a", "b")},
			placement.Verdict{Owner: own("a", 8), Action: placement.TakeOver, Heir: "b"},
		},
		"a guard stops a take-over": {
			placement.View{Self: "a", Persisted: own("x", 7), Nodes: live("a"), Guard: reason.Minority},
			placement.Verdict{Owner: own("a", 0), Action: placement.Wait, Reason: reason.Minority},
		},
		"a guard does not stop what is announced": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 7)}, Nodes: live("a"), Guard: reason.Minority},
			placement.Verdict{Owner: own("a", 7), Action: placement.Keep},
		},
		"without endpoints the owner keeps the group": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 7)}, Nodes: live("a", "b"), KeepOnly: true},
			placement.Verdict{Owner: own("a", 7), Action: placement.Keep},
		},
		"without endpoints nobody takes over": {
			placement.View{Self: "b", Claims: []loadbalancer.Ownership{own("a", 7)}, Persisted: own("b", 6), Successors: names("b"), Nodes: live("b"), KeepOnly: true},
			placement.Verdict{Action: placement.Wait, Reason: reason.NoEndpoints},
		},
		"a better claim by a node that may not announce ends ours and is outbid": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 3), own("b", 4)}, Nodes: liveBut(reason.Leaving, "b", "a")},
			placement.Verdict{Owner: own("a", 5), Action: placement.TakeOver},
		},
		"a higher record of a live node ends ours, though gossip did not tell yet": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 3)}, Highest: 4, Persisted: own("b", 4), Nodes: live("a", "b")},
			placement.Verdict{Owner: own("b", 0), Action: placement.Yield, Reason: reason.NotOwner, Heir: "a"},
		},
		"and that node goes on, should it have forgotten": {
			placement.View{Self: "b", Claims: []loadbalancer.Ownership{own("a", 3)}, Highest: 4, Persisted: own("b", 4), Nodes: live("a", "b")},
			placement.Verdict{Owner: own("b", 5), Action: placement.TakeOver, Heir: "a"},
		},
		"a higher record of a live node that may not announce is outbid": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 3)}, Persisted: own("b", 4), Nodes: liveBut(reason.NodeExcluded, "b", "a")},
			placement.Verdict{Owner: own("a", 5), Action: placement.TakeOver},
		},
		"a higher record of a live node is outbid while nobody may take over": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 3)}, Persisted: own("b", 4), Nodes: live("a", "b"), KeepOnly: true},
			placement.Verdict{Owner: own("a", 5), Action: placement.TakeOver},
		},
		"a higher record of a node that only gossip misses starts no race": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 3)}, Persisted: own("b", 4), Nodes: live("a")},
			placement.Verdict{Owner: own("a", 3), Action: placement.Keep},
		},
		"of several claims of a node in one group the best counts": {
			placement.View{
				Self: "b", Claims: []loadbalancer.Ownership{own("b", 2), own("a", 4), own("b", 5), own("a", 3)}, Highest: 5, Nodes: live("a", "b"),
			},
			placement.Verdict{Owner: own("b", 5), Action: placement.Keep, Heir: "a"},
		},
		"two groups that became one: the lower epoch yields, whatever else the node claims": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("b", 2), own("a", 4), own("b", 5), own("a", 3)}, Highest: 5, Nodes: live("a", "b"),
			},
			placement.Verdict{Owner: own("b", 5), Action: placement.Yield, Reason: reason.NotOwner, Heir: "a"},
		},
		"a cordoned owner withdraws while another may announce": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("a", 2)}, Persisted: own("a", 2),
				Successors: names("a", "b"), Nodes: liveBut(reason.NodeCordoned, "a", "b", "c"),
			},
			placement.Verdict{Owner: own("b", 0), Action: placement.Withdraw, Reason: reason.NodeCordoned, Heir: "c"},
		},
		"and its successor takes over while it still answers": {
			placement.View{
				Self: "b", Claims: []loadbalancer.Ownership{own("a", 2)}, Highest: 2, Persisted: own("a", 2),
				Successors: names("a", "b"), Nodes: liveBut(reason.NodeCordoned, "a", "b"),
			},
			placement.Verdict{Owner: own("b", 3), Action: placement.TakeOver, Heir: "a"},
		},
		"a cordoned owner keeps when all the others are cordoned or may not": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("a", 2)}, Successors: names("b", "a"),
				Nodes: known{"a": reason.NodeCordoned, "b": reason.NodeCordoned, "c": reason.NoInterface},
			},
			placement.Verdict{Owner: own("a", 2), Action: placement.Keep, Heir: "b"},
		},
		"a cordoned owner keeps while nobody may take over": {
			placement.View{Self: "a", Claims: []loadbalancer.Ownership{own("a", 2)}, Nodes: liveBut(reason.NodeCordoned, "a", "b"), KeepOnly: true},
			placement.Verdict{Owner: own("a", 2), Action: placement.Keep},
		},
		"a node that is no longer cordoned gets nothing back": {
			placement.View{
				Self: "a", Claims: []loadbalancer.Ownership{own("b", 3)}, Persisted: own("b", 3), Successors: names("a", "b"), Nodes: live("a", "b"),
			},
			placement.Verdict{Owner: own("b", 3), Action: placement.Wait, Reason: reason.NotOwner, Heir: "a"},
		},
		"an owner that restarts keeps the group": {
			placement.View{Self: "b", Claims: []loadbalancer.Ownership{own("a", 2)}, Successors: names("a", "b"), Nodes: liveBut(reason.Restarting, "a", "b", "c")},
			placement.Verdict{Owner: own("a", 2), Action: placement.Wait, Reason: reason.NotOwner, Heir: "b"},
		},
		"also by the API's record, which agents that start go by": {
			placement.View{Self: "b", Persisted: own("a", 2), Successors: names("b"), Nodes: liveBut(reason.Restarting, "a", "b", "c")},
			placement.Verdict{Owner: own("a", 0), Action: placement.Wait, Reason: reason.NotOwner, Heir: "b"},
		},
		"a successor that restarts is passed over, also by the heir's heir": {
			placement.View{Self: "b", Successors: names("a", "b", "a", "c"), Nodes: liveBut(reason.Restarting, "a", "b", "c")},
			placement.Verdict{Owner: own("b", 1), Action: placement.TakeOver, Heir: "c"},
		},
		"nobody is given a group while the only other node restarts": {
			placement.View{Self: "b", Nodes: known{"a": reason.Restarting, "b": reason.NoInterface}},
			placement.Verdict{Action: placement.Wait, Reason: reason.NoInterface},
		},
		"a cordoned owner keeps while the only other node restarts": {
			placement.View{Self: "b", Claims: []loadbalancer.Ownership{own("b", 2)}, Nodes: known{"a": reason.Restarting, "b": reason.NodeCordoned}},
			placement.Verdict{Owner: own("b", 2), Action: placement.Keep},
		},
		"nobody may": {
			placement.View{Self: "a", Nodes: liveBut(reason.NoInterface, "a")},
			placement.Verdict{Action: placement.Wait, Reason: reason.NoInterface},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, placement.Owner(tt.view)); diff != "" {
				t.Errorf("Owner (-want +got):\n%s", diff)
			}
		})
	}
}

// world draws a group view that every node shares.
func world(t *rapid.T) (placement.View, known, []loadbalancer.NodeName) {
	n := rapid.IntRange(1, 6).Draw(t, "nodes")
	all := make([]loadbalancer.NodeName, n)
	for i := range all {
		all[i] = loadbalancer.NodeName(fmt.Sprintf("n%d", i))
	}
	v := placement.View{Group: loadbalancer.Group(rapid.StringMatching(`10\.0\.0\.[1-9]`).Draw(t, "group"))}
	nodes := known{}
	for _, name := range all {
		if rapid.Bool().Draw(t, "live") {
			nodes[name] = rapid.SampledFrom([]reason.Reason{"", "", reason.NoInterface, reason.NodeCordoned, reason.Restarting}).Draw(t, "why")
		}
		if rapid.Bool().Draw(t, "claims") {
			c := loadbalancer.Ownership{Node: name, Epoch: rapid.Uint64Range(1, 5).Draw(t, "epoch")}
			v.Claims = append(v.Claims, c)
			v.Highest = max(v.Highest, c.Epoch)
			if rapid.Bool().Draw(t, "twice") { // the group was two
				c.Epoch = rapid.Uint64Range(1, 5).Draw(t, "epochOfTheOther")
				v.Claims = append(v.Claims, c)
				v.Highest = max(v.Highest, c.Epoch)
			}
		}
	}
	if rapid.Bool().Draw(t, "persisted") {
		v.Persisted = loadbalancer.Ownership{Node: rapid.SampledFrom(all).Draw(t, "who"), Epoch: rapid.Uint64Range(1, 6).Draw(t, "persistedEpoch")}
	}
	v.Successors = slices.Clone(all[:rapid.IntRange(0, n).Draw(t, "successors")])
	v.KeepOnly = rapid.Bool().Draw(t, "keepOnly")
	v.Nodes = nodes
	return v, nodes, all
}

// With one view, all live nodes name the same owner and at most one announces or takes over.
func TestOwnerAgreement(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v, nodes, all := world(t)
		var elected []loadbalancer.NodeName
		active := 0
		for _, n := range all {
			if _, ok := nodes[n]; !ok {
				continue
			}
			w := v
			w.Self = n
			got := placement.Owner(w)
			elected = append(elected, got.Owner.Node)
			if got.Action == placement.Keep || got.Action == placement.TakeOver {
				active++
				if got.Owner.Node != n {
					t.Fatalf("%s acts for %s", n, got.Owner.Node)
				}
				if why := nodes[n]; why != "" && why != reason.Restarting && (why != reason.NodeCordoned || !v.KeepOnly && anyFree(nodes)) {
					t.Fatalf("%s announces although %s", n, why)
				}
			}
			if got.Action == placement.TakeOver && got.Owner.Epoch <= v.Highest {
				t.Fatalf("took over with epoch %d, highest is %d", got.Owner.Epoch, v.Highest)
			}
		}
		if len(slices.Compact(elected)) > 1 {
			t.Fatalf("nodes disagree: %v", elected)
		}
		if active > 1 {
			t.Fatalf("%d nodes announce", active)
		}
	})
}

func anyFree(nodes known) bool {
	for _, why := range nodes {
		if why == "" {
			return true
		}
	}
	return false
}

// The heir is whom every node elects once the owner is dead and nothing else has changed.
func TestHeirIsTheNextOwner(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v, nodes, all := world(t)
		v.Self = rapid.SampledFrom(all).Draw(t, "self")
		before := placement.Owner(v)
		if before.Owner.Node == "" {
			if before.Heir != "" {
				t.Fatalf("%s inherits what nobody has", before.Heir)
			}
			return
		}
		if before.Heir == before.Owner.Node {
			t.Fatalf("%s inherits from itself", before.Heir)
		}
		delete(nodes, before.Owner.Node)
		if after := placement.Owner(v); after.Owner.Node != before.Heir {
			t.Fatalf("the heir of %s was to be %q, now it is %q", before.Owner.Node, before.Heir, after.Owner.Node)
		}
	})
}

// Applying the verdicts leads to one announcer that nothing moves but its own loss,
// epochs only grow, and a guard in force never starts anything.
func TestOwnerSettles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v, nodes, all := world(t)
		guarded := rapid.Bool().Draw(t, "guarded")
		held := map[loadbalancer.NodeName]uint64{}
		for _, c := range v.Claims {
			held[c.Node] = max(held[c.Node], c.Epoch)
		}
		var prev string
		for round := range 6 {
			v.Claims = v.Claims[:0]
			for n, e := range held {
				v.Claims = append(v.Claims, loadbalancer.Ownership{Node: n, Epoch: e})
				v.Highest = max(v.Highest, e)
			}
			before := len(held)
			for _, n := range all {
				if _, ok := nodes[n]; !ok {
					delete(held, n)
					continue
				}
				w := v
				w.Self = n
				if guarded {
					w.Guard = reason.Minority
				}
				got := placement.Owner(w)
				switch got.Action {
				case placement.TakeOver:
					if guarded && held[n] == 0 {
						t.Fatalf("%s took over under a guard", n)
					}
					if got.Owner.Epoch <= v.Highest {
						t.Fatalf("epoch went back to %d", got.Owner.Epoch)
					}
					held[n] = got.Owner.Epoch
				case placement.Yield, placement.Withdraw:
					delete(held, n)
				case placement.Keep, placement.Wait:
				}
			}
			now := fmt.Sprint(held)
			if round >= 4 && now != prev {
				t.Fatalf("still moving in round %d: %s, then %s (before: %d)", round, prev, now, before)
			}
			prev = now
		}
		if len(held) > 1 {
			t.Fatalf("%d nodes announce in the end: %v", len(held), held)
		}
	})
}

func TestRendezvousMovesOnlyTheLostNodesGroups(t *testing.T) {
	t.Parallel()
	all := names("a", "b", "c", "d")
	rest := names("a", "b", "c")
	load := map[loadbalancer.NodeName]int{}
	for i := range 400 {
		g := loadbalancer.Group(fmt.Sprintf("10.0.%d.%d", i/250, i%250))
		before, after := placement.Rendezvous(g, slices.Values(all)), placement.Rendezvous(g, slices.Values(rest))
		if before != "d" && before != after {
			t.Errorf("group %s moved from %s to %s", g, before, after)
		}
		load[before]++
	}
	for n, got := range load {
		if got < 60 || got > 140 {
			t.Errorf("node %s owns %d of 400 groups, want about 100", n, got)
		}
	}
}
