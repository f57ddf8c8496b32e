// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// change edits a node and waits until the controller has acted on it.
func (b *bed) change(t *testing.T, nodeName string, edit func(*corev1.Node)) {
	t.Helper()
	n, _ := b.nodes.Find(nodeName)
	edit(n)
	b.nodes.Put(t, n)
	wait(t, time.Second)
}

func cordon(n *corev1.Node) { n.Spec.Unschedulable = true }

func shutDown(n *corev1.Node) {
	n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = corev1.ConditionFalse, "node is shutting down"
}

// heads returns how many of the groups have which node first.
func (b *bed) headsOf(t *testing.T, groups int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for i := range groups {
		out[b.successorsOf(t, i)[0]]++
	}
	return out
}

// An owner is cordoned: its groups are proposed to their heirs, it comes last, and gets
// nothing back when it is not cordoned any more and another announces.
func TestCordon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		heir := map[int]string{}
		for i := range 12 {
			p := b.allocate(t, i)
			b.own(t, i, p.Successors[0], 1)
			if p.Successors[0] == "worker" {
				heir[i] = p.Successors[1]
			}
		}
		wait(t, time.Second)
		b.drain()
		b.change(t, "worker", cordon)
		for i := range 12 {
			got := b.successorsOf(t, i)
			if len(got) != 3 || got[2] != "worker" {
				t.Errorf("successors of %d: %v, want the cordoned node last", i, got)
			}
			if want := heir[i]; want != "" && got[0] != want {
				t.Errorf("successors of %d: %v, want the heir %s first", i, got, want)
			}
			if heir[i] != "" {
				b.own(t, i, got[0], 2)
			}
		}
		if diff := cmp.Diff(map[string]int{"worker2": 6, "worker3": 6}, b.headsOf(t, 12)); diff != "" {
			t.Errorf("heads (-want +got):\n%s", diff)
		}
		wait(t, time.Second)
		b.change(t, "worker", func(n *corev1.Node) { n.Spec.Unschedulable = false })
		if diff := cmp.Diff(map[string]int{"worker2": 6, "worker3": 6}, b.headsOf(t, 12)); diff != "" {
			t.Errorf("heads after uncordon (-want +got):\n%s", diff)
		}
	})
}

// Every node is cordoned: nothing changes, and new Services are proposed as ever.
func TestAllCordoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 6 {
			b.own(t, i, b.allocate(t, i).Successors[0], 1)
		}
		wait(t, time.Second)
		before := b.headsOf(t, 6)
		for _, n := range []string{"worker", "worker2", "worker3"} {
			obj, _ := b.nodes.Find(n)
			cordon(obj)
			b.nodes.Put(t, obj)
		}
		wait(t, time.Second)
		if diff := cmp.Diff(before, b.headsOf(t, 6)); diff != "" {
			t.Errorf("heads (-want +got):\n%s", diff)
		}
		if p := b.allocate(t, 7); len(p.Successors) != 3 {
			t.Errorf("proposed %v, want all three", p.Successors)
		}
	})
}

// A node that shuts down leaves every list; one that is merely not ready comes last.
func TestShutdownAndNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 6 {
			b.own(t, i, b.allocate(t, i).Successors[0], 1)
		}
		wait(t, time.Second)
		b.change(t, "worker", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
		for i := range 6 {
			if got := b.successorsOf(t, i); len(got) != 3 || got[2] != "worker" {
				t.Errorf("successors of %d: %v, want the node that is not ready last", i, got)
			}
		}
		b.change(t, "worker", shutDown)
		for i := range 6 {
			if got := b.successorsOf(t, i); len(got) != 2 || slices.Contains(got, "worker") {
				t.Errorf("successors of %d: %v, want no node that shuts down", i, got)
			}
		}
		if c := b.condition(t, 0, v1alpha1.ConditionAnnounced); c.Status != metav1.ConditionTrue {
			t.Errorf("condition %+v, want what the agents say", c)
		}
	})
}

// A rolling update of the agents writes nothing at all.
func TestRestartingAgentsStayCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 6 {
			b.own(t, i, b.allocate(t, i).Successors[0], 1)
		}
		wait(t, time.Second)
		b.drain()
		for _, status := range []metav1.ConditionStatus{metav1.ConditionFalse, metav1.ConditionTrue} {
			a, _ := b.agents.Find("worker")
			a.Status.Conditions[0].Status = status
			a.Status.Conditions[0].Reason = map[metav1.ConditionStatus]string{
				metav1.ConditionFalse: reason.Restarting.String(), metav1.ConditionTrue: reason.Running.String(),
			}[status]
			b.agents.Put(t, a)
			wait(t, time.Second)
		}
		b.wantNoWrite(t)
	})
}

// prefer lets the advertisement give nodes weights by name.
func (b *bed) prefer(t *testing.T, weights map[string]int32) {
	t.Helper()
	ad, _ := b.ads.Find("my-l2")
	ad.Spec.PreferredNodeSelectors = nil
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		ad.Spec.PreferredNodeSelectors = append(ad.Spec.PreferredNodeSelectors, v1alpha1.PreferredNodeSelector{
			Weight: weights[name], Preference: selector("kubernetes.io/hostname", name)[0],
		})
	}
	ad.Generation++
	b.ads.Put(t, ad)
	wait(t, time.Second)
}

// Weights order the lists before load does, and move nothing that has an owner.
func TestPreferredNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.own(t, 0, b.allocate(t, 0).Successors[0], 1)
		owner := b.successorsOf(t, 0)[0]
		b.prefer(t, map[string]int32{"worker3": 10, "worker2": 5})
		if got := b.successorsOf(t, 0); got[0] != owner {
			t.Errorf("successors %v, want the owner %s first", got, owner)
		}
		for i := 1; i < 5; i++ {
			p := b.allocate(t, i)
			if diff := cmp.Diff([]string{"worker3", "worker2", "worker"}, p.Successors); diff != "" {
				t.Errorf("successors (-want +got):\n%s", diff)
			}
			b.own(t, i, "worker3", 1)
		}
		b.change(t, "worker3", func(n *corev1.Node) { delete(n.Labels, "kubernetes.io/hostname") })
		if got := b.successorsOf(t, 1); got[0] != "worker3" || got[1] != "worker2" {
			t.Errorf("successors %v, want the owner first although it is not preferred any more", got)
		}
		b.own(t, 1, "worker2", 2) // it died, say
		wait(t, time.Second)
		if got := b.successorsOf(t, 1); got[0] != "worker2" {
			t.Errorf("successors %v, want the new owner first", got)
		}
	})
}

// The weights of several advertisements add up; one that does not select a node has no say.
func TestPreferredNodesOfSeveralAdvertisements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.prefer(t, map[string]int32{"worker": 30, "worker2": 20})
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: v1alpha1.L2AdvertisementSpec{
			PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{{Weight: 20, Preference: selector("kubernetes.io/hostname", "worker2")[0]}},
		}})
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "third"}, Spec: v1alpha1.L2AdvertisementSpec{
			NodeSelectors:          selector("kubernetes.io/hostname", "worker"),
			PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{{Weight: 100, Preference: selector("kubernetes.io/hostname", "worker3")[0]}},
		}})
		wait(t, time.Second)
		if diff := cmp.Diff([]string{"worker2", "worker", "worker3"}, b.allocate(t, 1).Successors); diff != "" {
			t.Errorf("successors (-want +got):\n%s", diff)
		}
	})
}

// addNodes puts equal nodes into a bed, beside those that are there.
func (b *bed) addNodes(t *testing.T, names ...string) {
	t.Helper()
	for i, name := range names {
		b.nodes.Put(t, testNode(name, nil))
		b.agents.Put(t, testAgent(name, fmt.Sprintf("172.20.1.%d/16", 1+i)))
	}
	wait(t, time.Second)
}

// allocateAtOnce proposes for many Services before any claim is written.
func (b *bed) allocateAtOnce(t *testing.T, from, to int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := from; i < to; i++ {
		wg.Go(func() { b.Propose(svc(i), []v1alpha1.LoadBalancerAddress{address(i)}) })
	}
	wg.Wait()
	for i := from; i < to; i++ {
		b.own(t, i, b.allocate(t, i).Successors[0], 1)
	}
	wait(t, time.Second)
}

// inherit puts the claims and records of an earlier controller into the stores of this one.
func (b *bed) inherit(t *testing.T, old *bed, groups int) {
	t.Helper()
	for i := range groups {
		s := svc(i)
		claim, _ := old.claims.Find(address(i).Claim)
		record, _ := old.records.Find("default/" + s.Name)
		claim.ResourceVersion, claim.UID, record.ResourceVersion, record.UID = "", "", "", ""
		b.services.Put(t, s)
		b.slices.Put(t, endpointSlice(s.Name, "worker"))
		b.claims.Put(t, claim)
		b.records.Put(t, record)
	}
	wait(t, time.Second)
	b.drain()
}

func wantBalance(t *testing.T, when string, heads map[string]int, nodes, within int) {
	t.Helper()
	counts := slices.Sorted(maps.Values(heads))
	if len(counts) != nodes || counts[nodes-1]-counts[0] > within {
		t.Errorf("%s: groups per node %v, want %d nodes within %d", when, heads, nodes, within)
	}
}

// 300 Services on three nodes, made at once, by three controllers one after another; then
// a fourth node comes, and one goes.
func TestBalanceOverAClustersLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 300
		b := start(t)
		for lifetime := range 3 {
			if lifetime > 0 {
				next := start(t)
				next.inherit(t, b, lifetime*groups/3)
				b = next
				b.wantNoWrite(t)
			}
			b.allocateAtOnce(t, lifetime*groups/3, (lifetime+1)*groups/3)
			wantBalance(t, "lifetime "+strconv.Itoa(lifetime), b.headsOf(t, (lifetime+1)*groups/3), 3, 1)
		}
		before := map[int][]string{}
		for i := range groups {
			before[i] = b.successorsOf(t, i)
		}
		b.addNodes(t, "worker4")
		heirs := map[string]map[string]int{}
		for i := range groups {
			got := b.successorsOf(t, i)
			if got[0] != before[i][0] {
				t.Errorf("group %d goes from %s to %s because a node came", i, before[i][0], got[0])
			}
			if heirs[got[0]] == nil {
				heirs[got[0]] = map[string]int{}
			}
			heirs[got[0]][got[1]]++
			before[i] = got
		}
		for owner, h := range heirs {
			wantBalance(t, "heirs of "+owner, h, 3, 1)
		}
		b.nodes.Remove("worker2")
		b.agents.Remove("worker2")
		wait(t, time.Second)
		gained := map[string]int{}
		for i := range groups {
			got := b.successorsOf(t, i)
			if before[i][0] != "worker2" && got[0] != before[i][0] {
				t.Errorf("group %d goes from %s to %s because another node went", i, before[i][0], got[0])
			}
			if before[i][0] == "worker2" {
				gained[got[0]]++
				if got[0] != before[i][1] {
					t.Errorf("group %d goes to %s instead of its heir %s", i, got[0], before[i][1])
				}
			}
		}
		wantBalance(t, "gained by a node's going", gained, 3, 1)
	})
}
