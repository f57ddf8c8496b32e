// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// announcer is a fake that remembers what it was told.
type announcer struct {
	mu     sync.Mutex
	failed map[loadbalancer.ServiceKey]reason.Reason
}

func (*announcer) Propose(*corev1.Service, []v1alpha1.LoadBalancerAddress) announcement.Proposal {
	return announcement.Proposal{
		Successors:     []string{"worker"},
		Advertisements: []v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "l2"}},
	}
}

func (a *announcer) AllocationFailed(svc *corev1.Service, r reason.Reason, _ string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed[loadbalancer.ServiceKey{Namespace: svc.Namespace, Name: svc.Name}] = r
}

func (a *announcer) AllocationSucceeded(key loadbalancer.ServiceKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, key)
}

// kind is a way that Services come to Fairlead: without a class through the service
// controller, or with its class. Both have to see the same.
type kind struct{ class string }

// forBoth runs a test for both.
func forBoth(t *testing.T, test func(t *testing.T, k kind)) {
	t.Helper()
	t.Parallel()
	for name, k := range map[string]kind{"without a class": {}, "with the class": {v1alpha1.DefaultLoadBalancerClass}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// dress makes a Service one of the kind, as it is when its user has made it and, without a
// class, the service controller has put its finalizer there.
func (k kind) dress(svc *corev1.Service) {
	if k.class != "" && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		svc.Spec.LoadBalancerClass = &k.class
		svc.Finalizers = nil
	}
}

// leader is one life of the controller on a fake server.
type leader struct {
	kind   kind
	api    *storetest.API
	store  *store.Store
	alloc  *allocation.Allocator
	ctl    *allocation.Controller
	ann    *announcer
	events *record.FakeRecorder
	stop   context.CancelFunc
}

// quiet is a context without a logger.
func quiet(t *testing.T) context.Context {
	t.Helper()
	return klog.NewContext(t.Context(), logr.Discard())
}

func newLeader(t *testing.T, api *storetest.API, k kind) *leader {
	t.Helper()
	return newLeaderOf(t, api, k, convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass, Classless: true})
}

func newLeaderOf(t *testing.T, api *storetest.API, k kind, classes convert.Classes) *leader {
	t.Helper()
	return newLeaderWith(t, api, k, classes, allocation.Defaults{}, time.Now)
}

func newLeaderWith(t *testing.T, api *storetest.API, k kind, classes convert.Classes, defaults allocation.Defaults, now func() time.Time) *leader {
	t.Helper()
	ctx, stop := context.WithCancel(quiet(t))
	l := &leader{
		kind: k, api: api, store: store.New(store.Options{API: api, Classes: classes}), stop: stop, events: record.NewFakeRecorder(1000),
		ann: &announcer{failed: make(map[loadbalancer.ServiceKey]reason.Reason)},
	}
	l.alloc = allocation.New(allocation.Options{
		Store: l.store, Announcer: l.ann, Events: l.events, Service: getService(api), Now: now, Defaults: defaults,
		Patch: func(_ context.Context, old, updated *corev1.Service) (*corev1.Service, error) {
			return api.PatchService(old, updated)
		},
	})
	l.ctl = allocation.NewController(l.store, l.alloc)
	api.Watch(l.store)
	go func() { _ = l.store.Run(ctx) }()
	if err := l.store.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.crash)
	return l
}

func getService(api *storetest.API) allocation.ServiceGetter {
	return func(_ context.Context, namespace, name string) (*corev1.Service, error) {
		if svc := api.Service(namespace, name); svc != nil {
			return svc, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, name)
	}
}

// crash ends a leader without a word.
func (l *leader) crash() {
	l.api.Unwatch(l.store)
	l.stop()
}

// told drains the events.
func (l *leader) told() []string {
	var out []string
	for {
		select {
		case e := <-l.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func newPool(name string, addresses ...string) *v1alpha1.IPAddressPool {
	return &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: addresses}}
}

// newService returns a Service as the service controller hands it over. Its age in
// seconds is number.
func newService(name string, number int, change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name + "-uid"),
			Finalizers:        []string{"service.kubernetes.io/load-balancer-cleanup"},
			CreationTimestamp: metav1.NewTime(time.Unix(int64(number), 0)),
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
		},
	}
	if change != nil {
		change(svc)
	}
	return svc
}

func annotate(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations = map[string]string{key: value} }
}

func ips(s *corev1.LoadBalancerStatus) []string {
	var out []string
	for _, i := range s.Ingress {
		out = append(out, i.IP)
	}
	return out
}

// ensure puts a Service on the server and has it served: without a class as upstream
// does it, with one by the controller. It returns what the Service shows, or
// ImplementedElsewhere when a person has to settle something.
func (l *leader) ensure(t *testing.T, svc *corev1.Service) ([]string, error) {
	t.Helper()
	l.kind.dress(svc)
	l.api.PutService(svc)
	if svc.Spec.LoadBalancerClass != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return l.sync(t, svc)
	}
	status, err := l.alloc.Ensure(quiet(t), svc)
	if err != nil {
		return nil, err
	}
	now := l.api.Service(svc.Namespace, svc.Name)
	now.Status.LoadBalancer = *status
	l.api.PutService(now)
	return ips(status), nil
}

// ensureOnly puts a Service on the server and, without a class, ensures it as upstream
// does. With one the running controller sees to it.
func (l *leader) ensureOnly(t *testing.T, svc *corev1.Service) ([]string, error) {
	t.Helper()
	if l.kind.class == "" {
		return l.ensure(t, svc)
	}
	l.kind.dress(svc)
	l.api.PutService(svc)
	return nil, nil
}

// sync has the controller look at a Service and at the line.
func (l *leader) sync(t *testing.T, svc *corev1.Service) ([]string, error) {
	t.Helper()
	key := loadbalancer.ServiceKey{Namespace: svc.Namespace, Name: svc.Name}
	err := l.ctl.Sync(quiet(t), key)
	for range 5 { // a running controller may be faster
		if apierrors.IsConflict(err) {
			err = l.ctl.Sync(quiet(t), key)
		}
	}
	if err != nil {
		return nil, err
	}
	if l.alloc.Fails(key) {
		return nil, cloudprovider.ImplementedElsewhere
	}
	now := l.api.Service(svc.Namespace, svc.Name)
	if now == nil {
		return nil, nil
	}
	return ips(&now.Status.LoadBalancer), nil
}

// remove deletes a Service as its user does, and has it let go.
func (l *leader) remove(t *testing.T, svc *corev1.Service) error {
	t.Helper()
	l.api.EndService(svc.Namespace, svc.Name)
	now := l.api.Service(svc.Namespace, svc.Name)
	switch {
	case now == nil:
		return nil
	case now.Spec.LoadBalancerClass != nil:
		_, err := l.sync(t, svc)
		return err
	}
	if err := l.alloc.Delete(quiet(t), now); err != nil {
		return err
	}
	l.api.DeleteService(now)
	return nil
}

// writes returns the writes of claims and records so far.
func writes(api *storetest.API) []string {
	var out []string
	for _, c := range api.Log() {
		if c.Write() && c.Verb != "patch" {
			out = append(out, c.Verb+" "+c.Object)
		}
	}
	return out
}

func TestEnsure(t *testing.T) { forBoth(t, testEnsure) }

func testEnsure(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("my-ippool", "172.20.255.200-172.20.255.250"))
	l := newLeader(t, api, k)
	svc := newService("svc1", 1, nil)
	for range 3 {
		got, err := l.ensure(t, svc)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"172.20.255.200"}, got); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"create claim/172.20.255.200", "create record/default/svc1"}, writes(api)); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`Normal AddressAllocated assigned 172.20.255.200 from pool "my-ippool"`}, l.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	c, r := api.AllClaims()[0], api.AllRecords()[0]
	wantClaim := v1alpha1.IPClaimSpec{
		Address: "172.20.255.200", Pool: "my-ippool", Group: "172.20.255.200", Successors: []string{"worker"}, Phase: v1alpha1.ClaimBound,
		Services: []v1alpha1.ServiceReference{{Namespace: "default", Name: "svc1", UID: "svc1-uid", Ports: r.Spec.Ports}},
	}
	if diff := cmp.Diff(wantClaim, c.Spec); diff != "" {
		t.Errorf("claim (-want +got):\n%s", diff)
	}
	wantRecord := v1alpha1.LoadBalancerSpec{
		ServiceUID: "svc1-uid",
		Addresses: []v1alpha1.LoadBalancerAddress{
			{Address: "172.20.255.200", Pool: "my-ippool", Claim: "172.20.255.200", Rule: v1alpha1.RuleAutoAssign},
		},
		Ports:      []v1alpha1.Port{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30080}},
		TargetType: v1alpha1.TargetPod, ExternalTrafficPolicy: v1alpha1.TrafficPolicyCluster, Forwarding: v1alpha1.ForwardingKubeProxy,
		Advertisements: []v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "l2"}},
	}
	if diff := cmp.Diff(wantRecord, r.Spec); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestEnsureFollowsTheService(t *testing.T) { forBoth(t, testEnsureFollowsTheService) }

func testEnsureFollowsTheService(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24", "2001:db8::/64"))
	l := newLeader(t, api, k)
	steps := []struct {
		name   string
		change func(*corev1.Service)
		want   []string
	}{
		{name: "first", want: []string{"192.0.2.0"}},
		{name: "other ports and policy", change: func(s *corev1.Service) {
			s.Spec.Ports[0].Port = 8080
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, want: []string{"192.0.2.0"}},
		{name: "asks for an address", change: annotate("fairlead.dev/addresses", "192.0.2.9"), want: []string{"192.0.2.9"}},
		{name: "asks no more", want: []string{"192.0.2.9"}},
		{name: "two families", change: func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}, want: []string{"2001:db8::", "192.0.2.9"}},
		{name: "one family again", want: []string{"192.0.2.9"}},
	}
	var svc *corev1.Service
	for _, s := range steps {
		svc = newService("web", 1, s.change)
		got, err := l.ensure(t, svc)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Errorf("%s: addresses (-want +got):\n%s", s.name, diff)
		}
		if err := check(api, svc); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		r := api.AllRecords()[0]
		if want := svc.Spec.Ports[0].Port; r.Spec.Ports[0].Port != want {
			t.Errorf("%s: the record has port %d, want %d", s.name, r.Spec.Ports[0].Port, want)
		}
		groups := make(map[string]bool)
		for _, c := range api.AllClaims() {
			if c.Spec.Phase == v1alpha1.ClaimBound {
				groups[c.Spec.Group] = true
			}
		}
		if len(groups) != 1 {
			t.Errorf("%s: claims of one Service in groups %v", s.name, groups)
		}
	}
}

func TestDelete(t *testing.T) { forBoth(t, testDelete) }

func testDelete(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.1-192.0.2.2"))
	l := newLeader(t, api, k)
	svc := newService("web", 1, nil)
	if _, err := l.ensure(t, svc); err != nil {
		t.Fatal(err)
	}
	exists := func(want bool) {
		t.Helper()
		if _, got, err := l.alloc.Exists(t.Context(), svc); err != nil || got != want {
			t.Errorf("Exists = %v, %v, want %v", got, err, want)
		}
	}
	exists(true)
	for range 2 {
		if err := l.remove(t, svc); err != nil {
			t.Fatal(err)
		}
		exists(true) // the claim is still there
	}
	if api.Service("default", "web") != nil {
		t.Error("a finalizer is still there")
	}
	c := api.AllClaims()[0]
	if c.Spec.Phase != v1alpha1.ClaimReleasing || c.Spec.ReleasingSince == nil || len(api.AllRecords()) != 0 {
		t.Errorf("after Delete: claim %s since %v, %d records", c.Spec.Phase, c.Spec.ReleasingSince, len(api.AllRecords()))
	}
	other := newService("other", 2, nil)
	if got, err := l.ensure(t, other); err != nil || got[0] != "192.0.2.2" {
		t.Errorf("a Releasing address was handed out, or none: %v, %v", got, err)
	}
	api.RemoveClaim("192.0.2.1")
	exists(false)
}

func TestNodeAddressIsNotGiven(t *testing.T) { forBoth(t, testNodeAddressIsNotGiven) }

func testNodeAddressIsNotGiven(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/29"))
	l := newLeader(t, api, k)
	l.store.ObserveNode(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.0"}}},
	})
	l.store.ObserveAgent(&v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		Status:     v1alpha1.NodeAgentStatus{Interfaces: []v1alpha1.NodeInterface{{Name: "eth0", Prefixes: []string{"192.0.2.1/24"}}}},
	})
	got, err := l.ensure(t, newService("web", 1, nil))
	if err != nil || got[0] != "192.0.2.2" {
		t.Errorf("got %v, %v", got, err)
	}
	v := l.store.Pools()[0]
	if v.AssignedIPv4 != 1 || v.AvailableIPv4 != 5 {
		t.Errorf("pool counts %d assigned, %d available", v.AssignedIPv4, v.AvailableIPv4)
	}
	if h, held := l.store.Holding(netip.MustParseAddr("192.0.2.2")); !held || !h.Names("web-uid") {
		t.Errorf("holder %v", h)
	}
}

// A failure is told although the first attempt could not write the record for it.
func TestFailureIsToldAfterALostWrite(t *testing.T) { forBoth(t, testFailureIsToldAfterALostWrite) }

func testFailureIsToldAfterALostWrite(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	l := newLeader(t, api, k)
	svc := newService("web", 1, nil)
	api.OnCall(func(c storetest.Call) storetest.Outcome {
		if c.Verb == "create" {
			return storetest.FailBefore
		}
		return storetest.Pass
	})
	if _, err := l.ensure(t, svc); err == nil || err == cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
		t.Fatalf("Ensure with an API server that refuses writes: %v", err)
	}
	api.OnCall(nil)
	for range 2 {
		if _, err := l.ensure(t, svc); err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
			t.Fatalf("Ensure without a pool: %v", err)
		}
	}
	if got := l.told(); len(got) != 1 {
		t.Errorf("events: %q", got)
	}
	if got := l.ann.failed[loadbalancer.ServiceKey{Namespace: "default", Name: "web"}]; got != reason.NoPool {
		t.Errorf("told the announcer %q", got)
	}
}
