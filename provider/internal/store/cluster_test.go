// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

func at(second int64) metav1.Time { return metav1.NewTime(time.Unix(second, 0)) }

func addPool(s *store.Store, name string, created metav1.Time, addresses string) {
	s.ObservePool(&v1alpha1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: created},
		Spec:       v1alpha1.IPAddressPoolSpec{Addresses: []string{addresses}},
	})
}

// What the cluster has for itself is given to nobody, from every source of it.
func TestClustersOwnAddresses(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	addPool(s, "a", at(1), "192.0.2.0-192.0.2.5")
	s.ObserveNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.0"}},
	}})
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Status: v1alpha1.NodeAgentStatus{
		DefaultRouteAddresses: []string{"192.0.2.0"},
		Interfaces:            []v1alpha1.NodeInterface{{Name: "eth1", Prefixes: []string{"192.0.2.1/24"}}},
		Gateways:              []string{"192.0.2.2"},
	}}
	s.ObserveAgent(agent)
	slice := func(service, address string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{address}}},
		}
	}
	s.ObserveEndpointSlice(slice("kubernetes", "192.0.2.3"))
	s.ObserveEndpointSlice(slice("web", "192.0.2.4"))
	got, _, fault := s.Allocate(request("one"), store.Ticket{})
	if fault != nil || got[0].Addr != mustAddr(t, "192.0.2.4") {
		t.Errorf("the first free address: %v, %v", got, fault)
	}
	for address, want := range map[string]string{"192.0.2.1": `node "w1"`, "192.0.2.2": `the gateway of node "w1"`, "192.0.2.3": "the API server"} {
		r := request("two")
		r.Addresses = append(r.Addresses, mustAddr(t, address))
		if _, _, fault := s.Allocate(r, store.Ticket{}); fault == nil || fault.Reason != reason.AddressReserved || !strings.Contains(fault.Message, want) {
			t.Errorf("%s asked for: %v", address, fault)
		}
	}
	v := s.Pools()[0]
	if v.TotalIPv4 != 2 || v.AvailableIPv4 != 1 || v.Conflict == nil || v.Conflict.Reason != reason.OverlapsNode {
		t.Errorf("total %d, free %d, conflict %v", v.TotalIPv4, v.AvailableIPv4, v.Conflict)
	}
	s.ForgetAgent(agent)
	s.ForgetEndpointSlice(slice("kubernetes", "192.0.2.3"))
	if v := s.Pools()[0]; v.TotalIPv4 != 5 {
		t.Errorf("afterwards total %d", v.TotalIPv4)
	}
}

// Ranges of the cluster stop younger pools, and are told to the younger object of others.
func TestClusterRanges(t *testing.T) {
	t.Parallel()
	range0, err := pool.ParseInterval("10.9.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}, Ranges: []pool.ClusterRange{
		{Interval: range0, Kind: pool.ServiceRange, Object: "the cloud config"},
	}})
	addPool(s, "old", at(10), "10.244.1.0-10.244.2.1")
	addPool(s, "young", at(30), "10.96.0.0/24")
	addPool(s, "configured", at(1), "10.9.1.0/24")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1", CreationTimestamp: at(20)}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}}}
	cidr := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", UID: "cidr", CreationTimestamp: at(20)},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}},
	}
	s.ObserveNode(node)
	s.ObserveServiceCIDR(cidr)
	views := make(map[string]store.PoolView)
	for _, v := range s.Pools() {
		views[v.Pool.Name] = v
	}
	for name, want := range map[string]reason.Reason{"young": reason.OverlapsServiceRange, "configured": reason.OverlapsServiceRange} {
		if f := views[name].Fault; f == nil || f.Reason != want {
			t.Errorf("pool %s: %v, want %s", name, f, want)
		}
	}
	if v := views["old"]; v.Fault != nil || v.Conflict == nil || v.Conflict.Reason != reason.OverlapsPodRange || v.TotalIPv4 != 2 {
		t.Errorf("the older pool: fault %v, conflict %v, total %d", v.Fault, v.Conflict, v.TotalIPv4)
	}
	conflicts := s.RangeConflicts()
	if len(conflicts) != 1 || conflicts[0].Kind != "Node" || conflicts[0].Name != "w1" || conflicts[0].Pool != "old" {
		t.Errorf("conflicts %+v", conflicts)
	}
	if got, _, fault := s.Allocate(request("one"), store.Ticket{}); fault != nil || got[0].Addr != mustAddr(t, "10.244.2.0") {
		t.Errorf("got %v, %v", got, fault)
	}
	s.ForgetNode(node)
	s.ForgetServiceCIDR(cidr)
	if got := s.RangeConflicts(); len(got) != 0 {
		t.Errorf("afterwards conflicts %+v", got)
	}
	for _, v := range s.Pools() {
		if v.Pool.Name == "young" && v.Fault != nil {
			t.Errorf("afterwards pool young: %v", v.Fault)
		}
	}
}
