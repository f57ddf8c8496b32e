// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// advertise adds an L2Advertisement for the Services with a label and some nodes.
func (b *bed) advertise(t *testing.T, name, app string, nodes ...string) {
	t.Helper()
	ad := &v1alpha1.L2Advertisement{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"my-ippool"}},
	}
	if app != "" {
		ad.Spec.ServiceSelectors = selector("app", app)
	}
	for _, n := range nodes {
		ad.Spec.NodeSelectors = append(ad.Spec.NodeSelectors, selector("kubernetes.io/hostname", n)...)
	}
	b.ads.Put(t, ad)
	wait(t, time.Second)
}

// join does what allocation does when a Service joins the addresses of others: Service,
// proposal, claims, record.
func (b *bed) join(t *testing.T, s *corev1.Service, group string, addrs ...v1alpha1.LoadBalancerAddress) Proposal {
	t.Helper()
	b.services.Put(t, s)
	b.slices.Put(t, endpointSlice(s.Name, "worker"))
	synctest.Wait() // allocation acts on what the cache has
	p := b.Propose(s, addrs)
	for _, a := range addrs {
		claim, found := b.claims.Find(a.Claim)
		if !found {
			claim = &v1alpha1.IPClaim{
				ObjectMeta: metav1.ObjectMeta{Name: a.Claim},
				Spec:       v1alpha1.IPClaimSpec{Address: a.Address, Pool: a.Pool, Phase: v1alpha1.ClaimBound, Successors: p.Successors},
			}
		}
		claim.Spec.Group = group
		claim.Spec.Services = append(claim.Spec.Services, v1alpha1.ServiceReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID})
		b.claims.Put(t, claim)
	}
	b.records.Put(t, &v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: s.UID, Addresses: addrs, Advertisements: p.Advertisements, ExternalTrafficPolicy: v1alpha1.TrafficPolicyCluster,
		},
	})
	return p
}

// Sharers get one list, of nodes that every one of them may be announced from, and each
// record shows the owner; a sharer that joins costs the record's status and nothing else.
func TestSharersHaveOneListAndOneOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.ads.Remove("my-l2")
		b.advertise(t, "one", "svc1", "worker", "worker2")
		b.advertise(t, "two", "svc2", "worker2", "worker3")
		if p := b.join(t, svc(1), address(200).Claim, address(200)); len(p.Successors) != 2 {
			t.Fatalf("alone: %v", p.Successors)
		}
		wait(t, time.Second)
		b.drain()
		p := b.join(t, svc(2), address(200).Claim, address(200))
		if diff := cmp.Diff([]string{"worker2"}, p.Successors); diff != "" {
			t.Errorf("proposal to the one who joins (-want +got):\n%s", diff)
		}
		synctest.Wait()
		b.own(t, 200, "worker2", 1)
		wait(t, time.Second)
		if diff := cmp.Diff([]string{"worker2"}, b.successorsOf(t, 200)); diff != "" {
			t.Errorf("successors (-want +got):\n%s", diff)
		}
		for _, i := range []int{1, 2} {
			if c := b.condition(t, i, v1alpha1.ConditionAnnounced); c.Message != "172.20.255.200 is announced by node worker2 (layer 2)" {
				t.Errorf("record %d: %s", i, c.Message)
			}
		}
		want := []string{"apply 172.20.255.200", "apply default/svc1", "apply default/svc2"}
		got := b.drain()
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

// Sharers that no node can serve together are told so, on each record.
func TestSharersWithoutACommonNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.ads.Remove("my-l2")
		b.advertise(t, "one", "svc1", "worker")
		b.advertise(t, "two", "svc2", "worker3")
		b.join(t, svc(1), address(200).Claim, address(200))
		b.join(t, svc(2), address(200).Claim, address(200))
		wait(t, time.Second)
		if got := b.successorsOf(t, 200); len(got) != 0 {
			t.Errorf("successors %v", got)
		}
		for _, i := range []int{1, 2} {
			if c := b.condition(t, i, v1alpha1.ConditionAnnounced); c.Reason != "NoCommonNode" {
				t.Errorf("record %d: %s: %s", i, c.Reason, c.Message)
			}
		}
		n := 0
		for _, e := range b.takeEvents() {
			if strings.HasPrefix(e, "Warning NoCommonNode ") {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d events NoCommonNode, want one for each Service", n)
		}
	})
}

// Claims linked by Services are one group: what one Service of it may not, none may.
func TestGroupOfSeveralClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.join(t, svc(1), address(200).Claim, address(200), address(201))
		wait(t, time.Second)
		if got := b.successorsOf(t, 201); len(got) != 3 {
			t.Fatalf("successors %v", got)
		}
		b.join(t, svc(2), address(200).Claim, address(201))
		b.ads.Remove("my-l2")
		b.advertise(t, "one", "svc1")
		b.advertise(t, "two", "svc2", "worker3")
		for _, i := range []int{200, 201} {
			if diff := cmp.Diff([]string{"worker3"}, b.successorsOf(t, i)); diff != "" {
				t.Errorf("successors of %d (-want +got):\n%s", i, diff)
			}
		}
		b.own(t, 200, "worker3", 1)
		wait(t, time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionAnnounced); c.Status != metav1.ConditionFalse ||
			!strings.Contains(c.Message, "waiting for a node agent to take 172.20.255.201 over; 172.20.255.200 is announced by node worker3") {
			t.Errorf("one of two addresses owned: %+v", c)
		}
		b.own(t, 201, "worker3", 1)
		wait(t, time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionAnnounced); c.Status != metav1.ConditionTrue {
			t.Errorf("both owned: %+v", c)
		}
	})
}

// A group whose claims all moved to another one weighs nothing any more.
func TestLedgerForgetsGroupsThatMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.join(t, svc(1), address(201).Claim, address(201))
		b.join(t, svc(2), address(200).Claim, address(200))
		b.join(t, svc(3), address(200).Claim, address(200), address(201))
		wait(t, time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		total := 0
		for _, n := range b.ledger.load {
			total += n
		}
		if total != 1 {
			t.Errorf("load %v, want one group", b.ledger.load)
		}
	})
}

// A Service without an address of its own, but with an external IP in a pool, has a
// record like any other.
func TestExternalIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		s := svc(1)
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ExternalIPs: []string{"172.20.255.200"}}
		a := address(200)
		a.Rule = v1alpha1.RuleExternalIP
		b.join(t, s, a.Claim, a)
		b.own(t, 200, "worker", 1)
		wait(t, time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue || c.Message != "172.20.255.200 is announced by node worker (layer 2)" {
			t.Errorf("ready: %+v", c)
		}
		b.AllocationFailed(s, "ExternalIPNotGranted", "172.20.255.9 is not granted")
		wait(t, time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionAllocated); c.Reason != "ExternalIPNotGranted" {
			t.Errorf("allocated: %+v", c)
		}
	})
}

// Which advertisements announce a Service, by its annotation and its pool's default.
func TestLimitedAdvertisements(t *testing.T) {
	for _, tc := range []struct {
		name       string
		annotation string
		defaults   []string
		want       []string
		event      string
	}{
		{name: "all that select it", want: []string{"my-l2", "other"}},
		{name: "annotation", annotation: " other , my-l2,", want: []string{"my-l2", "other"}},
		{name: "annotation with one", annotation: "other", want: []string{"other"}},
		{name: "default of the pool", defaults: []string{"other"}, want: []string{"other"}},
		{name: "annotation over default", annotation: "my-l2", defaults: []string{"other"}, want: []string{"my-l2"}},
		{name: "one does not exist", annotation: "my-l2,gone", want: []string{"my-l2"}, event: "names gone, which is no valid L2Advertisement"},
		{name: "none exists", annotation: "gone", event: "allows only gone, which is no valid L2Advertisement"},
		{name: "it selects another Service", annotation: "not-mine", event: "allows only advertisement not-mine, which does not select"},
		{name: "default that does not exist", defaults: []string{"gone"}, event: `defaults.advertisements of pool "my-ippool" allows only gone`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t)
				b.advertise(t, "other", "")
				b.advertise(t, "not-mine", "svc9")
				p, _ := b.pools.Find("my-ippool")
				b.join(t, svc(1), address(200).Claim, address(200)) // before anything is limited
				wait(t, time.Second)
				b.takeEvents()
				p.Spec.Defaults = &v1alpha1.PoolDefaults{Advertisements: tc.defaults}
				b.pools.Put(t, p)
				s := svc(1)
				s.Annotations = map[string]string{v1alpha1.AnnotationAdvertisements: tc.annotation}
				b.services.Put(t, s)
				wait(t, time.Second)
				r, _ := b.records.Find("default/svc1")
				var got []string
				for _, ad := range r.Spec.Advertisements {
					got = append(got, ad.Name)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("advertisements (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(r.Spec.Advertisements, b.Propose(s, r.Spec.Addresses).Advertisements); diff != "" && len(got) > 0 {
					t.Errorf("proposal (-record +proposal):\n%s", diff)
				}
				events := b.takeEvents()
				switch {
				case tc.event == "" && len(events) > 0:
					t.Errorf("events %q, want none", events)
				case tc.event != "" && (len(events) != 1 || !strings.HasPrefix(events[0], "Warning NoAdvertisement ") || !strings.Contains(events[0], tc.event)):
					t.Errorf("events %q, want one NoAdvertisement: %s", events, tc.event)
				}
			})
		})
	}
}
