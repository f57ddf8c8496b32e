// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// An address given back goes to the Service that waits longest, without a new event
// about failure and without the service controller's help.
func TestOldestWaitsFirst(t *testing.T) { forBoth(t, testOldestWaitsFirst) }

func testOldestWaitsFirst(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.1/32"))
	l := newLeader(t, api, k)
	go func() { _ = l.ctl.Run(quiet(t)) }()
	first := newService("first", 1, nil)
	if _, err := l.ensure(t, first); err != nil {
		t.Fatal(err)
	}
	l.told()
	young, old := newService("a-young", 9, nil), newService("z-old", 5, nil)
	for _, s := range []*corev1.Service{young, old, young, old} {
		if _, err := l.ensure(t, s); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
			t.Fatalf("Ensure of %s: %v", s.Name, err)
		}
	}
	if got := l.told(); len(got) != 2 {
		t.Errorf("events of two failures: %q", got)
	}
	if l.ann.failed[loadbalancer.ServiceKey{Namespace: "default", Name: "z-old"}] != reason.PoolExhausted {
		t.Errorf("conditions: %v", l.ann.failed)
	}
	if err := l.remove(t, first); err != nil {
		t.Fatal(err)
	}
	api.RemoveClaim("192.0.2.1")
	freed := time.Now()
	for deadline := freed.Add(5 * time.Second); ; {
		if s := api.Service("default", "z-old"); len(s.Status.LoadBalancer.Ingress) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the waiting Service never got the address")
		}
		<-time.After(5 * time.Millisecond)
	}
	if took := time.Since(freed); took > time.Second {
		t.Errorf("the address took %s to be given again", took)
	}
	if err := check(api, young, old); err != nil {
		t.Error(err)
	}
	if got := l.told(); !slices.Equal(got, []string{`Normal AddressAllocated assigned 192.0.2.1 from pool "a"`}) {
		t.Errorf("events after the address came free: %q", got)
	}
}

// Statuses, records and claims that somebody else removes come back.
func TestRepair(t *testing.T) { forBoth(t, testRepair) }

func testRepair(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newLeader(t, api, k)
	go func() { _ = l.ctl.Run(quiet(t)) }()
	svc := newService("web", 1, nil)
	if _, err := l.ensure(t, svc); err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(){
		"status": func() {
			now := api.Service("default", "web")
			now.Status = corev1.ServiceStatus{}
			api.PutService(now)
		},
		"claim": func() { api.RemoveClaim("192.0.2.0") },
		"record": func() {
			r := api.AllRecords()[0]
			if err := api.Records("default").Delete(t.Context(), r.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		},
	}
	for name, damage := range damages {
		damage()
		for deadline := time.Now().Add(10 * time.Second); ; {
			now := api.Service("default", "web")
			if err := check(api, svc); err == nil && len(api.AllRecords()) == 1 && len(now.Status.LoadBalancer.Ingress) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not repaired", name)
			}
			<-time.After(10 * time.Millisecond)
		}
		if got := api.Service("default", "web").Status.LoadBalancer.Ingress[0].IP; got != "192.0.2.0" {
			t.Errorf("%s: repaired to %s", name, got)
		}
	}
}

// A deletion is not undone by a cache that does not know of it.
func TestStaleCopyDoesNotReturn(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newLeader(t, api, kind{})
	svc := newService("web", 1, nil)
	if _, err := l.ensure(t, svc); err != nil {
		t.Fatal(err)
	}
	if err := l.alloc.Delete(quiet(t), svc); err != nil {
		t.Fatal(err)
	}
	before := len(writes(api))
	ctx, cancel := context.WithTimeout(quiet(t), 1500*time.Millisecond)
	defer cancel()
	l.ctl.ServiceChanged(loadbalancer.ServiceKey{Namespace: "default", Name: "web"})
	if err := l.ctl.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := writes(api)[before:]; len(got) != 0 {
		t.Errorf("writes for a Service that was let go: %q", got)
	}
}

// A new leader binds what Services show before it gives anything away.
func TestRebind(t *testing.T) { forBoth(t, testRebind) }

func testRebind(t *testing.T, k kind) {
	t.Helper()
	shows := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}} }
	}
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	services := []*corev1.Service{
		newService("old", 1, shows("192.0.2.0")),
		newService("second", 2, shows("192.0.2.0")), // shows what another has
		newService("foreign", 3, shows("198.51.100.1")),
		newService("classed", 4, func(s *corev1.Service) {
			class := "example.com/x"
			s.Spec.LoadBalancerClass = &class
			shows("192.0.2.1")(s)
		}),
	}
	for _, s := range services {
		api.PutService(s)
	}
	l := newLeader(t, api, k)
	if c := api.AllClaims(); len(c) != 1 || c[0].Spec.Services[0].Name != "old" {
		t.Fatalf("claims after start: %d", len(c))
	}
	want := map[string]string{"new": "192.0.2.1", "foreign": "192.0.2.2", "second": "192.0.2.3", "old": "192.0.2.0"}
	for _, s := range []*corev1.Service{newService("new", 9, nil), services[2], services[1], services[0]} {
		got, err := l.ensure(t, s)
		if err != nil || len(got) != 1 || got[0] != want[s.Name] {
			t.Errorf("%s got %v, %v, want %s", s.Name, got, err, want[s.Name])
		}
	}
}

// Pools that come late (a mirror's, say) find the Services that showed their addresses.
func TestLatePoolGivesBackWhatServicesShow(t *testing.T) {
	forBoth(t, testLatePoolGivesBackWhatServicesShow)
}

func testLatePoolGivesBackWhatServicesShow(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	l := newLeader(t, api, k)
	old := newService("old", 5, func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.0"}}
	})
	older := newService("older", 1, nil)
	for _, s := range []*corev1.Service{old, older} {
		if _, err := l.ensure(t, s); err == nil {
			t.Fatalf("%s got an address without a pool", s.Name)
		}
	}
	if got := api.Service("default", "old").Status.LoadBalancer.Ingress; len(got) != 1 {
		t.Errorf("a failure wiped the status: %v", got)
	}
	api.PutPool(newPool("a", "192.0.2.0/29"))
	for s, want := range map[*corev1.Service]string{older: "192.0.2.1", old: "192.0.2.0"} {
		if got, err := l.ensure(t, s); err != nil || got[0] != want {
			t.Errorf("%s got %v, %v, want %s", s.Name, got, err, want)
		}
	}
}

// A pool that is replaced by one of another name takes its held addresses along:
// advertisements select by the pool's name.
func TestAddressesFollowTheirPool(t *testing.T) { forBoth(t, testAddressesFollowTheirPool) }

func testAddressesFollowTheirPool(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	go func() { _ = l.ctl.Run(quiet(t)) }()
	web, other := shares("web", 1, "k", 80), shares("other", 2, "k", 443)
	l.mustGet(t, web, "192.0.2.0")
	l.mustGet(t, other, "192.0.2.0")
	api.PutPool(newPool("a", "198.51.100.0/29"))
	api.PutPool(newPool("b", "192.0.2.0/29"))
	pools := func() []string {
		out := []string{claimOf(t, api, "192.0.2.0").Spec.Pool}
		for _, r := range api.AllRecords() {
			out = append(out, r.Spec.Addresses[0].Address+" "+r.Spec.Addresses[0].Pool)
		}
		return out
	}
	for deadline := time.Now().Add(5 * time.Second); !slices.Equal(pools(), []string{"b", "192.0.2.0 b", "192.0.2.0 b"}); {
		if time.Now().After(deadline) {
			t.Fatalf("pools of claim and records: %q", pools())
		}
		<-time.After(5 * time.Millisecond)
	}
	if err := check(api, web, other); err != nil {
		t.Error(err)
	}
}

// The namesake of a Service that went by force takes its record and its address over.
func TestNamesake(t *testing.T) { forBoth(t, testNamesake) }

func testNamesake(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	if _, err := l.ensure(t, newService("web", 1, nil)); err != nil {
		t.Fatal(err)
	}
	again := newService("web", 2, func(s *corev1.Service) { s.UID = "second-uid" })
	got, err := l.ensure(t, again)
	if err != nil || got[0] != "192.0.2.0" {
		t.Errorf("the namesake got %v, %v", got, err)
	}
	if rule := api.AllRecords()[0].Spec.Addresses[0].Rule; rule != v1alpha1.RuleRetained {
		t.Errorf("by rule %s", rule)
	}
	if err := check(api, again); err != nil {
		t.Error(err)
	}
	// A leader of yesterday with a stale copy of the first takes nothing from the second.
	before := api.AllRecords()
	if _, err := l.alloc.Ensure(quiet(t), newService("web", 1, nil)); err == nil {
		t.Error("a Service that is gone was given an address")
	}
	if diff := cmp.Diff(before, api.AllRecords()); diff != "" {
		t.Errorf("the record of the namesake changed:\n%s", diff)
	}
	if err := check(api, again); err != nil {
		t.Error(err)
	}
}

// A Service whose claim cannot be written is tried again with growing pauses, not as
// fast as the API server can refuse.
func TestRefusedWritesAreNoStorm(t *testing.T) { forBoth(t, testRefusedWritesAreNoStorm) }

func testRefusedWritesAreNoStorm(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	l := newLeader(t, api, k)
	go func() { _ = l.ctl.Run(quiet(t)) }()
	svc := newService("web", 1, nil)
	if _, err := l.ensure(t, svc); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
		t.Fatalf("Ensure without a pool: %v", err)
	}
	var refused atomic.Int64
	var mend atomic.Bool
	api.OnCall(func(c storetest.Call) storetest.Outcome {
		if c.Verb == "create" && !mend.Load() {
			refused.Add(1)
			return storetest.FailBefore
		}
		return storetest.Pass
	})
	api.PutPool(newPool("a", "192.0.2.0/29"))
	<-time.After(time.Second)
	if n := refused.Load(); n == 0 || n > 10 {
		t.Errorf("%d attempts in a second", n)
	}
	mend.Store(true)
	for deadline := time.Now().Add(10 * time.Second); len(api.Service("default", "web").Status.LoadBalancer.Ingress) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the Service never got its address")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Several Services that show one address get it back together, if they may share it: as
// they come from another load balancer, or from a backup without claims.
func TestRebindShared(t *testing.T) { forBoth(t, testRebindShared) }

func testRebindShared(t *testing.T, k kind) {
	t.Helper()
	shown := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.3"}}
	}
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	services := []*corev1.Service{
		shares("a", 1, "k", 80, shown), shares("b", 2, "k", 81, shown, asks("192.0.2.3")),
		shares("clash", 3, "k", 80, shown), shares("stranger", 4, "x", 82, shown),
	}
	for _, svc := range services {
		k.dress(svc)
		api.PutService(svc)
	}
	l := newLeader(t, api, k)
	if got := tenants(claimOf(t, api, "192.0.2.3")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after the start %v have it", got)
	}
	for i, want := range []string{"192.0.2.3", "192.0.2.3", "192.0.2.0", "192.0.2.1"} {
		l.mustGet(t, services[i], want)
	}
	wantListed(t, api, "a", "192.0.2.3 Shown")
	wantListed(t, api, "b", "192.0.2.3 Requested")
	told := strings.Join(l.told(), "\n")
	for _, why := range []reason.Reason{reason.PortInUse, reason.SharingKeyMismatch} {
		if strings.Count(told, "Warning "+why.String()) != 1 {
			t.Errorf("%s is not told once: %q", why, told)
		}
	}
	if err := check(api, services...); err != nil {
		t.Error(err)
	}
}

// Records without their claims, as after a restore of part of a backup: everything comes
// back, external IPs too.
func TestRebindFromRecords(t *testing.T) { forBoth(t, testRebindFromRecords) }

func testRebindFromRecords(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	api.PutPolicy(grant("default", "192.0.2.0/24"))
	one := newLeader(t, api, k)
	web := newService("web", 1, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.5"} })
	other := plain("other", 81, "192.0.2.5")
	one.mustGet(t, web, "192.0.2.0")
	one.mustGet(t, other)
	one.crash()
	for _, c := range api.AllClaims() {
		api.RemoveClaim(c.Name)
	}
	two := newLeader(t, api, k)
	if got := len(api.AllClaims()); got != 2 {
		t.Errorf("%d claims after the start", got)
	}
	two.mustGet(t, newService("new", 9, nil), "192.0.2.1")
	two.mustGet(t, web, "192.0.2.0") // the service controller starts with all of them
	if err := check(api, web, other, newService("new", 9, nil)); err != nil {
		t.Error(err)
	}
}

// An address that another leader released is taken out of the status of a Service that
// has nothing else: the claim goes only when nobody shows it any more, and the Service,
// which asks for this very address, then gets it again.
func TestReleasedAddressIsNotShown(t *testing.T) { forBoth(t, testReleasedAddressIsNotShown) }

func testReleasedAddressIsNotShown(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newLeader(t, api, k)
	svc := newService("web", 1, annotate("fairlead.dev/addresses", "192.0.2.7"))
	if _, err := l.ensure(t, svc); err != nil {
		t.Fatal(err)
	}
	released := api.AllClaims()[0].DeepCopy()
	now := metav1.Now()
	released.Spec.Phase, released.Spec.ReleasingSince = v1alpha1.ClaimReleasing, &now
	if _, err := api.Claims().Update(t.Context(), released, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.ctl.Run(quiet(t)) }()
	shows := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if s := api.Service("default", "web"); len(s.Status.LoadBalancer.Ingress) == n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the Service never showed %d addresses", n)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
	shows(0)
	api.RemoveClaim("192.0.2.7")
	shows(1)
	if err := check(api, svc); err != nil {
		t.Error(err)
	}
}
