// SPDX-License-Identifier: Apache-2.0

// Package storetest is a stateful stand-in for the API server as the store uses it:
// names are unique, versions grow, updates and preconditions are compared and swapped.
// A test can fail any call before or after it took effect, hold back what informers
// deliver, and read the log of writes. Tests of provider/internal/… use it.
package storetest

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// Outcome is what a hook does to a call.
type Outcome uint8

const (
	// Pass lets the call through.
	Pass Outcome = iota
	// FailBefore fails the call, which has no effect.
	FailBefore
	// FailAfter lets the call take effect and loses the answer, as a timeout does.
	FailAfter
)

// Call is one call to the server.
type Call struct {
	// Verb is create, update, patch, delete, get or list.
	Verb string
	// Object is kind/name, as claim/192.0.2.1, record/default/web or service/default/web.
	Object string
}

// Write reports whether the call changes anything.
func (c Call) Write() bool { return c.Verb != "get" && c.Verb != "list" }

// API is the fake server. Make it with New.
type API struct {
	mu sync.Mutex
	// hook sees every call before it takes effect.
	hook     func(Call) Outcome
	log      []Call
	version  int
	claims   map[string]*v1alpha1.IPClaim
	records  map[string]*v1alpha1.LoadBalancer
	pools    map[string]*v1alpha1.IPAddressPool
	services map[string]*corev1.Service
	policy   *v1alpha1.ExternalIPPolicy
	watchers []*store.Store
	held     bool
	pending  []func()
}

var _ store.API = (*API)(nil)

// New returns an empty server.
func New() *API {
	return &API{
		claims:   make(map[string]*v1alpha1.IPClaim),
		records:  make(map[string]*v1alpha1.LoadBalancer),
		pools:    make(map[string]*v1alpha1.IPAddressPool),
		services: make(map[string]*corev1.Service),
	}
}

// OnCall sets the hook; nil passes every call.
func (a *API) OnCall(hook func(Call) Outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hook = hook
}

// Log returns the calls so far.
func (a *API) Log() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.log)
}

// Watch has a store see everything there is and every change from now on.
func (a *API) Watch(s *store.Store) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers = append(a.watchers, s)
	for _, p := range a.pools {
		s.ObservePool(p.DeepCopy())
	}
	if a.policy != nil {
		s.ObservePolicy(a.policy.DeepCopy())
	}
	for _, svc := range a.services {
		s.ObserveService(svc.DeepCopy())
	}
	for _, c := range a.claims {
		s.ObserveClaim(c.DeepCopy())
	}
	for _, r := range a.records {
		s.ObserveRecord(r.DeepCopy())
	}
}

// Unwatch ends the watches of a store, as its process's end does.
func (a *API) Unwatch(s *store.Store) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers = slices.DeleteFunc(a.watchers, func(w *store.Store) bool { return w == s })
}

// Hold keeps back what watchers would see, until Deliver.
func (a *API) Hold() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = true
}

// Deliver ends Hold.
func (a *API) Deliver() {
	a.mu.Lock()
	pending := a.pending
	a.pending, a.held = nil, false
	a.mu.Unlock()
	for _, f := range pending {
		f()
	}
}

// tell passes a change to the watchers; mu is held.
func (a *API) tell(f func(*store.Store)) {
	for _, w := range a.watchers {
		a.pending = append(a.pending, func() { f(w) })
	}
}

// call runs one call: hook, effect, watchers. Watchers see it before the caller does.
func (a *API) call(c Call, effect func() error) error {
	a.mu.Lock()
	outcome := Pass
	if a.hook != nil {
		hook := a.hook
		a.mu.Unlock()
		outcome = hook(c)
		a.mu.Lock()
	}
	a.log = append(a.log, c)
	var err error
	if outcome != FailBefore {
		err = effect()
	}
	if outcome != Pass && err == nil {
		err = apierrors.NewTimeoutError("injected into "+c.Verb+" "+c.Object, 0)
	}
	var pending []func()
	if !a.held {
		pending, a.pending = a.pending, nil
	}
	a.mu.Unlock()
	for _, f := range pending {
		f()
	}
	return err
}

func (a *API) next() string {
	a.version++
	return strconv.Itoa(a.version)
}

func (a *API) stamp(m *metav1.ObjectMeta) {
	m.ResourceVersion = a.next()
	m.UID = types.UID("uid-" + m.ResourceVersion)
	m.Generation = 1
}

func resource(kind string) schema.GroupResource {
	return schema.GroupResource{Group: v1alpha1.GroupName, Resource: kind}
}

// checkDelete compares preconditions.
func checkDelete(kind string, m metav1.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != m.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(resource(kind), m.GetName(), nil)
	}
	return nil
}

// Claims implements store.API.
func (a *API) Claims() store.Claims { return claims{a} }

type claims struct{ a *API }

func (c claims) Create(_ context.Context, in *v1alpha1.IPClaim, _ metav1.CreateOptions) (*v1alpha1.IPClaim, error) {
	obj := in.DeepCopy()
	err := c.a.call(Call{"create", "claim/" + in.Name}, func() error {
		if c.a.claims[in.Name] != nil {
			return apierrors.NewAlreadyExists(resource("ipclaims"), in.Name)
		}
		c.a.stamp(&obj.ObjectMeta)
		c.a.putClaim(obj)
		return nil
	})
	return obj, err
}

func (a *API) putClaim(obj *v1alpha1.IPClaim) {
	a.claims[obj.Name] = obj
	a.tell(func(s *store.Store) { s.ObserveClaim(obj.DeepCopy()) })
}

func (c claims) Update(_ context.Context, in *v1alpha1.IPClaim, _ metav1.UpdateOptions) (*v1alpha1.IPClaim, error) {
	obj := in.DeepCopy()
	err := c.a.call(Call{"update", "claim/" + in.Name}, func() error {
		old := c.a.claims[in.Name]
		if old == nil {
			return apierrors.NewNotFound(resource("ipclaims"), in.Name)
		}
		if old.ResourceVersion != in.ResourceVersion {
			return apierrors.NewConflict(resource("ipclaims"), in.Name, nil)
		}
		obj.ResourceVersion = c.a.next()
		if !equality.Semantic.DeepEqual(old.Spec, obj.Spec) {
			obj.Generation++
		}
		c.a.putClaim(obj)
		return nil
	})
	return obj, err
}

func (c claims) Delete(_ context.Context, name string, o metav1.DeleteOptions) error {
	return c.a.call(Call{"delete", "claim/" + name}, func() error {
		old := c.a.claims[name]
		if old == nil {
			return apierrors.NewNotFound(resource("ipclaims"), name)
		}
		if err := checkDelete("ipclaims", old, o.Preconditions); err != nil {
			return err
		}
		last := old.DeepCopy()
		last.ResourceVersion = c.a.next()
		delete(c.a.claims, name)
		c.a.tell(func(s *store.Store) { s.ForgetClaim(last) })
		return nil
	})
}

func (c claims) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.IPClaim, error) {
	var obj *v1alpha1.IPClaim
	err := c.a.call(Call{"get", "claim/" + name}, func() error {
		if obj = c.a.claims[name].DeepCopy(); obj == nil {
			return apierrors.NewNotFound(resource("ipclaims"), name)
		}
		return nil
	})
	return obj, err
}

func (c claims) List(context.Context, metav1.ListOptions) (*v1alpha1.IPClaimList, error) {
	out := &v1alpha1.IPClaimList{}
	err := c.a.call(Call{"list", "claims"}, func() error {
		for _, name := range slices.Sorted(maps.Keys(c.a.claims)) {
			out.Items = append(out.Items, *c.a.claims[name].DeepCopy())
		}
		return nil
	})
	return out, err
}
