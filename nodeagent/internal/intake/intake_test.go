// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// copies makes an intake that is never run; its stores are filled by hand.
func copies(t *testing.T) *Intake {
	t.Helper()
	cfg := &rest.Config{Host: "http://127.0.0.1:1"}
	fl, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	discovery, err := discoveryv1client.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	i, err := New(Clients{Fairlead: fl, Core: core, Discovery: discovery}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func put(t *testing.T, inf cache.SharedIndexInformer, obj any) {
	t.Helper()
	if err := inf.GetIndexer().Add(obj); err != nil {
		t.Fatal(err)
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

func TestOnlySlicesOfLocalServicesMatter(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i.records, record("local", v1alpha1.TrafficPolicyLocal))
	put(t, i.records, record("cluster", v1alpha1.TrafficPolicyCluster))
	for service, want := range map[string]bool{"local": true, "cluster": false, "none": false} {
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
	put(t, i.records, record("local", v1alpha1.TrafficPolicyLocal))
	put(t, i.slices, slice("local", "n1"))
	put(t, i.nodes, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}},
	})
	put(t, i.claims, &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"},
		Spec:       v1alpha1.IPClaimSpec{Address: "192.0.2.1", Phase: v1alpha1.ClaimBound},
	})
	put(t, i.claims, &v1alpha1.IPClaim{
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
