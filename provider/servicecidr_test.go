// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// ServiceCIDRs are watched where there are any, and done without where there are none.
func TestServiceCIDRs(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"a server that has them": true, "a server that has none": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), logr.Discard()), 10*time.Second)
			defer cancel()
			kube := fake.NewClientset(&corev1.Namespace{}, &networkingv1.ServiceCIDR{
				ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}},
			})
			resources := []metav1.APIResource{{Name: "ingresses"}}
			if known {
				resources = append(resources, metav1.APIResource{Name: "servicecidrs"})
			}
			kube.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1", APIResources: resources}}
			p := &Provider{kube: kube, store: store.New(store.Options{})}
			synced, err := p.watchServiceCIDRs(ctx)
			if err != nil || (len(synced) == 1) != known {
				t.Fatalf("%d to wait for, %v", len(synced), err)
			}
			if !cache.WaitForCacheSync(ctx.Done(), synced...) {
				t.Fatal("not synced")
			}
			p.store.ObservePool(&v1alpha1.IPAddressPool{
				ObjectMeta: metav1.ObjectMeta{Name: "a", CreationTimestamp: metav1.Now()}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.96.0.0/24"}},
			})
			fault := p.store.Pools()[0].Fault
			if refused := fault != nil && fault.Reason == reason.OverlapsServiceRange; refused != known {
				t.Errorf("a pool in the range: %v", fault)
			}
		})
	}
}
