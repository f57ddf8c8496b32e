// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestServicePatch(t *testing.T) {
	t.Parallel()
	const head = `{"metadata":{"resourceVersion":"7","uid":"u"}`
	shows := func(ips ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			for _, ip := range ips {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
		}
	}
	finalizers := func(list ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Finalizers = list }
	}
	tests := []struct {
		name         string
		old, updated func(*corev1.Service)
		want         string
	}{
		{"nothing", shows("192.0.2.1"), shows("192.0.2.1"), head + `}`},
		{"an address", shows(), shows("192.0.2.1"), head + `,"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`},
		{"no address any more", shows("192.0.2.1"), shows(), head + `,"status":{"loadBalancer":{"ingress":null}}}`},
		{"a finalizer", finalizers("a"), finalizers("a", "b"), `{"metadata":{"finalizers":["a","b"],"resourceVersion":"7","uid":"u"}}`},
		{"no finalizer any more", finalizers("a"), finalizers(), `{"metadata":{"finalizers":null,"resourceVersion":"7","uid":"u"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			old := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: "7"}}
			updated := old.DeepCopy()
			tt.old(old)
			tt.updated(updated)
			got, err := servicePatch(old, updated)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}
