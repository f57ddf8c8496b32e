// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// hearing counts what a listener is told.
type hearing struct {
	addresses int
	services  []loadbalancer.ServiceKey
}

func (h *hearing) AddressesChanged()                        { h.addresses++ }
func (h *hearing) ServiceChanged(k loadbalancer.ServiceKey) { h.services = append(h.services, k) }

func web() loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: "default", Name: "web"}
}

func claim(version string, change func(*v1alpha1.IPClaim)) *v1alpha1.IPClaim {
	c := &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1", UID: "c1", ResourceVersion: version, Generation: 1},
		Spec: v1alpha1.IPClaimSpec{
			Address: "192.0.2.1", Pool: "a", Phase: v1alpha1.ClaimBound,
			Services: []v1alpha1.ServiceReference{{Namespace: "default", Name: "web", UID: "u"}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

// A cache that lags never takes back what was written or seen since.
func TestNeverRegresses(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	s.ObserveClaim(claim("9", func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimReleasing }))
	s.ObserveClaim(claim("8", nil))
	if got := s.Claim("192.0.2.1"); got.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Error("an older claim replaced a newer one")
	}
	s.ObserveClaim(claim("10", func(c *v1alpha1.IPClaim) { c.UID = "c2" }))
	s.ForgetClaim(claim("9", nil))
	if s.Claim("192.0.2.1") == nil {
		t.Error("the late news of an old claim's end removed its namesake")
	}
	s.ForgetClaim(claim("11", func(c *v1alpha1.IPClaim) { c.UID = "c2" }))
	if s.Claim("192.0.2.1") != nil || len(s.ClaimsOf("u")) != 0 {
		t.Error("the claim is still there")
	}
	r := func(version, service string) *v1alpha1.LoadBalancer {
		return &v1alpha1.LoadBalancer{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: types.UID("r" + service), ResourceVersion: version},
			Spec:       v1alpha1.LoadBalancerSpec{ServiceUID: types.UID(service)},
		}
	}
	s.ObserveRecord(r("10", "new"))
	s.ObserveRecord(r("9", "old"))
	s.ForgetRecord(r("9", "old"))
	if got := s.Record(web()); got == nil || got.Spec.ServiceUID != "new" {
		t.Errorf("record %v", got)
	}
}

// Listeners hear of changes that matter to them, and not of an owner's status writes.
func TestListeners(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	h := &hearing{}
	s.Subscribe(h)
	s.ObserveClaim(claim("1", nil))
	s.ObserveClaim(claim("2", func(c *v1alpha1.IPClaim) { c.Status.Owner = &v1alpha1.Owner{Node: "worker"} }))
	s.ForgetClaim(claim("3", nil))
	if diff := cmp.Diff(&hearing{2, []loadbalancer.ServiceKey{web(), web()}}, h, cmp.AllowUnexported(hearing{})); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
}

func request(name string) *pool.Request {
	return &pool.Request{
		Service: loadbalancer.ServiceKey{Namespace: "default", Name: name}, UID: loadbalancer.ServiceUID(name), Families: []pool.Family{pool.IPv4},
	}
}

// What is chosen and not written yet is nobody else's, until it is cancelled.
func TestAllocateBooks(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	s.ObservePool(&v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.1/32"}}})
	if _, _, err := s.Allocate(request("one"), store.Ticket{}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := s.Allocate(request("two"), store.Ticket{}); err == nil {
		t.Fatalf("the address was given twice: %v", got)
	}
	s.Cancel("one")
	if _, _, err := s.Allocate(request("two"), store.Ticket{}); err != nil {
		t.Errorf("after Cancel: %v", err)
	}
	s.ObserveClaim(claim("1", func(c *v1alpha1.IPClaim) { c.Spec.Services[0].UID = "two" }))
	s.Cancel("two")
	if _, held := s.Holding(mustAddr(t, "192.0.2.1")); !held {
		t.Error("Cancel freed an address that has its claim")
	}
}

// Namespace labels reach the decision.
func TestNamespaceLabels(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	s.ObservePool(&v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.IPAddressPoolSpec{
		Addresses:         []string{"192.0.2.1/32"},
		ServiceAllocation: &v1alpha1.ServiceAllocation{NamespaceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}},
	}})
	if _, _, err := s.Allocate(request("one"), store.Ticket{}); err == nil {
		t.Fatal("the pool served a namespace without the label")
	}
	s.ObserveNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"tier": "gold"}}})
	if _, _, err := s.Allocate(request("one"), store.Ticket{}); err != nil {
		t.Error(err)
	}
}

// Start-up waits for a server that fails at first.
func TestRunRetries(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	failures := 1
	api.OnCall(func(storetest.Call) storetest.Outcome {
		if failures > 0 {
			failures--
			return storetest.FailBefore
		}
		return storetest.Pass
	})
	s := store.New(store.Options{API: api, Classes: convert.Classes{Classless: true}})
	ctx, stop := context.WithTimeout(klog.NewContext(t.Context(), logr.Discard()), 10*time.Second)
	defer stop()
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := s.WaitReady(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready before it ran: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// Releasing a claim takes one Service off it; the last one leaves its name behind.
func TestReleaseClaim(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	s := store.New(store.Options{API: api, Classes: convert.Classes{Classless: true}})
	api.Watch(s)
	c, err := s.CreateClaim(t.Context(), claim("", func(c *v1alpha1.IPClaim) {
		c.Spec.Services = append(c.Spec.Services, v1alpha1.ServiceReference{Namespace: "default", Name: "other", UID: "v"})
	}))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700000000, 0)
	for _, want := range []struct {
		uid      types.UID
		phase    v1alpha1.ClaimPhase
		services int
	}{{"nobody", v1alpha1.ClaimBound, 2}, {"u", v1alpha1.ClaimBound, 1}, {"v", v1alpha1.ClaimReleasing, 1}, {"v", v1alpha1.ClaimReleasing, 1}} {
		if err := s.ReleaseClaim(t.Context(), s.Claim(c.Name), want.uid, now); err != nil {
			t.Fatal(err)
		}
		got := api.AllClaims()[0].Spec
		if got.Phase != want.phase || len(got.Services) != want.services {
			t.Errorf("without %s: %s with %d Services, want %s with %d", want.uid, got.Phase, len(got.Services), want.phase, want.services)
		}
	}
	if err := s.ReleaseClaim(t.Context(), claim("1", nil), "u", now); !errors.Is(err, store.ErrConflict) {
		t.Errorf("releasing an old version: %v", err)
	}
}

func mustAddr(tb testing.TB, s string) netip.Addr {
	tb.Helper()
	a, err := netip.ParseAddr(s)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// A list or a response may arrive after the informer told that its object is gone.
func TestLateNewsRaisesNoDead(t *testing.T) {
	t.Parallel()
	s := store.New(store.Options{API: storetest.New(), Classes: convert.Classes{Classless: true}})
	s.ForgetClaim(claim("12", nil))
	s.ObserveClaim(claim("11", nil))
	if s.Claim("192.0.2.1") != nil || s.HasClaims("u") {
		t.Error("a claim that was never known alive came back from the dead")
	}
	s.ObserveClaim(claim("13", func(c *v1alpha1.IPClaim) { c.UID = "c2" }))
	if s.Claim("192.0.2.1") == nil {
		t.Fatal("the next claim of the address is ignored")
	}
	s.ForgetClaim(claim("14", func(c *v1alpha1.IPClaim) { c.UID = "c2" }))
	s.ObserveClaim(claim("11", nil))
	if _, held := s.Holding(netip.MustParseAddr("192.0.2.1")); held {
		t.Error("an older claim came back after a newer one's end, and its address is lost")
	}
	r := &v1alpha1.LoadBalancer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "r", ResourceVersion: "5"}}
	s.ForgetRecord(r)
	s.ObserveRecord(r)
	if s.Record(web()) != nil {
		t.Error("a deleted record came back")
	}
	p := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "p", ResourceVersion: "5"}}
	s.ForgetPool(p)
	s.ObservePool(p)
	if got := s.Pools(); len(got) != 0 {
		t.Errorf("a deleted pool came back: %v", got)
	}
}
