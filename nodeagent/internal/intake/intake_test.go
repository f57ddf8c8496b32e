// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// copies makes an intake that is never run; its stores are filled by hand.
func copies(tb testing.TB) *Intake {
	tb.Helper()
	cfg := &rest.Config{Host: "http://127.0.0.1:1"}
	fl, err := client.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	discovery, err := discoveryv1client.NewForConfig(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	i, err := New(Clients{Fairlead: fl, Core: core, Discovery: discovery, Secrets: core}, Own{Node: "n1", Namespace: "fairlead-system"}, func() {})
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

func put(tb testing.TB, i *Intake, inf cache.SharedIndexInformer, obj any) {
	tb.Helper()
	defer i.toucher(inf)(obj)
	if err := inf.GetIndexer().Add(obj); err != nil {
		tb.Fatal(err)
	}
}

func record(name string, policy v1alpha1.TrafficPolicy) *v1alpha1.LoadBalancer {
	lb := &v1alpha1.LoadBalancer{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}}
	lb.Spec.ExternalTrafficPolicy = policy
	return lb
}

func slice(service, node string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		Endpoints:  []discoveryv1.Endpoint{{NodeName: &node}},
	}
}

func TestOnlySlicesOfLocalOrForwardedServicesMatter(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.records, record("local", v1alpha1.TrafficPolicyLocal))
	put(t, i, i.records, record("cluster", v1alpha1.TrafficPolicyCluster))
	put(t, i, i.records, forwarded("ours"))
	for service, want := range map[string]bool{"local": true, "cluster": false, "ours": true, "none": false} {
		if got := i.matters(slice(service, "n")); got != want {
			t.Errorf("a slice of %s matters: %t, want %t", service, got, want)
		}
	}
	if !i.matters(cache.DeletedFinalStateUnknown{Key: "d/local-1", Obj: slice("local", "n")}) {
		t.Error("a deletion that was missed does not matter")
	}
	if i.matters(&discoveryv1.EndpointSlice{}) {
		t.Error("a slice without a Service matters")
	}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.records, record("local", v1alpha1.TrafficPolicyLocal))
	put(t, i, i.slices, slice("local", "n1"))
	put(t, i, i.nodes, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}},
	})
	put(t, i, i.claims, &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"},
		Spec:       v1alpha1.IPClaimSpec{Address: "192.0.2.1", Phase: v1alpha1.ClaimBound},
	})
	put(t, i, i.claims, &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.2"},
		Spec:       v1alpha1.IPClaimSpec{Address: "192.0.2.99", Phase: v1alpha1.ClaimBound}, // contradicts its name
	})
	got := i.Objects(t.Context())
	key := loadbalancer.ServiceKey{Namespace: "d", Name: "local"}
	if diff := cmp.Diff(map[loadbalancer.NodeName]struct{}{"n1": {}}, got.Endpoints[key].Nodes); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if len(got.Claims) != 1 || got.Claims[0].Addr != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("claims %+v, want the good one", got.Claims)
	}
	if len(got.Nodes["n1"].InternalIPs) != 1 || i.NodeUID("n1") != "u1" || i.NodeUID("n2") != "" {
		t.Errorf("nodes %+v", got.Nodes)
	}
}

// A round of 1,000 Services, as after every change.
func BenchmarkObjects(b *testing.B) {
	i := copies(b)
	for n := range 1000 {
		a := netip.AddrFrom4([4]byte{192, 0, 2 + byte(n/250), byte(n % 250)}).String()
		put(b, i, i.claims, &v1alpha1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Name: a},
			Spec: v1alpha1.IPClaimSpec{
				Address: a, Group: a, Phase: v1alpha1.ClaimBound, Successors: []string{"a", "b", "c"},
				Services: []v1alpha1.ServiceReference{{Namespace: "d", Name: a, UID: types.UID(a)}},
			},
		})
		lb := record(a, v1alpha1.TrafficPolicyCluster)
		lb.Spec.ServiceUID = types.UID(a)
		lb.Spec.Addresses = []v1alpha1.LoadBalancerAddress{{Address: a, Claim: a}}
		put(b, i, i.records, lb)
	}
	for b.Loop() {
		i.Objects(b.Context())
	}
}

// The change of one Service of so many.
func BenchmarkObjectsAfterOneRecord(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			i := copies(b)
			var records []*v1alpha1.LoadBalancer
			for n := range n {
				a := netip.AddrFrom4([4]byte{192, 0, byte(n / 250), byte(n % 250)}).String()
				put(b, i, i.claims, &v1alpha1.IPClaim{
					ObjectMeta: metav1.ObjectMeta{Name: a},
					Spec: v1alpha1.IPClaimSpec{
						Address: a, Group: a, Phase: v1alpha1.ClaimBound, Successors: []string{"a", "b", "c"},
						Services: []v1alpha1.ServiceReference{{Namespace: "d", Name: a, UID: types.UID(a)}},
					},
				})
				lb := record(a, v1alpha1.TrafficPolicyCluster)
				lb.Spec.ServiceUID = types.UID(a)
				lb.Spec.Addresses = []v1alpha1.LoadBalancerAddress{{Address: a, Claim: a}}
				put(b, i, i.records, lb)
				put(b, i, i.slices, slice(a, "n1"))
				records = append(records, lb)
			}
			i.Objects(b.Context())
			b.ReportAllocs()
			for round := 0; b.Loop(); round++ {
				lb := records[round%n].DeepCopy()
				lb.Spec.ExternalTrafficPolicy = v1alpha1.TrafficPolicyCluster
				put(b, i, i.records, lb)
				i.Objects(b.Context())
			}
		})
	}
}

// Objects are converted once, follow every change, and are forgotten when they are gone.
func TestObjectsAreConvertedOnce(t *testing.T) {
	t.Parallel()
	i := copies(t)
	c := &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"},
		Spec:       v1alpha1.IPClaimSpec{Address: "192.0.2.1", Group: "192.0.2.1", Phase: v1alpha1.ClaimBound},
	}
	put(t, i, i.claims, c)
	lb := record("svc", v1alpha1.TrafficPolicyCluster)
	put(t, i, i.records, lb)
	for range 3 {
		if got := i.Objects(t.Context()); len(got.Claims) != 1 || got.Claims[0].Releasing || len(got.Records) != 1 {
			t.Fatalf("objects %+v", got)
		}
	}
	if len(i.knownClaims.known) != 1 || len(i.knownRecords.known) != 1 {
		t.Errorf("%d claims and %d records known, want one each", len(i.knownClaims.known), len(i.knownRecords.known))
	}
	changed := c.DeepCopy()
	changed.Spec.Phase = v1alpha1.ClaimReleasing
	put(t, i, i.claims, changed)
	if got := i.Objects(t.Context()); len(got.Claims) != 1 || !got.Claims[0].Releasing {
		t.Errorf("objects %+v, want the claim released", got)
	}
	drop(t, i, i.records, lb)
	if got := i.Objects(t.Context()); len(got.Records) != 0 {
		t.Errorf("records %+v, want none", got.Records)
	}
	if len(i.knownClaims.known) != 1 || len(i.knownRecords.known) != 0 {
		t.Errorf("%d claims and %d records known, want one and none", len(i.knownClaims.known), len(i.knownRecords.known))
	}
}

// The controller's status of a record wakes no agent; every other change does.
func TestStatusOfRecordsDoesNotMatter(t *testing.T) {
	t.Parallel()
	before := record("svc", v1alpha1.TrafficPolicyCluster)
	before.UID, before.Generation = "u", 1
	status := before.DeepCopy()
	status.Status.Owner = &v1alpha1.Owner{Node: "n"}
	spec := before.DeepCopy()
	spec.Generation++
	anew := before.DeepCopy()
	anew.UID = "v"
	for name, tt := range map[string]struct {
		after any
		want  bool
	}{
		"status": {status, true}, "spec": {spec, false}, "another of its name": {anew, false},
		"claim": {&v1alpha1.IPClaim{}, false},
	} {
		if got := onlyStatus(before, tt.after); got != tt.want {
			t.Errorf("%s: only status %t, want %t", name, got, tt.want)
		}
	}
}
