// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

const keyKnob = v1alpha1.PrefixFairlead + v1alpha1.KnobSharingKey

// shares returns a Service that shares by a key, with one TCP port.
func shares(name string, number int, key string, port int32, change ...func(*corev1.Service)) *corev1.Service {
	return newService(name, number, func(s *corev1.Service) {
		s.Annotations = map[string]string{keyKnob: key}
		s.Spec.Ports[0].Port = port
		for _, c := range change {
			c(s)
		}
	})
}

func asks(addr string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations["fairlead.dev/addresses"] = addr }
}

func dual(s *corev1.Service) {
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
}

// mustGet ensures a Service and wants these addresses.
func (l *leader) mustGet(t *testing.T, svc *corev1.Service, want ...string) {
	t.Helper()
	got, err := l.ensure(t, svc)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s got %v, %v, want %v", svc.Name, got, err, want)
	}
}

// mustFail ensures a Service and wants it to fail for a reason, told once.
func (l *leader) mustFail(t *testing.T, svc *corev1.Service, why reason.Reason) {
	t.Helper()
	l.told()
	for range 2 {
		if _, err := l.ensure(t, svc); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
			t.Errorf("%s: %v, want a failure", svc.Name, err)
		}
	}
	if told := l.told(); len(told) != 1 || !strings.HasPrefix(told[0], "Warning "+why.String()+" ") {
		t.Errorf("%s: told %q, want one %s", svc.Name, told, why)
	}
}

// mustRemove deletes Services.
func (l *leader) mustRemove(t *testing.T, services ...*corev1.Service) {
	t.Helper()
	for _, svc := range services {
		if err := l.remove(t, svc); err != nil {
			t.Fatal(err)
		}
	}
}

func claimOf(t *testing.T, api *storetest.API, name string) *v1alpha1.IPClaim {
	t.Helper()
	for _, c := range api.AllClaims() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no claim %s", name)
	return nil
}

func tenants(c *v1alpha1.IPClaim) []string {
	var out []string
	for _, r := range c.Spec.Services {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	return out
}

func TestSharing(t *testing.T) { forBoth(t, testSharing) }

func testSharing(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	web, dns := shares("web", 1, "k", 80), shares("dns", 2, "k", 53)
	l.mustGet(t, web, "192.0.2.0")
	l.mustGet(t, dns, "192.0.2.0")
	if rule := api.AllRecords()[0].Spec.Addresses[0].Rule; rule != v1alpha1.RuleShared {
		t.Errorf("dns came by rule %s", rule)
	}
	c := claimOf(t, api, "192.0.2.0")
	if got := tenants(c); !slices.Equal(got, []string{"dns", "web"}) || c.Spec.SharingKey != "k" {
		t.Errorf("tenants %v, key %q", got, c.Spec.SharingKey)
	}
	clash, stranger := shares("clash", 3, "k", 80, asks("192.0.2.0")), shares("stranger", 4, "other", 81, asks("192.0.2.0"))
	l.mustFail(t, clash, reason.PortInUse)
	l.mustFail(t, stranger, reason.SharingKeyMismatch)
	local := shares("local", 5, "k", 82, asks("192.0.2.0"), func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	l.mustFail(t, local, reason.BackendsDiffer)
	l.mustRemove(t, clash, stranger, local)
	l.mustGet(t, shares("second", 6, "k", 80), "192.0.2.1") // the port is taken: another address
	l.mustRemove(t, web)
	if got := tenants(claimOf(t, api, "192.0.2.0")); !slices.Equal(got, []string{"dns"}) {
		t.Errorf("after web has left: %v", got)
	}
	l.mustRemove(t, dns)
	if c := claimOf(t, api, "192.0.2.0"); c.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Errorf("after the last has left: %s", c.Spec.Phase)
	}
}

// A Service that changes so that it does not fit any more leaves, and the others stay.
func TestMisfitLeaves(t *testing.T) { forBoth(t, testMisfitLeaves) }

func testMisfitLeaves(t *testing.T, k kind) {
	t.Helper()
	changes := map[string]struct {
		change *corev1.Service
		want   reason.Reason
	}{
		"port":   {shares("b", 2, "k", 80), reason.PortInUse},
		"key":    {shares("b", 2, "other", 81), reason.SharingKeyMismatch},
		"no key": {newService("b", 2, func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }), reason.SharingKeyMismatch},
		"policy": {shares("b", 2, "k", 81, func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), reason.BackendsDiffer},
	}
	for name, tt := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := storetest.New()
			api.PutPool(newPool("a", "192.0.2.0/29"))
			l := newLeader(t, api, k)
			a := shares("a", 1, "k", 80)
			l.mustGet(t, a, "192.0.2.0")
			l.mustGet(t, shares("b", 2, "k", 81), "192.0.2.0")
			l.told()
			l.mustGet(t, tt.change, "192.0.2.1")
			l.mustGet(t, tt.change, "192.0.2.1")
			told := l.told()
			if len(told) != 2 || !strings.Contains(strings.Join(told, "\n"), "Warning "+tt.want.String()+" ") {
				t.Errorf("told %q", told)
			}
			l.mustGet(t, a, "192.0.2.0")
			if err := check(api, a, tt.change); err != nil {
				t.Error(err)
			}
		})
	}
}

// A misfit that asks for the very address loses it, in record and status too.
func TestMisfitThatAsksIsLeftWithNothing(t *testing.T) { forBoth(t, testMisfitThatAsks) }

func testMisfitThatAsks(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	a := shares("a", 1, "k", 80)
	l.mustGet(t, a, "192.0.2.0")
	l.mustGet(t, shares("b", 2, "k", 81, asks("192.0.2.0")), "192.0.2.0")
	b := api.Service("default", "b")
	b.Spec.Ports[0].Port = 80
	l.mustFail(t, b, reason.PortInUse)
	if _, err := l.sync(t, b); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
		t.Error(err)
	}
	if got := ips(&api.Service("default", "b").Status.LoadBalancer); len(got) != 0 {
		t.Errorf("the status still shows %v", got)
	}
	if err := check(api, a, b); err != nil {
		t.Error(err)
	}
	if r := api.AllRecords()[1]; r.Name != "b" || len(r.Spec.Addresses) != 0 {
		t.Errorf("record %s lists %v", r.Name, r.Spec.Addresses)
	}
	b.Spec.Ports[0].Port = 82
	l.mustGet(t, b, "192.0.2.0")
}

// A Service alone on an address may change everything.
func TestSoleTenantChanges(t *testing.T) { forBoth(t, testSoleTenantChanges) }

func testSoleTenantChanges(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	for _, key := range []string{"one", "two", ""} {
		l.mustGet(t, shares("a", 1, key, 80), "192.0.2.0")
		if got := claimOf(t, api, "192.0.2.0").Spec.SharingKey; got != key {
			t.Errorf("sharing key %q, want %q", got, key)
		}
	}
}

// Claims linked by Services are one group, and fall apart when the link goes.
func TestGroups(t *testing.T) { forBoth(t, testGroups) }

func testGroups(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29", "2001:db8::/125"))
	l := newLeader(t, api, k)
	six := func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }
	low, high := shares("low", 1, "k", 80), shares("high", 2, "k", 80, six)
	l.mustGet(t, low, "192.0.2.0")
	l.mustGet(t, high, "2001:db8::")
	bridge := shares("bridge", 3, "k", 81, dual)
	l.mustGet(t, bridge, "192.0.2.0", "2001:db8::")
	v6 := "2001-0db8-0000-0000-0000-0000-0000-0000"
	if got := claimOf(t, api, v6).Spec.Group; got != "192.0.2.0" {
		t.Errorf("linked, the group is %s", got)
	}
	if err := check(api, low, high, bridge); err != nil {
		t.Error(err)
	}
	l.mustRemove(t, bridge)
	if got := claimOf(t, api, v6).Spec.Group; got != v6 {
		t.Errorf("without the link, the group is %s", got)
	}
	if err := check(api, low, high); err != nil {
		t.Error(err)
	}
}

// Many come to one address at once; each join is its own transaction.
func TestJoinAtOnce(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	leaders := []*leader{newLeader(t, api, kind{}), newLeader(t, api, kind{})}
	var services []*corev1.Service
	var wg sync.WaitGroup
	for i := range 40 {
		// Ports clash in pairs, so two addresses are needed.
		svc := shares(fmt.Sprintf("s%02d", i), i, "k", int32(1000+i/2))
		services = append(services, svc)
		api.PutService(svc)
		wg.Go(func() {
			if _, err := leaders[i%2].alloc.Ensure(quiet(t), svc); err != nil {
				t.Errorf("%s: %v", svc.Name, err)
			}
		})
	}
	wg.Wait()
	if err := check(api, services...); err != nil {
		t.Error(err)
	}
	bound := 0
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimBound {
			bound++
		}
	}
	if bound > 4 {
		t.Errorf("%d addresses for 40 Services that could share two", bound)
	}
}

// A controller of the release before writes the sharing key away; the next one puts it
// back, and nobody leaves.
func TestSharingKeyComesBack(t *testing.T) { forBoth(t, testSharingKeyComesBack) }

func testSharingKeyComesBack(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	a, b := shares("a", 1, "k", 80), shares("b", 2, "k", 81)
	l.mustGet(t, a, "192.0.2.0")
	l.mustGet(t, b, "192.0.2.0")
	c := claimOf(t, api, "192.0.2.0")
	c.Spec.SharingKey = ""
	for i := range c.Spec.Services {
		c.Spec.Services[i].Backends = ""
	}
	api.PutClaim(c)
	l.mustGet(t, b, "192.0.2.0")
	l.mustGet(t, a, "192.0.2.0")
	if got := claimOf(t, api, "192.0.2.0").Spec.SharingKey; got != "k" {
		t.Errorf("sharing key %q", got)
	}
	if err := check(api, a, b); err != nil {
		t.Error(err)
	}
}
