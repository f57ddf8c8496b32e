// SPDX-License-Identifier: Apache-2.0

package claims_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
	"github.com/fairlead-lb/fairlead/provider/internal/claims"
)

const address = "172.20.255.200"

// world is a claims controller over fakes, inside a synctest bubble.
type world struct {
	t        *testing.T
	claims   *fakeapi.Store[*v1alpha1.IPClaim]
	records  *fakeapi.Store[*v1alpha1.LoadBalancer]
	agents   *fakeapi.Store[*v1alpha1.NodeAgent]
	nodes    *fakeapi.Store[*corev1.Node]
	services *fakeapi.Store[*corev1.Service]
	events   *record.FakeRecorder
	// classed: Services without a class are not served.
	classed bool
	// getService replaces the uncached read of a Service when not nil.
	getService func(namespace, name string) (*corev1.Service, error)
}

// start makes the world, lets prepare fill it, and runs the controller.
func start(t *testing.T, prepare func(w *world)) *world {
	t.Helper()
	w := &world{
		t:        t,
		claims:   fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{}),
		records:  fakeapi.NewStore("loadbalancers", &v1alpha1.LoadBalancer{}),
		agents:   fakeapi.NewStore("nodeagents", &v1alpha1.NodeAgent{}),
		nodes:    fakeapi.NewStore("nodes", &corev1.Node{}),
		services: fakeapi.NewStore("services", &corev1.Service{}),
		events:   record.NewFakeRecorder(32),
	}
	prepare(w)
	c, err := claims.New(claims.Options{
		Claims: w.claims.In(""),
		GetService: func(ctx context.Context, ns, name string) (*corev1.Service, error) {
			if w.getService != nil {
				return w.getService(ns, name)
			}
			return w.services.In(ns).Get(ctx, name, metav1.GetOptions{})
		},
		GetRecord: func(ctx context.Context, ns, name string) (*v1alpha1.LoadBalancer, error) {
			return w.records.In(ns).Get(ctx, name, metav1.GetOptions{})
		},
		Classes:  convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass, Classless: !w.classed},
		Recorder: w.events,
		Informers: claims.Informers{
			Claims: w.claims.Informer(), Records: w.records.Informer(), NodeAgents: w.agents.Informer(),
			Nodes: w.nodes.Informer(), Services: w.services.Informer(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context){w.claims.Run, w.records.Run, w.agents.Run, w.nodes.Run, w.services.Run} {
		wg.Go(func() { run(ctx) })
	}
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	wait(t, 500*time.Millisecond)
	return w
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
	synctest.Wait()
}

func (w *world) wantPhase(t *testing.T, want v1alpha1.ClaimPhase) {
	t.Helper()
	claim, found := w.claims.Find(address)
	got := v1alpha1.ClaimPhase("")
	if found {
		got = claim.Spec.Phase
	}
	if got != want {
		t.Errorf("phase %q, want %q (empty: deleted)", got, want)
	}
}

func claim(phase v1alpha1.ClaimPhase, owner string, services ...string) *v1alpha1.IPClaim {
	out := &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: address},
		Spec:       v1alpha1.IPClaimSpec{Address: address, Pool: "my-ippool", Group: address, Phase: phase},
	}
	for _, s := range services {
		out.Spec.Services = append(out.Spec.Services, v1alpha1.ServiceReference{Namespace: "default", Name: s, UID: types.UID("uid-" + s)})
	}
	if phase == v1alpha1.ClaimReleasing {
		now := metav1.Now()
		out.Spec.ReleasingSince = &now
	}
	if owner != "" {
		out.Status.Owner = &v1alpha1.Owner{Node: owner, Epoch: 3, Since: metav1.Now()}
	}
	return out
}

func service(name string, ingress ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, ip := range ingress {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	return s
}

// namesake is a Service with the name of svc1 that came after it.
func namesake() *corev1.Service {
	s := service("svc1", address)
	s.UID = "another"
	return s
}

func external(name string, ips ...string) *corev1.Service {
	s := service(name)
	s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, ips
	return s
}

func recordOf(name string) *v1alpha1.LoadBalancer {
	return &v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: types.UID("uid-" + name),
			Addresses:  []v1alpha1.LoadBalancerAddress{{Address: address, Pool: "my-ippool", Claim: address}},
		},
	}
}

func node(ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.Now()},
		}},
	}
}

func agent(ready metav1.ConditionStatus) *v1alpha1.NodeAgent {
	return &v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		Status: v1alpha1.NodeAgentStatus{Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: ready, Reason: "Running", LastTransitionTime: metav1.Now()},
		}},
	}
}

// How long an address that is being released stays reserved, by what is known of its owner.
func TestRelease(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(w *world)
		// kept is a time at which the claim must still exist, gone one at which it must not; 0: never gone.
		kept, gone time.Duration
		event      string
	}{
		{
			name:    "nobody owns it",
			prepare: func(w *world) { w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "")) },
			kept:    time.Second, gone: 2 * time.Second,
		},
		{
			name: "a live node owns it",
			prepare: func(w *world) {
				w.nodes.Put(w.t, node(corev1.ConditionTrue))
				w.agents.Put(w.t, agent(metav1.ConditionTrue))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "worker"))
			},
			kept: 299 * time.Second, gone: 302 * time.Second, event: "AddressReleasing",
		},
		{
			name: "its owner's Node is gone",
			prepare: func(w *world) {
				w.agents.Put(w.t, agent(metav1.ConditionTrue))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "worker"))
			},
			kept: 98 * time.Second, gone: 101 * time.Second,
		},
		{
			name: "its owner's agent is gone",
			prepare: func(w *world) {
				w.nodes.Put(w.t, node(corev1.ConditionTrue))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "worker"))
			},
			kept: 98 * time.Second, gone: 101 * time.Second,
		},
		{
			name: "its owner's Node is not ready",
			prepare: func(w *world) {
				w.nodes.Put(w.t, node(corev1.ConditionUnknown))
				w.agents.Put(w.t, agent(metav1.ConditionTrue))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "worker"))
			},
			kept: 98 * time.Second, gone: 101 * time.Second,
		},
		{
			name: "its owner's agent is not ready",
			prepare: func(w *world) {
				w.nodes.Put(w.t, node(corev1.ConditionTrue))
				w.agents.Put(w.t, agent(metav1.ConditionFalse))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "worker"))
			},
			kept: 98 * time.Second, gone: 101 * time.Second,
		},
		{
			name: "a Service still shows it",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", address))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "", "svc1"))
			},
			kept: 299 * time.Second, gone: 302 * time.Second,
		},
		{
			name: "a record still lists it",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1"))
				w.records.Put(w.t, recordOf("svc1"))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "", "svc1"))
			},
			kept: 299 * time.Second, gone: 302 * time.Second,
		},
		{
			name: "its Service is there and has another address",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", "192.0.2.200"))
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "", "svc1"))
			},
			kept: time.Second, gone: 2 * time.Second,
		},
		{
			name: "a namesake shows it",
			prepare: func(w *world) {
				w.services.Put(w.t, namesake())
				w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "", "svc1"))
			},
			kept: time.Second, gone: 2 * time.Second,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, tc.prepare)
				wait(t, tc.kept-500*time.Millisecond)
				w.wantPhase(t, v1alpha1.ClaimReleasing)
				if tc.gone > 0 {
					wait(t, tc.gone-tc.kept)
					w.wantPhase(t, "")
				}
				if tc.event == "" {
					return
				}
				if n := len(w.events.Events); n != 1 {
					t.Fatalf("%d events, want one", n)
				}
				if e := <-w.events.Events; !strings.Contains(e, tc.event) || !strings.Contains(e, `"worker"`) {
					t.Errorf("event %q, want reason %s and the node", e, tc.event)
				}
			})
		})
	}
}

// As soon as the Service shows the address no more, it is free.
func TestReleaseWhenTheServiceLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.services.Put(w.t, service("svc1", address))
			w.claims.Put(w.t, claim(v1alpha1.ClaimReleasing, "", "svc1"))
		})
		wait(t, 10*time.Second)
		w.wantPhase(t, v1alpha1.ClaimReleasing)
		w.services.Put(t, service("svc1", "192.0.2.200"))
		wait(t, 2*time.Second)
		w.wantPhase(t, "")
	})
}

// The quarantine counts from the moment the owner was lost, when that is the later one.
func TestQuarantineBeginsWhenTheOwnerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.nodes.Put(t, node(corev1.ConditionTrue))
			w.agents.Put(t, agent(metav1.ConditionTrue))
			w.claims.Put(t, claim(v1alpha1.ClaimReleasing, "worker"))
		})
		wait(t, 95*time.Second)
		w.nodes.Put(t, node(corev1.ConditionUnknown))
		wait(t, 98*time.Second)
		w.wantPhase(t, v1alpha1.ClaimReleasing)
		wait(t, 5*time.Second)
		w.wantPhase(t, "")
	})
}

// The owner lets go: the claim ends at once, and a lost answer or a conflict only delays it.
func TestReleaseWhenTheOwnerLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.nodes.Put(t, node(corev1.ConditionTrue))
			w.agents.Put(t, agent(metav1.ConditionTrue))
			w.claims.Put(t, claim(v1alpha1.ClaimReleasing, "worker"))
		})
		wait(t, 10*time.Second)
		failures := 2
		w.claims.FailWith(func(verb, _ string) error {
			if verb != "delete" || failures == 0 {
				return nil
			}
			failures--
			if failures == 0 { // as an API server in trouble says without a change behind it
				return apierrors.NewConflict(schema.GroupResource{Resource: "ipclaims"}, address, errors.New("injected"))
			}
			return errors.New("injected")
		})
		c, _ := w.claims.Find(address)
		c.Status.Owner = nil
		w.claims.Put(t, c)
		wait(t, time.Second)
		w.wantPhase(t, "")
		if failures != 0 {
			t.Errorf("%d injected failures left: delete was not retried", failures)
		}
	})
}

// An agent tells late that it has taken the address over: the claim waits for it.
func TestLateOwnerKeepsTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.claims.Put(t, claim(v1alpha1.ClaimReleasing, ""))
			w.nodes.Put(t, node(corev1.ConditionTrue))
			w.agents.Put(t, agent(metav1.ConditionTrue))
		})
		c, _ := w.claims.Find(address)
		c.Status.Owner = &v1alpha1.Owner{Node: "worker", Epoch: 4}
		w.claims.Put(t, c)
		wait(t, time.Minute)
		w.wantPhase(t, v1alpha1.ClaimReleasing)
	})
}

func TestNewRefusesMissingInputs(t *testing.T) {
	if _, err := claims.New(claims.Options{}); err == nil {
		t.Error("no error for empty options")
	}
}
