// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// plain returns a Service of type ClusterIP with external IPs.
func plain(name string, port int32, ips ...string) *corev1.Service {
	return newService(name, 1, func(s *corev1.Service) {
		s.Spec.Type, s.Finalizers, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, nil, ips
		s.Spec.Ports[0].Port = port
	})
}

func grant(namespace string, ranges ...string) *v1alpha1.ExternalIPPolicy {
	return &v1alpha1.ExternalIPPolicy{Spec: v1alpha1.ExternalIPPolicySpec{
		Grants: []v1alpha1.ExternalIPGrant{{Namespaces: []string{namespace}, Ranges: ranges}},
	}}
}

// listed returns the addresses of a Service's record with their rules.
func listed(api *storetest.API, name string) []string {
	for _, r := range api.AllRecords() {
		if r.Name == name {
			out := []string{}
			for _, a := range r.Spec.Addresses {
				out = append(out, fmt.Sprintf("%s %s", a.Address, a.Rule))
			}
			return out
		}
	}
	return nil
}

func wantListed(t *testing.T, api *storetest.API, name string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, listed(api, name)); diff != "" {
		t.Errorf("record of %s (-want +got):\n%s", name, diff)
	}
}

func TestExternalIPs(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "192.0.2.0/25", "198.51.100.0/24"))
	l := newLeader(t, api, kind{})
	web := plain("web", 80, "192.0.2.7", "198.51.100.1", "192.0.2.200")
	l.mustGet(t, web)
	wantListed(t, api, "web", "192.0.2.7 ExternalIP", "198.51.100.1 ExternalIP")
	if c := claimOf(t, api, "198.51.100.1"); c.Spec.Pool != "" || c.Spec.Phase != v1alpha1.ClaimBound {
		t.Errorf("the claim outside every pool is %s of pool %q", c.Spec.Phase, c.Spec.Pool)
	}
	if told := l.told(); len(told) != 2 || !strings.HasPrefix(told[1], "Warning "+reason.ExternalIPNotGranted.String()+" ") {
		t.Errorf("told %q", told)
	}
	if got := l.ann.failed[keyOf(web)]; got != reason.ExternalIPNotGranted {
		t.Errorf("condition %s", got)
	}
	// Others may be there with other ports, without any key; and not with the same one.
	dns, clash := plain("dns", 53, "192.0.2.7"), plain("clash", 80, "192.0.2.7", "192.0.2.8")
	l.mustGet(t, dns)
	l.mustGet(t, clash)
	wantListed(t, api, "dns", "192.0.2.7 ExternalIP")
	wantListed(t, api, "clash", "192.0.2.8 ExternalIP")
	if got := l.ann.failed[keyOf(clash)]; got != reason.ExternalIPInUse {
		t.Errorf("condition of the clash %s", got)
	}
	l.mustFail(t, newService("lb", 2, annotate("fairlead.dev/addresses", "192.0.2.7")), reason.AddressInUse)
	if err := check(api, web, dns, clash, newService("lb", 2, nil)); err != nil {
		t.Error(err)
	}
	// The record goes with the last of them, and their claims.
	web.Spec.ExternalIPs = nil
	l.mustGet(t, web)
	if got := listed(api, "web"); got != nil {
		t.Errorf("the record still lists %q", got)
	}
	if got := tenants(claimOf(t, api, "192.0.2.7")); !slices.Contains(got, "dns") || slices.Contains(got, "web") {
		t.Errorf("tenants %v", got)
	}
}

// Grants given and withdrawn are noticed without the Service's help.
func TestGrantsChange(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newLeader(t, api, kind{})
	web := plain("web", 80, "192.0.2.7")
	l.mustGet(t, web)
	wantListed(t, api, "web", []string{}...)
	if len(api.AllClaims()) != 0 {
		t.Error("claimed without a grant")
	}
	api.PutPolicy(grant("default", "192.0.2.7/32"))
	l.mustGet(t, web)
	wantListed(t, api, "web", "192.0.2.7 ExternalIP")
	if _, still := l.ann.failed[keyOf(web)]; still {
		t.Error("the condition is still false")
	}
	api.PutPolicy(grant("other", "192.0.2.7/32"))
	l.mustGet(t, web)
	wantListed(t, api, "web", []string{}...)
	if c := claimOf(t, api, "192.0.2.7"); c.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Errorf("the claim is %s", c.Spec.Phase)
	}
	if got := l.ann.failed[keyOf(web)]; got != reason.ExternalIPNotGranted {
		t.Errorf("condition %s", got)
	}
}

// External IPs stand beside the load balancer: neither stops the other, the status shows
// the load balancer only, and they stay when the type changes.
func TestExternalIPsBesideALoadBalancer(t *testing.T) { forBoth(t, testExternalIPsBeside) }

func testExternalIPsBeside(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "192.0.2.100/32"))
	l := newLeader(t, api, k)
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.100", "192.0.2.101"} }
	web := newService("web", 1, external)
	l.mustGet(t, web, "192.0.2.0")
	wantListed(t, api, "web", "192.0.2.0 AutoAssign", "192.0.2.100 ExternalIP")
	if got := l.ann.failed[keyOf(web)]; got != reason.ExternalIPNotGranted {
		t.Errorf("condition %q", got)
	}
	bad := newService("bad", 2, func(s *corev1.Service) {
		external(s)
		s.Spec.Ports[0].Port = 81
		annotate("fairlead.dev/pool", "none")(s)
	})
	if _, err := l.ensure(t, bad); err == nil {
		t.Error("a pool that is not there gave an address")
	}
	wantListed(t, api, "bad", "192.0.2.100 ExternalIP")
	if err := check(api, web, bad); err != nil {
		t.Error(err)
	}
	now := api.Service("default", "web")
	now.Spec.Type, now.Spec.LoadBalancerClass, now.Status = corev1.ServiceTypeClusterIP, nil, corev1.ServiceStatus{}
	api.PutService(now)
	if k.class == "" {
		if err := l.alloc.Delete(quiet(t), now); err != nil {
			t.Fatal(err)
		}
		now.Finalizers = nil
		api.PutService(now)
	}
	if _, err := l.sync(t, now); err != nil {
		t.Fatal(err)
	}
	wantListed(t, api, "web", "192.0.2.100 ExternalIP")
	if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Errorf("the load balancer's claim is %s", c.Spec.Phase)
	}
}

// A record lists no more addresses than its schema allows.
func TestTooManyExternalIPs(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "192.0.2.0/24"))
	l := newLeader(t, api, kind{})
	var ips []string
	for i := range 40 {
		ips = append(ips, fmt.Sprintf("192.0.2.%d", i+100))
	}
	web := newService("web", 1, func(s *corev1.Service) { s.Spec.ExternalIPs = ips })
	l.mustGet(t, web, "192.0.2.0")
	if got := listed(api, "web"); len(got) != 32 {
		t.Errorf("%d addresses: %q", len(got), got)
	}
	if err := check(api, web); err != nil {
		t.Error(err)
	}
}

// An external IP stays its Service's when its pool is deleted, or cannot be understood
// any more, as a load balancer's address does.
func TestExternalIPOutlivesItsPool(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "192.0.2.7/32"))
	l := newLeader(t, api, kind{})
	web := plain("web", 80, "192.0.2.7")
	l.mustGet(t, web)
	api.PutPool(newPool("a", "192.0.2.0/99"))
	before := len(writes(api))
	l.mustGet(t, web)
	wantListed(t, api, "web", "192.0.2.7 ExternalIP")
	if c := claimOf(t, api, "192.0.2.7"); c.Spec.Phase != v1alpha1.ClaimBound || c.Spec.Pool != "a" {
		t.Errorf("the claim is %s of pool %q", c.Spec.Phase, c.Spec.Pool)
	}
	if now := writes(api)[before:]; len(now) != 0 {
		t.Errorf("it wrote %q", now)
	}
	// Others may join it: it is an address outside of all pools now.
	l.mustGet(t, plain("late", 81, "192.0.2.7"))
	wantListed(t, api, "late", "192.0.2.7 ExternalIP")
	api.PutPolicy(grant("default", "192.0.2.8/32"))
	l.mustGet(t, web)
	if got := listed(api, "web"); len(got) != 0 {
		t.Errorf("without a grant it keeps %q", got)
	}
}
