// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// disturb has the status of a record written just before the record itself is, once, so
// that the write is lost.
func disturb(t *testing.T, api *storetest.API, name string) {
	t.Helper()
	done := false
	api.OnCall(func(c storetest.Call) storetest.Outcome {
		if done || c.Verb != "update" || c.Object != "record/default/"+name {
			return storetest.Pass
		}
		done = true
		for _, r := range api.AllRecords() {
			if r.Name != name {
				continue
			}
			r.Status.Conditions = []metav1.Condition{{Type: "Announced", Status: metav1.ConditionTrue}}
			if _, err := api.Records("default").Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
		return storetest.Pass
	})
}

// Who takes an address over from a namesake keeps it when the record, whose status others
// write, changes meanwhile.
func TestAdoptionSurvivesALostRecordWrite(t *testing.T) {
	forBoth(t, testAdoptionSurvivesALostRecordWrite)
}

func testAdoptionSurvivesALostRecordWrite(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	l.mustGet(t, newService("first", 1, nil), "192.0.2.0")
	web := newService("web", 2, nil)
	l.mustGet(t, web, "192.0.2.1")
	l.mustRemove(t, newService("first", 1, nil))
	api.RemoveClaim("192.0.2.0")
	api.DeleteService(web)
	disturb(t, api, "web")
	l.mustGet(t, newService("web", 3, second), "192.0.2.1")
}

// The same for one that was retained.
func TestRetainedSurvivesALostRecordWrite(t *testing.T) {
	forBoth(t, testRetainedSurvivesALostRecordWrite)
}

func testRetainedSurvivesALostRecordWrite(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	until := metav1.Now()
	claim := &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.5"}, Spec: v1alpha1.IPClaimSpec{
		Address: "192.0.2.5", Pool: "a", Group: "192.0.2.5", Phase: v1alpha1.ClaimRetained, RetainUntil: &until,
		Services: []v1alpha1.ServiceReference{{Namespace: "default", Name: "web", UID: "imported"}},
	}}
	if _, err := api.Claims().Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rest := &v1alpha1.LoadBalancer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: v1alpha1.LoadBalancerSpec{ServiceUID: "imported"}}
	if _, err := api.Records("default").Create(t.Context(), rest, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l := newLeader(t, api, k)
	disturb(t, api, "web")
	l.mustGet(t, newService("web", 1, nil), "192.0.2.5")
}

// The service controller reports the end of a Service that it sees replaced: what the
// namesake is about to take over waits for it.
func TestEndOfAReplacedService(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, kind{})
	l.mustGet(t, newService("first", 1, nil), "192.0.2.0")
	web := newService("web", 2, nil)
	l.mustGet(t, web, "192.0.2.1")
	l.mustRemove(t, newService("first", 1, nil))
	api.RemoveClaim("192.0.2.0")
	old := api.Service("default", "web")
	api.DeleteService(old)
	again := newService("web", 3, second)
	api.PutService(again)
	if err := l.alloc.Delete(quiet(t), old); err != nil {
		t.Fatal(err)
	}
	l.mustGet(t, again, "192.0.2.1")
	if err := check(api, again); err != nil {
		t.Error(err)
	}
}

// An external IP of a Service that is gone is no load balancer address of its namesake.
func TestExternalIPIsNotInherited(t *testing.T) { forBoth(t, testExternalIPIsNotInherited) }

func testExternalIPIsNotInherited(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	api.PutPolicy(grant("default", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	web := plain("web", 80, "192.0.2.0")
	l.mustGet(t, web)
	wantListed(t, api, "web", "192.0.2.0 ExternalIP")
	api.DeleteService(web)
	l.mustGet(t, newService("web", 2, second), "192.0.2.1")
	wantListed(t, api, "web", "192.0.2.1 AutoAssign")
}

// As many Services as a claim can name share an address; the next gets another one.
func TestFullAddress(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, kind{})
	for i := range 256 {
		l.mustGet(t, shares(fmt.Sprintf("s%03d", i), i, "k", int32(i+1)), "192.0.2.0")
	}
	l.mustGet(t, shares("more", 300, "k", 300), "192.0.2.1")
	l.mustGet(t, shares("s000", 0, "k", 1), "192.0.2.0")
	if n := len(claimOf(t, api, "192.0.2.0").Spec.Services); n != 256 {
		t.Errorf("%d Services on the first", n)
	}
}

// A claim whose creation was answered by silence may be of an older version of the
// Service: what it has by now must be in it, or others join on its ports.
func TestLostAnswerOfAnOlderService(t *testing.T) { forBoth(t, testLostAnswerOfAnOlderService) }

func testLostAnswerOfAnOlderService(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	api.Hold() // the caches lag behind
	api.OnCall(func(c storetest.Call) storetest.Outcome {
		if c.Verb == "create" {
			return storetest.FailAfter
		}
		return storetest.Pass
	})
	svc := shares("web", 1, "k", 80)
	k.dress(svc)
	l.store.ObserveService(svc)
	if k.class != "" {
		svc.Finalizers = []string{v1alpha1.FinalizerService}
		l.store.ObserveService(svc)
	}
	_, _ = l.alloc.Ensure(quiet(t), svc)
	api.OnCall(nil)
	svc = svc.DeepCopy()
	svc.Spec.Ports[0].Port = 81
	if _, err := l.alloc.Ensure(quiet(t), svc); err != nil {
		t.Fatal(err)
	}
	if got := claimOf(t, api, "192.0.2.0").Spec.Services[0].Ports; len(got) != 1 || got[0].Port != 81 {
		t.Errorf("claim has ports %v", got)
	}
}

// A Service that cannot be served as it asks keeps what it holds, also when somebody
// deletes its claim.
func TestLostClaimOfAFailingService(t *testing.T) { forBoth(t, testLostClaimOfAFailingService) }

func testLostClaimOfAFailingService(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	l.mustGet(t, newService("web", 1, nil), "192.0.2.0")
	failing := api.Service("default", "web")
	failing.Annotations = map[string]string{"fairlead.dev/pool": "none"}
	_, _ = l.ensure(t, failing)
	wantListed(t, api, "web", "192.0.2.0 AutoAssign")
	api.RemoveClaim("192.0.2.0")
	failing = api.Service("default", "web")
	_, _ = l.ensure(t, failing)
	wantListed(t, api, "web", "192.0.2.0 AutoAssign")
	if !slices.ContainsFunc(api.AllClaims(), func(c *v1alpha1.IPClaim) bool { return c.Name == "192.0.2.0" }) {
		t.Error("the claim is lost")
	}
}

// A namesake that cannot be served for the moment does not lose what it may take over.
func TestHeritageWaitsForAFailingNamesake(t *testing.T) {
	forBoth(t, testHeritageWaitsForAFailingNamesake)
}

func testHeritageWaitsForAFailingNamesake(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	web := newService("web", 1, annotate("fairlead.dev/addresses", "192.0.2.5"))
	l.mustGet(t, web, "192.0.2.5")
	api.DeleteService(web)
	if _, err := l.ensure(t, newService("web", 2, func(s *corev1.Service) {
		second(s)
		s.Annotations = map[string]string{"fairlead.dev/pool": "none"}
	})); err == nil {
		t.Error("it does not fail")
	}
	l.mustGet(t, newService("web", 2, second), "192.0.2.5")
}

// Services that share an address and come back from a backup, under other UIDs, share it
// again, in whatever order they come.
func TestSharersComeBack(t *testing.T) { forBoth(t, testSharersComeBack) }

func testSharersComeBack(t *testing.T, k kind) {
	t.Helper()
	for _, lost := range []bool{false, true} {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/29"))
		l := newLeader(t, api, k)
		names := []string{"a", "b", "c"}
		for i, name := range names {
			l.mustGet(t, shares(name, i, "k", int32(80+i)), "192.0.2.0")
		}
		for _, name := range names {
			api.DeleteService(api.Service("default", name))
		}
		var back []*corev1.Service
		for i := range names {
			i = len(names) - 1 - i
			svc := shares(names[i], 10-i, "k", int32(80+i), func(s *corev1.Service) { s.UID = types.UID("back-" + names[i]) })
			back = append(back, svc)
			if lost {
				disturb(t, api, names[i])
			}
			l.mustGet(t, svc, "192.0.2.0")
		}
		api.OnCall(nil)
		if err := check(api, back...); err != nil {
			t.Error(err)
		}
	}
}
