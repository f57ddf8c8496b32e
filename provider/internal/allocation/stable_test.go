// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// touch has an agent or a condition write a status, so that versions in caches are old.
func touch(t *testing.T, api *storetest.API, n int) {
	t.Helper()
	for i, c := range api.AllClaims() {
		if i%2 == n%2 {
			c.Status.Owner = &v1alpha1.Owner{Node: fmt.Sprintf("n%d", n)}
			if _, err := api.Claims().Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
	for i, r := range api.AllRecords() {
		if i%2 == n%2 {
			r.Status.Conditions = []metav1.Condition{{Type: "Announced", Message: fmt.Sprint(n)}}
			if _, err := api.Records(r.Namespace).Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
}

// others returns a hook under which others write statuses just before some updates.
func others(t *testing.T, api *storetest.API, seed uint64) func(storetest.Call) storetest.Outcome {
	t.Helper()
	pick, inside := trouble(seed), false
	return func(c storetest.Call) storetest.Outcome {
		if !inside && c.Verb == "update" && pick(c) != storetest.Pass {
			inside = true
			touch(t, api, 0)
			touch(t, api, 1)
			inside = false
		}
		return storetest.Pass
	}
}

// A Service that does not change keeps its addresses, whatever others do, whichever calls
// fail, whenever leaders die and caches lag; so does a namesake that follows it. When
// all is quiet nothing is written.
func TestUnchangedServicesKeepTheirAddresses(t *testing.T) { forBoth(t, testUnchangedServicesKeep) }

func testUnchangedServicesKeep(t *testing.T, k kind) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/28", "2001:db8::/124"))
		api.PutPolicy(grant("default", "192.0.2.8/31"))
		l := newLeader(t, api, k)
		defer func() { l.crash() }()
		alive, had := make(map[string]*corev1.Service), make(map[string][]string)
		look := func(svc *corev1.Service) {
			got, err := l.ensure(t, svc.DeepCopy())
			if err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) || len(got) == 0 {
				return
			}
			if before, known := had[svc.Name]; known && !slices.Equal(before, got) {
				rt.Fatalf("%s had %v and got %v", svc.Name, before, got)
			}
			had[svc.Name] = got
		}
		for step := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "lag") {
				api.Hold()
			} else {
				api.Deliver()
			}
			if rapid.IntRange(0, 2).Draw(rt, "trouble") == 0 {
				api.OnCall(trouble(rapid.Uint64().Draw(rt, "seed")))
			}
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "service")
			svc := alive[name]
			what := rapid.IntRange(0, 7).Draw(rt, "what")
			switch {
			case what == 0:
				l.crash()
				api.OnCall(nil)
				l = newLeader(t, api, k)
			case what == 1:
				api.OnCall(nil)
				touch(t, api, step)
			case what == 2:
				api.Deliver()
				endQuarantine(api)
			case svc == nil:
				svc = drawService(rt, name, types.UID(fmt.Sprintf("%s-%d", name, step)))
				if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
					break
				}
				alive[name] = svc
				look(svc)
			case what == 3 && had[name] != nil && svc.Annotations[v1alpha1.AnnotationAddressCount] == "":
				api.Deliver()
				api.OnCall(others(t, api, rapid.Uint64().Draw(rt, "seed of others")))
				api.DeleteService(svc)
				svc = svc.DeepCopy()
				svc.UID = types.UID(fmt.Sprintf("%s-%d", name, step))
				alive[name] = svc
				look(svc)
			case what == 4:
				api.OnCall(nil)
				api.Deliver()
				if err := l.remove(t, svc); err == nil {
					delete(alive, name)
					delete(had, name)
				}
			default:
				status := api.Service("default", name)
				if status != nil && status.UID == svc.UID {
					svc = svc.DeepCopy()
					svc.Status, svc.Finalizers = status.Status, status.Finalizers
				}
				look(svc)
			}
			api.OnCall(nil)
		}
		api.Deliver()
		for range 3 {
			for _, name := range slices.Sorted(maps.Keys(alive)) {
				look(alive[name])
			}
		}
		before := len(api.Log())
		for _, name := range slices.Sorted(maps.Keys(alive)) {
			for range 2 {
				if err := l.ctl.Sync(quiet(t), keyOf(alive[name])); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for _, c := range api.Log()[before:] {
			if c.Write() {
				rt.Fatalf("in peace: %s %s", c.Verb, c.Object)
			}
		}
	})
}
