// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

func keyOf(svc *corev1.Service) loadbalancer.ServiceKey { return convert.Key(svc) }

// A Service with the class gets our finalizer before its address, and loses it after; it
// is looked at as soon as it changes.
func TestFinalizer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/29"))
		l := newLeader(t, api, kind{v1alpha1.DefaultLoadBalancerClass})
		ctx, stop := context.WithCancel(quiet(t))
		defer stop()
		go func() { _ = l.ctl.Run(ctx) }()
		synctest.Wait()
		svc := newService("web", 1, nil)
		l.kind.dress(svc)
		before := time.Now()
		api.PutService(svc)
		synctest.Wait()
		now := api.Service("default", "web")
		if !slices.Equal(now.Finalizers, []string{v1alpha1.FinalizerService}) || len(now.Status.LoadBalancer.Ingress) != 1 {
			t.Errorf("finalizers %v, status %v", now.Finalizers, now.Status)
		}
		var order []string
		for _, c := range api.Log() {
			if c.Write() {
				order = append(order, c.Verb+" "+c.Object)
			}
		}
		want := []string{"patch service/default/web", "create claim/192.0.2.0", "create record/default/web", "patch service/default/web"}
		if !slices.Equal(order, want) {
			t.Errorf("writes %q", order)
		}
		api.EndService("default", "web")
		synctest.Wait()
		if api.Service("default", "web") != nil {
			t.Error("the finalizer keeps the Service")
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("it waited %s", took)
		}
		if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimReleasing || len(api.AllRecords()) != 0 {
			t.Errorf("the claim is %s, %d records", c.Spec.Phase, len(api.AllRecords()))
		}
	})
}

// Other classes, and Services without one where they are another's, are not touched.
func TestOthersAreNotTouched(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	class := "example.com/x"
	foreign := newService("foreign", 1, func(s *corev1.Service) { s.Spec.LoadBalancerClass, s.Finalizers = &class, nil })
	classless := newService("classless", 2, nil)
	l := newLeaderOf(t, api, kind{}, convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass})
	for _, svc := range []*corev1.Service{foreign, classless} {
		api.PutService(svc)
		if err := l.ctl.Sync(quiet(t), keyOf(svc)); err != nil {
			t.Error(err)
		}
		if _, err := l.alloc.Ensure(quiet(t), svc); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
			t.Errorf("Ensure of %s: %v", svc.Name, err)
		}
		if _, exists, err := l.alloc.Exists(quiet(t), svc); exists || err != nil {
			t.Errorf("%s exists: %v, %v", svc.Name, exists, err)
		}
	}
	for _, c := range api.Log() {
		if c.Write() {
			t.Errorf("wrote %v", c)
		}
	}
}

// What Services without a class have when they are left to another stays until they end.
func TestClasslessGivenUp(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	svc := newService("web", 1, nil)
	one := newLeader(t, api, kind{})
	one.mustGet(t, svc, "192.0.2.0")
	one.crash()
	before := len(writes(api))
	two := newLeaderOf(t, api, kind{}, convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass})
	if err := two.ctl.Sync(quiet(t), keyOf(svc)); err != nil {
		t.Fatal(err)
	}
	if got := writes(api)[before:]; len(got) != 0 {
		t.Errorf("wrote %q", got)
	}
	if _, exists, err := two.alloc.Exists(quiet(t), svc); !exists || err != nil {
		t.Errorf("exists: %v, %v", exists, err)
	}
	two.mustRemove(t, svc)
	if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Errorf("the claim is %s", c.Spec.Phase)
	}
}
