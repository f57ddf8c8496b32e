// SPDX-License-Identifier: Apache-2.0

package churn

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

const a1, a2 = "192.0.2.1", "192.0.2.2"

func service(name string, addrs ...string) corev1.Service {
	svc := corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
	for _, a := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return svc
}

func claim(addr, svc string, phase v1alpha1.ClaimPhase) v1alpha1.IPClaim {
	return v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: addr},
		Spec: v1alpha1.IPClaimSpec{
			Address: addr, Phase: phase,
			Services: []v1alpha1.ServiceReference{{Name: svc, UID: types.UID("uid-" + svc)}},
		},
	}
}

func record(svc, addr string) v1alpha1.LoadBalancer {
	return v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Name: svc},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: types.UID("uid-" + svc),
			Addresses:  []v1alpha1.LoadBalancerAddress{{Address: addr, Claim: addr}},
		},
	}
}

func TestAuditFindsEveryFault(t *testing.T) {
	deleting := service("a", a1)
	deleting.DeletionTimestamp = &metav1.Time{}
	for _, tc := range []struct {
		name     string
		services []corev1.Service
		claims   []v1alpha1.IPClaim
		records  []v1alpha1.LoadBalancer
		want     string // part of the only fault; empty means none
	}{
		{
			name:     "all right",
			services: []corev1.Service{service("a", a1), service("b", a2)},
			claims:   []v1alpha1.IPClaim{claim(a1, "a", v1alpha1.ClaimBound), claim(a2, "b", v1alpha1.ClaimBound)},
			records:  []v1alpha1.LoadBalancer{record("a", a1), record("b", a2)},
		},
		{name: "nothing at all"},
		{name: "leaked claim", claims: []v1alpha1.IPClaim{claim(a1, "gone", v1alpha1.ClaimReleasing)}, want: "claim 192.0.2.1 (Releasing, for [gone (uid-gone)]) is leaked"},
		{name: "left record", records: []v1alpha1.LoadBalancer{record("gone", a1)}, want: "record gone is left"},
		{name: "no address", services: []corev1.Service{service("a")}, records: []v1alpha1.LoadBalancer{record("a", a1)}, want: "want one"},
		{
			name: "no claim", services: []corev1.Service{service("a", a1)},
			records: []v1alpha1.LoadBalancer{record("a", a1)}, want: "without a claim",
		},
		{
			name: "claim of a namesake", services: []corev1.Service{service("a", a1)},
			claims:  []v1alpha1.IPClaim{claim(a1, "b", v1alpha1.ClaimBound)},
			records: []v1alpha1.LoadBalancer{record("a", a1)}, want: "want Bound for a (uid-a)",
		},
		{
			name: "releasing though held", services: []corev1.Service{service("a", a1)},
			claims:  []v1alpha1.IPClaim{claim(a1, "a", v1alpha1.ClaimReleasing)},
			records: []v1alpha1.LoadBalancer{record("a", a1)}, want: "want Bound",
		},
		{
			name: "no record", services: []corev1.Service{service("a", a1)},
			claims: []v1alpha1.IPClaim{claim(a1, "a", v1alpha1.ClaimBound)}, want: "has no record",
		},
		{
			name: "record of another address", services: []corev1.Service{service("a", a1)},
			claims:  []v1alpha1.IPClaim{claim(a1, "a", v1alpha1.ClaimBound)},
			records: []v1alpha1.LoadBalancer{record("a", a2)}, want: "record a has",
		},
		{
			name: "stuck deletion", services: []corev1.Service{deleting},
			claims: nil, records: nil, want: "still being deleted",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Audit(tc.services, tc.claims, tc.records)
			switch {
			case tc.want == "" && len(got) != 0:
				t.Errorf("faults %q, want none", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)):
				t.Errorf("faults %q, want one with %q", got, tc.want)
			}
		})
	}
}

func TestHeldTwice(t *testing.T) {
	got := HeldTwice([]corev1.Service{service("a", a1), service("b", a2), service("c", a1)})
	if len(got) != 1 || !strings.Contains(got[0], "192.0.2.1 is held by a and by c") {
		t.Errorf("faults %q, want one about 192.0.2.1", got)
	}
	leaving := service("a", a1)
	leaving.DeletionTimestamp = &metav1.Time{}
	if got := HeldTwice([]corev1.Service{leaving, service("c", a1)}); len(got) != 0 {
		t.Errorf("faults %q, want none: a is being deleted", got)
	}
}
