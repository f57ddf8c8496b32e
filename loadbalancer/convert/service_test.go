// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func withAnnotations(pairs ...string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}}
	for i := 0; i < len(pairs); i += 2 {
		svc.Annotations[pairs[i]] = pairs[i+1]
	}
	return svc
}

func TestServiceAsks(t *testing.T) {
	t.Parallel()
	lbip := func(ip string, svc *corev1.Service) *corev1.Service {
		svc.Spec.LoadBalancerIP = ip
		return svc
	}
	tests := []struct {
		name     string
		svc      *corev1.Service
		addrs    []string
		pool     string
		target   v1alpha1.TargetType
		warnings int
		reason   reason.Reason
	}{
		{name: "nothing", svc: withAnnotations()},
		{name: "blank values", svc: withAnnotations("fairlead.dev/addresses", " ", "fairlead.dev/pool", "")},
		{name: "addresses", svc: withAnnotations("fairlead.dev/addresses", "192.0.2.1, 2001:db8::1"), addrs: []string{"192.0.2.1", "2001:db8::1"}},
		{name: "under metallb.io", svc: withAnnotations("metallb.io/loadBalancerIPs", "192.0.2.1", "metallb.io/address-pool", "p"), addrs: []string{"192.0.2.1"}, pool: "p"},
		{name: "under metallb.universe.tf", svc: withAnnotations("metallb.universe.tf/loadBalancerIPs", "192.0.2.1", "metallb.universe.tf/address-pool", "p"), addrs: []string{"192.0.2.1"}, pool: "p"},
		{name: "the first prefix wins", svc: withAnnotations("metallb.universe.tf/address-pool", "c", "metallb.io/address-pool", "b", "fairlead.dev/pool", "a"), pool: "a", warnings: 2},
		{name: "the same twice", svc: withAnnotations("metallb.io/address-pool", "a", "fairlead.dev/pool", "a"), pool: "a"},
		{name: "a blank first prefix", svc: withAnnotations("metallb.io/address-pool", "a", "fairlead.dev/pool", ""), pool: "a"},
		{name: "MetalLB's knob under our prefix means nothing", svc: withAnnotations("fairlead.dev/address-pool", "a")},
		{name: "spec.loadBalancerIP", svc: lbip("192.0.2.1", withAnnotations()), addrs: []string{"192.0.2.1"}},
		{name: "both, alike", svc: lbip("192.0.2.1", withAnnotations("fairlead.dev/addresses", "2001:db8::1,192.0.2.1")), addrs: []string{"2001:db8::1", "192.0.2.1"}},
		{name: "both, not alike", svc: lbip("192.0.2.2", withAnnotations("fairlead.dev/addresses", "192.0.2.1")), reason: reason.ConflictingRequests},
		{name: "an IPv4-mapped address", svc: withAnnotations("fairlead.dev/addresses", "::ffff:192.0.2.1"), reason: reason.InvalidAnnotation},
		{name: "a zone", svc: withAnnotations("fairlead.dev/addresses", "fe80::1%eth0"), reason: reason.InvalidAnnotation},
		{name: "a trailing comma", svc: withAnnotations("fairlead.dev/addresses", "192.0.2.1,"), reason: reason.InvalidAnnotation},
		{name: "node-port", svc: withAnnotations("fairlead.dev/target-type", "node-port"), target: v1alpha1.TargetNodePort},
		{name: "another target type", svc: withAnnotations("fairlead.dev/target-type", "Pod"), reason: reason.InvalidAnnotation},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, fault := convert.Service(tt.svc)
			if tt.reason != "" || fault != nil {
				if fault == nil || fault.Reason != tt.reason || fault.Message == "" {
					t.Fatalf("fault %v, want reason %q", fault, tt.reason)
				}
				return
			}
			var addrs []string
			for _, a := range got.Pool.Addresses {
				addrs = append(addrs, a.String())
			}
			if diff := cmp.Diff(tt.addrs, addrs); diff != "" || got.Pool.Pool != tt.pool || got.TargetType != tt.target || len(got.Warnings) != tt.warnings {
				t.Errorf("asks for %v of %q as %s with %d warnings (-want +got):\n%s", addrs, got.Pool.Pool, got.TargetType, len(got.Warnings), diff)
			}
			for _, w := range got.Warnings {
				if w.Reason != reason.ConflictingAnnotations {
					t.Errorf("warning %s", w.Reason)
				}
			}
		})
	}
}

func TestServiceNeeds(t *testing.T) {
	t.Parallel()
	prefer := corev1.IPFamilyPolicyPreferDualStack
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "web", UID: "u", Labels: map[string]string{"a": "b"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &prefer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {Hostname: "x"}, {IP: "nonsense"}}}},
	}
	got, fault := convert.Service(svc)
	if fault != nil {
		t.Fatal(fault)
	}
	want := &convert.ServiceRequest{
		Pool: pool.Request{
			Service: convert.Key(svc), UID: "u", Labels: svc.Labels, Families: []pool.Family{pool.IPv6, pool.IPv4}, AnyFamily: true,
			Preferred: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Ports:     []pool.Port{{Protocol: "UDP", Number: 53}}, Backends: "u",
		},
		Ports:         []v1alpha1.Port{{Name: "dns", Protocol: "UDP", Port: 53, NodePort: 30053}},
		TrafficPolicy: v1alpha1.TrafficPolicyLocal,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	old := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "2001:db8::1"}}
	if got, _ := convert.Service(old); got.Pool.Families[0] != pool.IPv6 {
		t.Errorf("families of a Service without ipFamilies: %v", got.Pool.Families)
	}
}
