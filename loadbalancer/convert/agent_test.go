// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

func values() cmp.Option {
	return cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	valid := func() *v1alpha1.IPClaim {
		return &v1alpha1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"},
			Spec: v1alpha1.IPClaimSpec{
				Address: "192.0.2.1", Group: "192.0.2.1", Phase: v1alpha1.ClaimBound,
				Services: []v1alpha1.ServiceReference{{UID: "u"}}, Successors: []string{"a", "b"},
			},
			Status: v1alpha1.IPClaimStatus{Owner: &v1alpha1.Owner{Node: "a", Epoch: 3}},
		}
	}
	want := loadbalancer.Claim{
		Name: "192.0.2.1", Addr: netip.MustParseAddr("192.0.2.1"), Group: "192.0.2.1", Services: []loadbalancer.ServiceUID{"u"},
		Successors: []loadbalancer.NodeName{"a", "b"}, Persisted: loadbalancer.Ownership{Node: "a", Epoch: 3},
	}
	tests := map[string]struct {
		change func(c *v1alpha1.IPClaim)
		want   func(c *loadbalancer.Claim)
		err    string
	}{
		"as it is":         {},
		"releasing":        {change: func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimReleasing }, want: func(c *loadbalancer.Claim) { c.Releasing = true }},
		"retained":         {change: func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimRetained }, want: func(c *loadbalancer.Claim) { c.Releasing = true }},
		"no phase":         {change: func(c *v1alpha1.IPClaim) { c.Spec.Phase = "" }, want: func(c *loadbalancer.Claim) { c.Releasing = true }},
		"unknown phase":    {change: func(c *v1alpha1.IPClaim) { c.Spec.Phase = "Later" }, want: func(c *loadbalancer.Claim) { c.Releasing = true }},
		"being deleted":    {change: func(c *v1alpha1.IPClaim) { c.DeletionTimestamp = &metav1.Time{} }, want: func(c *loadbalancer.Claim) { c.Releasing = true }},
		"no group":         {change: func(c *v1alpha1.IPClaim) { c.Spec.Group = "" }},
		"no owner":         {change: func(c *v1alpha1.IPClaim) { c.Status.Owner = nil }, want: func(c *loadbalancer.Claim) { c.Persisted = loadbalancer.Ownership{} }},
		"impossible epoch": {change: func(c *v1alpha1.IPClaim) { c.Status.Owner.Epoch = -1 }, want: func(c *loadbalancer.Claim) { c.Persisted = loadbalancer.Ownership{} }},
		"name no address":  {change: func(c *v1alpha1.IPClaim) { c.Name = "x" }, err: `parse claim name "x"`},
		"name against spec": {
			change: func(c *v1alpha1.IPClaim) { c.Spec.Address = "192.0.2.2" }, err: `spec.address is "192.0.2.2"`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, want := valid(), want
			if tt.change != nil {
				tt.change(in)
			}
			if tt.want != nil {
				tt.want(&want)
			}
			got, err := convert.Claim(in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(want, got, values()); diff != "" || err != nil {
				t.Errorf("Claim (%v, -want +got):\n%s", err, diff)
			}
		})
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	in := &v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "svc"},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: "u", ExternalTrafficPolicy: v1alpha1.TrafficPolicyLocal,
			Addresses:      []v1alpha1.LoadBalancerAddress{{Address: "nonsense"}, {Address: "192.0.2.1"}},
			Advertisements: []v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "ad"}},
		},
	}
	want := loadbalancer.Record{
		UID: "u", Service: loadbalancer.ServiceKey{Namespace: "d", Name: "svc"}, Policy: loadbalancer.Local,
		Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Advertisements: []string{"ad"},
	}
	got, err := convert.Record(in)
	if err == nil || !strings.Contains(err.Error(), "d/svc") {
		t.Errorf("error %v, want one that names d/svc", err)
	}
	if diff := cmp.Diff(want, got, values()); diff != "" {
		t.Errorf("Record (-want +got):\n%s", diff)
	}
}

// A BGPAdvertisement tells the addresses that its reference lists, else all.
func TestRecordLimitsBGPAdvertisements(t *testing.T) {
	t.Parallel()
	got, err := convert.Record(&v1alpha1.LoadBalancer{Spec: v1alpha1.LoadBalancerSpec{Advertisements: []v1alpha1.AdvertisementReference{
		{Kind: "BGPAdvertisement", Name: "all"},
		{Kind: "BGPAdvertisement", Name: "one", Addresses: []string{"192.0.2.1"}},
		{Kind: "BGPAdvertisement", Name: "bad", Addresses: []string{"nonsense"}},
		{Kind: "L2Advertisement", Name: "ad", Addresses: []string{"192.0.2.1"}},
	}}})
	if err == nil || !strings.Contains(err.Error(), "BGPAdvertisement bad") {
		t.Errorf("error %v, want one that names the bad reference", err)
	}
	want := map[string][]netip.Addr{"one": {netip.MustParseAddr("192.0.2.1")}, "bad": {}}
	if diff := cmp.Diff(want, got.BGPAddrs, values()); diff != "" || !slices.Equal(got.BGPAdvertisements, []string{"all", "one", "bad"}) {
		t.Errorf("%v limited (-want +got):\n%s", got.BGPAdvertisements, diff)
	}
}

// The record of a Service without a load balancer part is one like any other.
func TestRecordOfExternalIPs(t *testing.T) {
	t.Parallel()
	got, err := convert.Record(&v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "svc"},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: "u", Addresses: []v1alpha1.LoadBalancerAddress{{Address: "192.0.2.1", Rule: v1alpha1.RuleExternalIP}},
			Advertisements: []v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "ad"}},
		},
	})
	want := loadbalancer.Record{
		UID: "u", Service: loadbalancer.ServiceKey{Namespace: "d", Name: "svc"},
		Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Advertisements: []string{"ad"},
	}
	if diff := cmp.Diff(want, got, values()); diff != "" || err != nil {
		t.Errorf("Record (%v, -want +got):\n%s", err, diff)
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	exclude := func(v string) map[string]string { return map[string]string{corev1.LabelNodeExcludeBalancers: v} }
	for name, tt := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"no label":   {nil, false},
		"empty":      {exclude(""), true},
		"true":       {exclude("true"), true},
		"false":      {exclude("false"), false},
		"not a bool": {exclude("maybe"), true},
	} {
		got := convert.Node(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: tt.labels}})
		if got.Excluded != tt.want {
			t.Errorf("%s: excluded is %t, want %t", name, got.Excluded, tt.want)
		}
	}
	in := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "192.0.2.9"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
			{Type: corev1.NodeInternalIP, Address: "junk"},
		},
		Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue},
		},
	}}
	want := loadbalancer.Node{
		Name: "n", Ready: true, NetworkUnavailable: true,
		Addrs:       []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")},
		InternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
	if diff := cmp.Diff(want, convert.Node(in), values()); diff != "" {
		t.Errorf("Node (-want +got):\n%s", diff)
	}
	in.Spec.Unschedulable = true
	in.Status.Conditions[0] = corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: "[container runtime is down, node is shutting down]",
	}
	want.Ready, want.Cordoned, want.ShuttingDown = false, true, true
	if diff := cmp.Diff(want, convert.Node(in), values()); diff != "" {
		t.Errorf("Node that shuts down (-want +got):\n%s", diff)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	nodes := []convert.NodeLabels{{Name: "a", Labels: map[string]string{"zone": "1"}}, {Name: "b", Labels: map[string]string{"zone": "2"}}}
	ad := func(selectors ...metav1.LabelSelector) *v1alpha1.L2Advertisement {
		return &v1alpha1.L2Advertisement{
			ObjectMeta: metav1.ObjectMeta{Name: "ad"},
			Spec:       v1alpha1.L2AdvertisementSpec{NodeSelectors: selectors, Interfaces: []string{"eth1"}},
		}
	}
	all, err := convert.Resolve(ad(), nodes)
	if err != nil || !all.Selects("a") || !all.Selects("later") {
		t.Errorf("without selectors: %+v, %v", all, err)
	}
	one, err := convert.Resolve(ad(metav1.LabelSelector{MatchLabels: map[string]string{"zone": "2"}}), nodes)
	if err != nil || one.Selects("a") || !one.Selects("b") {
		t.Errorf("zone 2: %+v, %v", one, err)
	}
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k", Operator: "Perhaps"}}}
	if got, err := convert.Resolve(ad(bad), nodes); err == nil || !strings.Contains(err.Error(), "advertisement ad") {
		t.Errorf("bad selector: %+v, %v", got, err)
	}
}

func TestEndpointsOf(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	ep := func(node string, ready, serving, terminating *bool) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}}
		if node != "" {
			e.NodeName = &node
		}
		return e
	}
	tests := map[string]struct {
		in   []discoveryv1.Endpoint
		want loadbalancer.Endpoints
	}{
		"none":                       {},
		"ready":                      {in: []discoveryv1.Endpoint{ep("a", &yes, &yes, &no), ep("b", &no, &no, &no)}, want: endpoints(true, "a")},
		"unset conditions are ready": {in: []discoveryv1.Endpoint{ep("a", nil, nil, nil)}, want: endpoints(true, "a")},
		"terminating only":           {in: []discoveryv1.Endpoint{ep("a", &no, &yes, &yes), ep("b", &no, &no, &yes)}, want: endpoints(true, "a")},
		"ready before terminating":   {in: []discoveryv1.Endpoint{ep("a", &no, &yes, &yes), ep("b", &yes, &yes, &no)}, want: endpoints(true, "b")},
		"no node":                    {in: []discoveryv1.Endpoint{ep("", &yes, nil, nil)}, want: endpoints(true)},
		"not ready":                  {in: []discoveryv1.Endpoint{ep("a", &no, &no, &no)}, want: endpoints(false)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The endpoints are spread over as many slices.
			var slices []*discoveryv1.EndpointSlice
			for _, e := range tt.in {
				slices = append(slices, &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{e}})
			}
			if diff := cmp.Diff(tt.want, convert.EndpointsOf(slices), values()); diff != "" {
				t.Errorf("EndpointsOf (-want +got):\n%s", diff)
			}
		})
	}
}

func endpoints(serving bool, nodes ...loadbalancer.NodeName) loadbalancer.Endpoints {
	out := loadbalancer.Endpoints{Any: serving, Nodes: map[loadbalancer.NodeName]struct{}{}}
	for _, n := range nodes {
		out.Nodes[n] = struct{}{}
	}
	return out
}
