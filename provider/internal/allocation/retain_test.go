// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

func retaining(addresses ...string) *v1alpha1.IPAddressPool {
	p := newPool("a", addresses...)
	p.Spec.ReclaimPolicy = v1alpha1.ReclaimRetain
	p.Spec.RetainFor = &metav1.Duration{Duration: time.Hour}
	return p
}

func second(s *corev1.Service) { s.UID = "second-uid" }

// An address that is to be kept waits for a Service of the same name, and for nobody else.
func TestRetain(t *testing.T) { forBoth(t, testRetain) }

func testRetain(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(retaining("192.0.2.0/29"))
	l := newLeader(t, api, k)
	web := newService("web", 1, nil)
	l.mustGet(t, web, "192.0.2.0")
	if got := claimOf(t, api, "192.0.2.0").Spec.RetainFor; got == nil || got.Duration != time.Hour {
		t.Errorf("while bound: retainFor %v", got)
	}
	if err := l.remove(t, web); err != nil {
		t.Fatal(err)
	}
	c := claimOf(t, api, "192.0.2.0")
	if c.Spec.Phase != v1alpha1.ClaimRetained || c.Spec.RetainUntil == nil || c.Spec.Services[0].Name != "web" || len(api.AllRecords()) != 0 {
		t.Fatalf("after the end: %+v, %d records", c.Spec, len(api.AllRecords()))
	}
	if left := time.Until(c.Spec.RetainUntil.Time); left < 59*time.Minute || left > time.Hour {
		t.Errorf("kept for %s", left)
	}
	l.mustGet(t, newService("other", 2, nil), "192.0.2.1")
	l.mustFail(t, newService("thief", 3, annotate("fairlead.dev/addresses", "192.0.2.0")), reason.AddressRetained)
	again := newService("web", 4, second)
	l.mustGet(t, again, "192.0.2.0")
	c = claimOf(t, api, "192.0.2.0")
	if c.Spec.Phase != v1alpha1.ClaimBound || c.Spec.RetainUntil != nil || len(c.Spec.Services) != 1 || c.Spec.Services[0].UID != "second-uid" ||
		len(c.Spec.Successors) == 0 {
		t.Errorf("back again: %+v", c.Spec)
	}
	if rule := api.AllRecords()[2].Spec.Addresses[0].Rule; rule != v1alpha1.RuleRetained {
		t.Errorf("by rule %s", rule)
	}
}

// The Service's own word goes before the pool's, and what is kept follows both.
func TestRetainForIsKeptUpToDate(t *testing.T) { forBoth(t, testRetainForIsKeptUpToDate) }

func testRetainForIsKeptUpToDate(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	steps := []struct {
		name   string
		pool   *v1alpha1.IPAddressPool
		change func(*corev1.Service)
		want   time.Duration
	}{
		{name: "nobody wants it"},
		{name: "the Service does", change: annotate(v1alpha1.AnnotationReclaimPolicy, "Retain"), want: v1alpha1.DefaultRetainFor},
		{name: "both do", pool: retaining("192.0.2.0/29"), change: annotate(v1alpha1.AnnotationReclaimPolicy, "Retain"), want: time.Hour},
		{name: "only the pool does", want: time.Hour},
		{name: "the Service does not", change: annotate(v1alpha1.AnnotationReclaimPolicy, "Delete")},
	}
	for _, s := range steps {
		if s.pool != nil {
			api.PutPool(s.pool)
		}
		l.mustGet(t, newService("web", 1, s.change), "192.0.2.0")
		got := time.Duration(0)
		if r := claimOf(t, api, "192.0.2.0").Spec.RetainFor; r != nil {
			got = r.Duration
		}
		if got != s.want {
			t.Errorf("%s: kept for %s, want %s", s.name, got, s.want)
		}
	}
}

// Another address is another address: the old one is kept all the same.
func TestRetainOnMove(t *testing.T) { forBoth(t, testRetainOnMove) }

func testRetainOnMove(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(retaining("192.0.2.0/29"))
	l := newLeader(t, api, k)
	l.mustGet(t, newService("web", 1, nil), "192.0.2.0")
	l.mustGet(t, newService("web", 1, annotate("fairlead.dev/addresses", "192.0.2.5")), "192.0.2.5")
	if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimRetained {
		t.Errorf("the address left behind is %s", c.Spec.Phase)
	}
	l.mustGet(t, newService("web", 1, annotate("fairlead.dev/addresses", "192.0.2.0")), "192.0.2.0")
}

// A Service whose type changes lets its load balancer go; back again, it has it again.
func TestTypeChanges(t *testing.T) { forBoth(t, testTypeChanges) }

func testTypeChanges(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(retaining("192.0.2.0/29"))
	l := newLeader(t, api, k)
	web := newService("web", 1, nil)
	l.mustGet(t, web, "192.0.2.0")
	for range 2 {
		plain := api.Service("default", "web")
		plain.Spec.Type, plain.Spec.LoadBalancerClass, plain.Status = corev1.ServiceTypeClusterIP, nil, corev1.ServiceStatus{}
		api.PutService(plain)
		if k.class == "" {
			if err := l.alloc.Delete(quiet(t), api.Service("default", "web")); err != nil {
				t.Fatal(err)
			}
			plain.Finalizers = nil
			api.PutService(plain)
		}
		if _, err := l.sync(t, plain); err != nil {
			t.Fatal(err)
		}
		if got := api.Service("default", "web").Finalizers; len(got) != 0 {
			t.Errorf("finalizers %v", got)
		}
		if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimRetained || len(api.AllRecords()) != 0 {
			t.Errorf("claim is %s, %d records", c.Spec.Phase, len(api.AllRecords()))
		}
		l.mustGet(t, newService("web", 1, nil), "192.0.2.0")
	}
	if err := check(api, web); err != nil {
		t.Error(err)
	}
}
