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

	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// What of claims and records is lost while no controller runs, all or some: Services get
// back what they show, and external IPs, before anybody else gets an address.
func TestRestore(t *testing.T) { forBoth(t, testRestore) }

func testRestore(t *testing.T, k kind) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/28", "2001:db8::/124"))
		api.PutPolicy(grant("default", "192.0.2.8/31"))
		one := newLeader(t, api, k)
		alive := make(map[string]*corev1.Service)
		for i := range rapid.IntRange(1, 8).Draw(rt, "services") {
			svc := drawService(rt, fmt.Sprintf("s%d", i), types.UID(fmt.Sprintf("u%d", i)))
			svc.CreationTimestamp = metav1.Unix(int64(i), 0)
			alive[svc.Name] = svc
			_, _ = one.ensure(t, svc)
		}
		for _, name := range slices.Sorted(maps.Keys(alive)) { // some leave, so that numbers have gaps
			if rapid.IntRange(0, 3).Draw(rt, "leaves") == 0 && alive[name].Spec.Type == corev1.ServiceTypeLoadBalancer {
				if err := one.remove(t, alive[name]); err != nil {
					rt.Fatal(err)
				}
				delete(alive, name)
			}
		}
		for _, svc := range alive {
			if _, err := one.ensure(t, api.Service("default", svc.Name)); err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
				rt.Fatal(err)
			}
		}
		endQuarantine(api)
		one.crash()
		had := make(map[string][]string)
		lists := make(map[string][]string)
		for name := range alive {
			had[name] = ips(&api.Service("default", name).Status.LoadBalancer)
			lists[name] = listed(api, name)
		}
		claimsToo := rapid.IntRange(0, 2).Draw(rt, "claims")
		recordsToo := rapid.IntRange(0, 2).Draw(rt, "records")
		for _, c := range api.AllClaims() {
			if claimsToo == 0 || claimsToo == 1 && rapid.Bool().Draw(rt, "this claim") {
				api.RemoveClaim(c.Name)
			}
		}
		for _, r := range api.AllRecords() {
			if recordsToo == 0 || recordsToo == 1 && rapid.Bool().Draw(rt, "this record") {
				if err := api.Records("default").Delete(t.Context(), r.Name, metav1.DeleteOptions{}); err != nil {
					rt.Fatal(err)
				}
			}
		}
		two := newLeader(t, api, k)
		defer two.crash()
		for _, name := range rapid.Permutation(slices.Sorted(maps.Keys(alive))).Draw(rt, "order") {
			svc := api.Service("default", name)
			_, err := two.ensure(t, svc)
			if err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
				rt.Fatal(err)
			}
		}
		for name := range alive {
			now := api.Service("default", name)
			if got := ips(&now.Status.LoadBalancer); len(had[name]) > 0 && !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(had[name]))) {
				rt.Fatalf("%s had %v (%v), got %v; claims %d records %d", name, had[name], lists[name], got, claimsToo, recordsToo)
			}
			if l := listed(api, name); recordsToo == 2 && len(l) < len(lists[name]) {
				rt.Fatalf("%s listed %v, lists %v", name, lists[name], l)
			}
		}
		var live []*corev1.Service
		for _, svc := range alive {
			live = append(live, svc)
		}
		if err := check(api, live...); err != nil {
			rt.Fatal(err)
		}
	})
}
