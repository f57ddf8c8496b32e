// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// world is one Service with one address, all in order; each test spoils it.
func world() *World {
	svc, claim := shows(1, "a", 80, addr), holds(1, "Bound", tenant("a", 80))
	return &World{
		Services: []*Service{svc.Service}, Claims: []*Claim{claim.Claim},
		Records: []*Record{{Key: "ns/a", UID: "uid-a", Addresses: map[string]string{addr: "AutoAssign"}}},
		Pools: []v1alpha1.IPAddressPool{{
			ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.0/24"}},
			Status: v1alpha1.IPAddressPoolStatus{AssignedIPv4: 1},
		}},
		Now: time.Unix(1000, 0),
	}
}

func TestAuditFindsEveryFault(t *testing.T) {
	asks := func(w *World, address string) {
		w.Services[0].Annotations = map[string]string{v1alpha1.PrefixFairlead + v1alpha1.KnobAddresses: address}
	}
	waits := func(w *World, reason string) {
		w.Services[0].Shown, w.Claims, w.Pools[0].Status.AssignedIPv4 = nil, nil, 0
		w.Records[0].Addresses, w.Records[0].Reason = nil, reason
	}
	for _, tc := range []struct {
		name  string
		spoil func(*World)
		want  string // part of the only fault; empty means none
	}{
		{"all right", func(*World) {}, ""},
		{"nothing at all", func(w *World) { *w = World{} }, ""},
		{"stuck deletion", func(w *World) { *w = World{Services: w.Services}; w.Services[0].Leaving = true }, "still being deleted"},
		{"no record", func(w *World) { w.Records, w.Claims, w.Pools = nil, nil, nil }, "has no record"},
		{"record without a service", func(w *World) { *w = World{Records: w.Records} }, "left without a Service"},
		{"claim without a service", func(w *World) { *w = World{Claims: w.Claims} }, "leaked"},
		{"claim of a tenant that went", func(w *World) { w.Claims[0].Tenants = append(w.Claims[0].Tenants, tenant("b", 81)) }, "ns/b does not have it: leaked"},
		{"claim being released", func(w *World) { *w = World{Claims: w.Claims}; w.Claims[0].Phase = "Releasing" }, "is left"},
		{"claim kept", func(w *World) {
			*w = World{Claims: w.Claims, Now: w.Now}
			w.Claims[0].Phase, w.Claims[0].RetainUntil = "Retained", w.Now.Add(time.Second)
		}, ""},
		{"claim kept too long", func(w *World) {
			*w = World{Claims: w.Claims, Now: w.Now}
			w.Claims[0].Phase, w.Claims[0].RetainUntil = "Retained", w.Now.Add(-time.Second)
		}, "after its deadline"},
		{"claim with old ports", func(w *World) { w.Claims[0].Tenants[0].Ports[0].Port = 81 }, "claim 192.0.2.1"},
		{"status without record", func(w *World) { w.Services[0].Shown = []string{addr, "fd00::1"} }, "fd00::1"},
		{"counter", func(w *World) { w.Pools[0].Status.AssignedIPv4 = 2 }, "counts 2 and 0"},
		{"too few without reason", func(w *World) { waits(w, "") }, "without a reason"},
		{"too few though there is room", func(w *World) { waits(w, "PoolExhausted") }, "though the pools have room"},
		{"asked for and free", func(w *World) { waits(w, "AddressInUse"); asks(w, "192.0.2.9") }, "and free"},
		{"reason without need", func(w *World) { w.Records[0].Reason = "PoolExhausted" }, "lacks nothing"},
		{"not a load balancer", func(w *World) { *w = World{Services: w.Services}; w.Services[0].Balanced = false }, "not of type LoadBalancer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := world()
			tc.spoil(w)
			got := Audit(w)
			switch {
			case tc.want == "" && len(got) != 0:
				t.Errorf("faults %q, want none", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)):
				t.Errorf("faults %q, want one with %q", got, tc.want)
			}
		})
	}
}
