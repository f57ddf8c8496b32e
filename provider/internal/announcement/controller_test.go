// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// One Service from allocation to announcement costs one write of ours and one event.
func TestAnnouncedInOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		p := b.allocate(t, 200)
		if diff := cmp.Diff([]v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "my-l2"}}, p.Advertisements); diff != "" {
			t.Errorf("advertisements (-want +got):\n%s", diff)
		}
		if len(p.Successors) != 3 || slices.Contains(p.Successors, "control-plane") {
			t.Fatalf("successors %v, want the three workers", p.Successors)
		}
		wait(t, 100*time.Millisecond)
		b.wantNoWrite(t)
		b.own(t, 200, p.Successors[0], 1)
		wait(t, time.Minute)
		if diff := cmp.Diff([]string{"apply default/svc200"}, b.drain()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		ready := b.condition(t, 200, v1alpha1.ConditionReady)
		if want := "172.20.255.200 is announced by node " + p.Successors[0] + " (layer 2)"; ready.Status != metav1.ConditionTrue || ready.Message != want {
			t.Errorf("Ready %s %q, want True %q", ready.Status, ready.Message, want)
		}
		r, _ := b.records.Find("default/svc200")
		if r.Status.Owner == nil || r.Status.Owner.Node != p.Successors[0] {
			t.Errorf("owner %+v, want %s", r.Status.Owner, p.Successors[0])
		}
		want := []string{fmt.Sprintf("Normal Announcing announcing 172.20.255.200 from node %q by layer 2", p.Successors[0])}
		if diff := cmp.Diff(want, b.takeEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// Without an owner the first write waits for as long as an agent takes to find an address
// free, and then says what is missing.
func TestFirstWriteWaitsForAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		wait(t, 1900*time.Millisecond)
		b.wantNoWrite(t)
		wait(t, 200*time.Millisecond)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Reason != reason.WaitingForAgent.String() {
			t.Errorf("reason %s, want WaitingForAgent", c.Reason)
		}
	})
}

// Failover: the record follows the owner, one write and one event each.
func TestRecordFollowsTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		b.own(t, 200, "worker", 1)
		wait(t, time.Second)
		b.drain()
		b.takeEvents()
		b.own(t, 200, "worker2", 2)
		wait(t, time.Second)
		if got := b.condition(t, 200, v1alpha1.ConditionAnnounced).Message; !strings.Contains(got, "node worker2 ") {
			t.Errorf("message %q, want node worker2", got)
		}
		if got := b.successorsOf(t, 200); got[0] != "worker2" {
			t.Errorf("successors %v, want the owner first", got)
		}
		if got := b.takeEvents(); len(got) != 1 || !strings.Contains(got[0], `"worker2"`) {
			t.Errorf("events %v, want one about worker2", got)
		}
		if got := b.drain(); len(got) > 2 {
			t.Errorf("writes %v, want at most one of the claim and one of the record", got)
		}
	})
}

// Nothing changes: nothing is written, whatever heartbeats come in.
func TestNoWriteWithoutChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		b.own(t, 200, "worker", 1)
		wait(t, time.Second)
		b.drain()
		for i := range 5 {
			n, _ := b.nodes.Find("worker")
			n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			b.nodes.Put(t, n)
			a, _ := b.agents.Find("worker")
			a.Status.AnnouncedAddresses = int32(i + 1)
			b.agents.Put(t, a)
			p, _ := b.pools.Find("my-ippool")
			p.Status.AssignedIPv4++
			b.pools.Put(t, p)
			wait(t, time.Minute)
		}
		b.wantNoWrite(t)
		if got := b.takeEvents(); len(got) != 1 {
			t.Errorf("events %v, want only the first", got)
		}
	})
}

// Allocations side by side spread over the nodes although the cache has no claim yet.
func TestProposalsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		first := map[string]int{}
		for i := range 30 {
			p := b.Propose(svc(i), []v1alpha1.LoadBalancerAddress{address(i)})
			first[p.Successors[0]]++
		}
		if diff := cmp.Diff(map[string]int{"worker": 10, "worker2": 10, "worker3": 10}, first); diff != "" {
			t.Errorf("first successors (-want +got):\n%s", diff)
		}
		wait(t, 2*reservationLife)
		b.Propose(svc(31), []v1alpha1.LoadBalancerAddress{address(31)})
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.ledger.heads) != 1 || len(b.ledger.unseen) != 1 {
			t.Errorf("ledger %+v, want reservations without a claim forgotten", b.ledger)
		}
	})
}

// A node is excluded: its name leaves every list, heads that may stay do, and the rest balance.
func TestExcludedNodeLeavesTheLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		before := map[int]string{}
		for i := range 12 {
			before[i] = b.allocate(t, i).Successors[0]
		}
		wait(t, 3*time.Second) // until the first statuses are written
		b.drain()
		n, _ := b.nodes.Find("worker")
		n.Labels[corev1.LabelNodeExcludeBalancers] = "true"
		b.nodes.Put(t, n)
		wait(t, time.Second)
		for i := range 12 {
			got := b.successorsOf(t, i)
			if len(got) != 2 || slices.Contains(got, "worker") {
				t.Errorf("successors of %d: %v, want the two others", i, got)
			}
			if before[i] != "worker" && got[0] != before[i] {
				t.Errorf("head of %d moved from %s to %s", i, before[i], got[0])
			}
		}
		if log := b.drain(); len(log) != 12 {
			t.Errorf("%d writes %v, want one of each claim", len(log), log)
		}
	})
}

// Where no agent may announce, the first write does not wait for one.
func TestFirstWriteWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for _, name := range []string{"worker", "worker2", "worker3"} {
			b.agents.Remove(name)
		}
		wait(t, time.Second)
		b.allocate(t, 200)
		wait(t, 250*time.Millisecond)
		b.wantNoWrite(t)
		wait(t, 100*time.Millisecond)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Reason != reason.WaitingForAgent.String() {
			t.Errorf("reason %s, want WaitingForAgent", c.Reason)
		}
	})
}

// Agents come after the Services: lists fill, spread, and the record tells.
func TestListsFillWhenAgentsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		var agents []*v1alpha1.NodeAgent
		for _, name := range []string{"worker", "worker2", "worker3"} {
			a, _ := b.agents.Find(name)
			agents = append(agents, a)
			b.agents.Remove(name)
		}
		wait(t, time.Second)
		for i := range 9 {
			if p := b.allocate(t, i); len(p.Successors) != 0 {
				t.Fatalf("successors %v without agents", p.Successors)
			}
		}
		wait(t, time.Second)
		if c := b.condition(t, 3, v1alpha1.ConditionReady); c.Reason != reason.WaitingForAgent.String() {
			t.Errorf("reason %s, want WaitingForAgent", c.Reason)
		}
		for _, a := range agents {
			b.agents.Put(t, a)
		}
		wait(t, time.Second)
		first := map[string]int{}
		for i := range 9 {
			first[b.successorsOf(t, i)[0]]++
		}
		if diff := cmp.Diff(map[string]int{"worker": 3, "worker2": 3, "worker3": 3}, first); diff != "" {
			t.Errorf("first successors (-want +got):\n%s", diff)
		}
	})
}

// The advertisement goes and comes back: reference, condition and one Warning.
func TestAdvertisementGoesAndComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		wait(t, time.Second)
		b.takeEvents()
		ad, _ := b.ads.Find("my-l2")
		b.ads.Remove("my-l2")
		wait(t, time.Second)
		r, _ := b.records.Find("default/svc200")
		if len(r.Spec.Advertisements) != 0 {
			t.Errorf("advertisements %v, want none", r.Spec.Advertisements)
		}
		if c := b.condition(t, 200, v1alpha1.ConditionAnnounced); c.Reason != reason.NoAdvertisement.String() {
			t.Errorf("reason %s, want NoAdvertisement", c.Reason)
		}
		if got := b.takeEvents(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning NoAdvertisement") {
			t.Errorf("events %v, want one NoAdvertisement", got)
		}
		ad.ResourceVersion, ad.UID = "", ""
		b.ads.Put(t, ad)
		wait(t, time.Second)
		r, _ = b.records.Find("default/svc200")
		if len(r.Spec.Advertisements) != 1 {
			t.Errorf("advertisements %v, want one", r.Spec.Advertisements)
		}
	})
}

// An advertisement that names a pool which comes later.
func TestAdvertisementCondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		ready := func() metav1.Condition {
			ad, _ := b.ads.Find("my-l2")
			return *meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.ConditionReady)
		}
		if got := ready(); got.Reason != reason.Valid.String() {
			t.Errorf("reason %s, want Valid", got.Reason)
		}
		p, _ := b.pools.Find("my-ippool")
		b.pools.Remove("my-ippool")
		wait(t, time.Second)
		if got := ready(); got.Status != metav1.ConditionFalse || got.Reason != reason.UnknownPool.String() {
			t.Errorf("got %s %s, want False UnknownPool", got.Status, got.Reason)
		}
		b.pools.Put(t, p)
		wait(t, time.Second)
		if got := ready(); got.Status != metav1.ConditionTrue {
			t.Errorf("got %s %s, want True", got.Status, got.Reason)
		}
		b.wantWrites(t, "apply my-l2", 2)
	})
}

// Allocation fails, then succeeds.
func TestAllocationFailureIsToldOnTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		s := svc(200)
		b.services.Put(t, s)
		b.records.Put(t, &v1alpha1.LoadBalancer{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}, Spec: v1alpha1.LoadBalancerSpec{ServiceUID: s.UID},
		})
		b.AllocationFailed(s, reason.PoolExhausted, "pool full: add addresses")
		wait(t, time.Second)
		c := b.condition(t, 200, v1alpha1.ConditionAllocated)
		if c.Status != metav1.ConditionFalse || c.Reason != reason.PoolExhausted.String() || c.Message != "pool full: add addresses" {
			t.Errorf("condition %+v, want the failure", c)
		}
		b.allocate(t, 200)
		b.AllocationSucceeded(loadbalancer.ServiceKey{Namespace: s.Namespace, Name: s.Name})
		b.own(t, 200, "worker", 1)
		wait(t, time.Second)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			t.Errorf("condition %+v, want True", c)
		}
		b.AllocationFailed(svc(7), reason.NoPool, "of a Service that is gone")
		wait(t, 2*failureGrace)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.failures) != 0 {
			t.Errorf("failures %v remembered, want none", b.failures)
		}
	})
}

// Endpoints come and go under externalTrafficPolicy Cluster.
func TestNoEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		b.own(t, 200, "worker", 1)
		b.slices.Put(t, endpointSlice("svc200", ""))
		wait(t, time.Second)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Reason != reason.NoEndpoints.String() {
			t.Errorf("reason %s, want NoEndpoints", c.Reason)
		}
		b.slices.Put(t, endpointSlice("svc200", "worker3"))
		wait(t, time.Second)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			t.Errorf("condition %+v, want True", c)
		}
	})
}

// The API fails for a while: everything is written in the end, once.
func TestFailingWritesAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		fail := func(string, string) error { return errors.New("injected") }
		b.records.FailWith(fail)
		b.claims.FailWith(func(_, name string) error { // without a change behind it
			return apierrors.NewConflict(schema.GroupResource{Resource: "ipclaims"}, name, errors.New("injected"))
		})
		b.allocate(t, 200)
		b.own(t, 200, "worker3", 1)
		wait(t, 20*time.Second)
		b.records.FailWith(nil)
		b.claims.FailWith(nil)
		wait(t, time.Minute)
		if c := b.condition(t, 200, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			t.Errorf("condition %+v, want True", c)
		}
		if got := b.successorsOf(t, 200); got[0] != "worker3" {
			t.Errorf("successors %v, want the owner first", got)
		}
		if got := b.takeEvents(); len(got) != 1 {
			t.Errorf("events %v, want one", got)
		}
	})
}

// An address goes to the next Service before the end of its last claim is told: the new
// proposal counts all the same, and the claim keeps it.
func TestProposalOutlivesTheLastClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 1)
		wait(t, time.Second)
		released, _ := b.claims.Find(address(1).Claim)
		released.Spec.Phase = v1alpha1.ClaimReleasing
		b.claims.Put(t, released)
		wait(t, time.Second)
		b.claims.Remove(address(1).Claim)
		p := b.Propose(svc(1), []v1alpha1.LoadBalancerAddress{address(1)})
		wait(t, time.Second)
		b.mu.Lock()
		if got := string(b.ledger.heads["172.20.255.1"][0]); got != p.Successors[0] {
			t.Errorf("ledger has %q first, want %s", got, p.Successors[0])
		}
		b.mu.Unlock()
		b.drain()
		again := b.allocate(t, 1)
		b.own(t, 1, again.Successors[0], 1)
		wait(t, time.Second)
		if diff := cmp.Diff(p.Successors, b.successorsOf(t, 1)); diff != "" {
			t.Errorf("successors (-proposed +written):\n%s", diff)
		}
		b.wantWrites(t, "apply 172.20.255.1", 0)
	})
}

// Released and deleted claims are nobody's load.
func TestLedgerForgetsReleasedGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 3 {
			b.allocate(t, i)
		}
		wait(t, time.Second)
		released, _ := b.claims.Find(address(0).Claim)
		released.Spec.Phase = v1alpha1.ClaimReleasing
		b.claims.Put(t, released)
		b.claims.Remove(address(1).Claim)
		wait(t, time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		total := 0
		for _, n := range b.ledger.load {
			total += n
		}
		if total != 1 {
			t.Errorf("load %v, want one group in all", b.ledger.load)
		}
	})
}

func TestNewRefusesMissingInputs(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no error for empty options")
	}
}

// A Service that keeps its address and was refused another stays refused for a new
// leader, until allocation has looked at it again.
func TestRefusalOutlivesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		b.own(t, 200, "worker", 1)
		b.AllocationFailed(svc(200), reason.AddressInUse, "somebody has it")
		wait(t, time.Second)
		b.mu.Lock()
		clear(b.failures) // what a new process knows
		clear(b.settled)
		b.mu.Unlock()
		b.own(t, 200, "worker2", 2)
		wait(t, time.Second)
		if c := b.condition(t, 200, v1alpha1.ConditionAllocated); c.Reason != reason.AddressInUse.String() {
			t.Errorf("Allocated %s %s, want the refusal", c.Status, c.Reason)
		}
		b.AllocationSucceeded(loadbalancer.ServiceKey{Namespace: "default", Name: "svc200"})
		wait(t, time.Second)
		if c := b.condition(t, 200, v1alpha1.ConditionAllocated); c.Status != metav1.ConditionTrue {
			t.Errorf("Allocated %s %s after success", c.Status, c.Reason)
		}
	})
}

// A deleted Service costs no status write of a record that is about to go.
func TestReleaseWritesNoStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 200)
		b.own(t, 200, "worker", 1)
		wait(t, time.Second)
		b.drain()
		claim, _ := b.claims.Find(address(200).Claim)
		claim.Spec.Phase = v1alpha1.ClaimReleasing
		b.claims.Put(t, claim)
		wait(t, 20*time.Millisecond)
		b.records.Remove("default/svc200")
		wait(t, time.Second)
		b.wantNoWrite(t)
	})
}

// An address that no node can announce does not keep the others' nodes off the list.
func TestAddressWithoutANodeDoesNotEmptyTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		lost := v1alpha1.LoadBalancerAddress{Address: "fd00::1", Pool: "my-ippool", Claim: v1alpha1.ClaimName(six())}
		if p := b.Propose(svc(200), []v1alpha1.LoadBalancerAddress{address(200), lost}); len(p.Successors) != 3 {
			t.Errorf("successors %v, want the three workers", p.Successors)
		}
		for i, name := range []string{"worker", "worker2"} {
			b.agents.Put(t, testAgent(name, fmt.Sprintf("172.20.0.%d/16", 3+i), fmt.Sprintf("fd00::%d/64", 3+i)))
		}
		wait(t, time.Second)
		if p := b.Propose(svc(201), []v1alpha1.LoadBalancerAddress{address(201), lost}); len(p.Successors) != 2 || slices.Contains(p.Successors, "worker3") {
			t.Errorf("successors %v, want the two workers with IPv6", p.Successors)
		}
	})
}
