// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// forwarded is the record of a Service that IPVS forwards.
func forwarded(name string) *v1alpha1.LoadBalancer {
	lb := record(name, v1alpha1.TrafficPolicyCluster)
	lb.Spec.Forwarding, lb.Spec.ServiceUID = v1alpha1.ForwardingIPVS, types.UID(name)
	lb.Spec.Ports = []v1alpha1.Port{{Protocol: "TCP", Port: 80}}
	return lb
}

// pods is an EndpointSlice with endpoints on node a, as the API server has it.
func pods(service, name string, addrs ...string) *discoveryv1.EndpointSlice {
	s := slice(service, "a")
	s.Name, s.AddressType, s.Endpoints = name, discoveryv1.AddressTypeIPv4, nil
	port, node, zone := int32(8080), "a", "z"
	s.Ports = []discoveryv1.EndpointPort{{Port: &port}}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a}, NodeName: &node, Zone: &zone, TargetRef: &corev1.ObjectReference{Name: "pod"},
		})
	}
	return s
}

func slimmed[T any](tb testing.TB, in T) T {
	tb.Helper()
	out, err := copies(tb).slim(in)
	if err != nil {
		tb.Fatal(err)
	}
	same, ok := out.(T)
	if !ok {
		tb.Fatalf("slim returns %T", out)
	}
	return same
}

func drop(tb testing.TB, i *Intake, inf cache.SharedIndexInformer, obj any) {
	tb.Helper()
	defer i.toucher(inf)(obj)
	if err := inf.GetIndexer().Delete(obj); err != nil {
		tb.Fatal(err)
	}
}

// weights are those of a Service's backends by address.
func weights(tb testing.TB, i *Intake, service string) map[string]uint16 {
	tb.Helper()
	out := make(map[string]uint16)
	for _, b := range i.Objects(tb.Context()).Endpoints[loadbalancer.ServiceKey{Namespace: "d", Name: service}].Backends {
		out[b.Addr.String()] = b.Weight
	}
	return out
}

// What forwarding needs of slices and nodes survives what is dropped of them.
func TestSlimKeepsWhatForwardingNeeds(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.records, forwarded("svc"))
	weighty := pods("svc", "svc-2", "10.1.1.9")
	weighty.Annotations = map[string]string{v1alpha1.AnnotationWeight: "9", "other": "x"}
	put(t, i, i.slices, slimmed(t, pods("svc", "svc-1", "10.1.1.7")))
	put(t, i, i.slices, slimmed(t, weighty))
	node := slimmed(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{v1alpha1.AnnotationWeight: "5", "other": "x"}}})
	put(t, i, i.nodes, node)
	if diff := cmp.Diff(map[string]uint16{"10.1.1.7": 5, "10.1.1.9": 9}, weights(t, i, "svc")); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	if len(weighty.Annotations) != 1 || len(node.Annotations) != 1 || weighty.Endpoints[0].TargetRef != nil || weighty.Endpoints[0].Zone != nil {
		t.Errorf("not slim: %+v %+v", weighty, node.Annotations)
	}
}

// The endpoints of a Service are converted again when its slices or a node's weight
// change, and only then; those of others are not.
func TestEndpointsAreConvertedOnce(t *testing.T) {
	t.Parallel()
	i := copies(t)
	for _, name := range []string{"one", "two"} {
		put(t, i, i.records, forwarded(name))
		put(t, i, i.slices, pods(name, name+"-1", "10.1.1.7", "10.1.1.8"))
	}
	put(t, i, i.slices, pods("two", "two-2", "10.1.1.9"))
	put(t, i, i.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	first := func(service string) *loadbalancer.Backend {
		return &i.Objects(t.Context()).Endpoints[loadbalancer.ServiceKey{Namespace: "d", Name: service}].Backends[0]
	}
	one, two := first("one"), first("two")
	put(t, i, i.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "2"}})
	for range 5 {
		if first("one") != one || first("two") != two {
			t.Fatal("endpoints were converted again though nothing changed")
		}
	}
	put(t, i, i.slices, pods("two", "two-2", "10.1.1.10"))
	if first("one") != one || first("two") == two {
		t.Error("a change of one Service's slice did not make just its endpoints new")
	}
	drop(t, i, i.slices, pods("two", "two-1"))
	if diff := cmp.Diff(map[string]uint16{"10.1.1.10": 1}, weights(t, i, "two")); diff != "" {
		t.Errorf("after a slice is gone (-want +got):\n%s", diff)
	}
	put(t, i, i.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{v1alpha1.AnnotationWeight: "3"}}})
	if diff := cmp.Diff(map[string]uint16{"10.1.1.7": 3, "10.1.1.8": 3}, weights(t, i, "one")); diff != "" {
		t.Errorf("after a node got a weight (-want +got):\n%s", diff)
	}
	drop(t, i, i.records, forwarded("two"))
	i.Objects(t.Context())
	if len(i.last.Endpoints) != 1 || len(i.knownNodes.known) != 1 {
		t.Errorf("%d Services and %d nodes known, want one each", len(i.last.Endpoints), len(i.knownNodes.known))
	}
}

// The endpoints of Services that are neither Local nor forwarded are not even looked at.
func TestEndpointsOfKubeProxysServicesAreNotRead(t *testing.T) {
	t.Parallel()
	i := copies(t)
	lb := record("svc", v1alpha1.TrafficPolicyCluster)
	lb.Spec.Forwarding = v1alpha1.ForwardingKubeProxy
	put(t, i, i.records, lb)
	put(t, i, i.slices, pods("svc", "svc-1", "10.1.1.7"))
	if got := i.Objects(t.Context()).Endpoints; len(got) != 0 {
		t.Errorf("endpoints %+v", got)
	}
}

// A round of 10,000 Services with ten endpoints each, of which one changed.
func BenchmarkObjectsAfterOneEndpoint(b *testing.B) {
	i := copies(b)
	for n := range 10000 {
		name := fmt.Sprintf("svc-%05d", n)
		put(b, i, i.records, forwarded(name))
		var addrs []string
		for e := range 10 {
			addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d", e, n/250, n%250))
		}
		put(b, i, i.slices, pods(name, name, addrs...))
	}
	i.Objects(b.Context())
	for b.Loop() {
		put(b, i, i.slices, pods("svc-00077", "svc-00077", "10.1.1.7"))
		i.Objects(b.Context())
	}
}
