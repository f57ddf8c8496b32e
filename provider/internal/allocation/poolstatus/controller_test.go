// SPDX-License-Identifier: Apache-2.0

package poolstatus_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation/poolstatus"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// views is a fake store.
type views struct {
	mu        sync.Mutex
	list      []store.PoolView
	conflicts []store.RangeConflict
}

func (*views) Subscribe(store.Listener)        {}
func (*views) WaitReady(context.Context) error { return nil }

func (v *views) Pools() []store.PoolView {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]store.PoolView(nil), v.list...)
}

func (v *views) RangeConflicts() []store.RangeConflict {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conflicts
}

// bed is the controller over a fake API server and store, inside a synctest bubble.
type bed struct {
	*poolstatus.Controller
	views  *views
	pools  *fakeapi.Store[*v1alpha1.IPAddressPool]
	events *record.FakeRecorder
}

func start(t *testing.T) *bed {
	t.Helper()
	b := &bed{
		views: &views{}, pools: fakeapi.NewStore("ipaddresspools", &v1alpha1.IPAddressPool{}),
		events: record.NewFakeRecorder(32),
	}
	var err error
	b.Controller, err = poolstatus.New(poolstatus.Options{
		Pools: b.pools.In(""), Views: b.views, Informer: b.pools.Informer(), Recorder: b.events, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.set(t, func(v *store.PoolView) { v.TotalIPv4, v.AvailableIPv4 = 10, 10 })
	ctx, stop := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	var wg sync.WaitGroup
	wg.Go(func() { b.pools.Run(ctx) })
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return b
}

// set makes the store's view of the one pool.
func (b *bed) set(t *testing.T, edit func(*store.PoolView)) {
	t.Helper()
	p, found := b.pools.Find("a")
	if !found {
		p = b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	}
	v := store.PoolView{Pool: p}
	edit(&v)
	b.views.mu.Lock()
	b.views.list = []store.PoolView{v}
	b.views.mu.Unlock()
	b.AddressesChanged()
}

// settle lets a minute pass and returns the pool's status and the number of writes.
func (b *bed) settle(t *testing.T) (v1alpha1.IPAddressPoolStatus, int) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(time.Minute):
	}
	synctest.Wait()
	p, _ := b.pools.Find("a")
	return p.Status, len(b.pools.Log())
}

func conditions(s v1alpha1.IPAddressPoolStatus) []string {
	var out []string
	for _, c := range s.Conditions {
		out = append(out, c.Type+"="+string(c.Status)+" "+c.Reason+": "+c.Message)
	}
	return out
}

func TestWritesOnChangeOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		failures := []error{
			errors.New("injected"),
			apierrors.NewConflict(schema.GroupResource{Resource: "ipaddresspools"}, "a", errors.New("injected")),
		}
		b.pools.FailWith(func(string, string) error {
			if len(failures) == 0 {
				return nil
			}
			err := failures[0]
			failures = failures[1:]
			return err
		})
		got, n := b.settle(t)
		if n != 1 || len(failures) != 0 {
			t.Fatalf("%d writes at start, failures %v left", n, failures)
		}
		if got.TotalIPv4 != 10 || got.AvailableIPv4 != 10 || len(got.Conditions) != 1 || got.Conditions[0].Reason != "Valid" || got.Conditions[0].ObservedGeneration != 1 {
			t.Errorf("status %+v", got)
		}
		for range 50 { // many changes at once are one write
			b.set(t, func(v *store.PoolView) {
				v.TotalIPv4, v.AvailableIPv4, v.AssignedIPv4 = 10, 6, 4
				v.TotalIPv6, v.AvailableIPv6, v.AssignedIPv6 = 100, 97, 3
				v.Tenants = []pool.TenantCount{{Namespace: "web", Addresses: 5}, {Namespace: "db", Addresses: 2}}
			})
		}
		got, n = b.settle(t)
		got.Conditions = nil
		want := v1alpha1.IPAddressPoolStatus{
			TotalIPv4: 10, AssignedIPv4: 4, AvailableIPv4: 6, TotalIPv6: 100, AssignedIPv6: 3, AvailableIPv6: 97,
			LargestTenants: []v1alpha1.PoolTenant{{Namespace: "web", Addresses: 5}, {Namespace: "db", Addresses: 2}},
		}
		if diff := cmp.Diff(want, got); diff != "" || n != 1 {
			t.Errorf("after a change, %d writes (-want +got):\n%s", n, diff)
		}
		b.AddressesChanged()
		if _, n := b.settle(t); n != 0 {
			t.Errorf("%d writes without a change", n)
		}
	})
}

// What the conditions say, one after the other on one pool.
func TestConditions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.settle(t)
		const ready, none = "Ready=True Valid: the pool is in use", "Conflict=False NoConflict: every address of the pool may be handed out"
		for _, step := range []struct {
			name string
			edit func(*store.PoolView)
			want []string
		}{
			{"in use", func(*store.PoolView) {}, []string{ready}},
			{"fault", func(v *store.PoolView) { v.Fault = &pool.Error{Reason: reason.Overlap, Message: "m"} }, []string{"Ready=False Overlap: m"}},
			{"disabled", func(v *store.PoolView) { v.Disabled = true }, []string{"Ready=False Disabled: disabled: gives no more addresses, Services keep what they hold"}},
			{
				"disabled and faulty", func(v *store.PoolView) {
					v.Disabled, v.Fault = true, &pool.Error{Reason: reason.InvalidAddresses, Message: "m"}
				}, []string{"Ready=False InvalidAddresses: m"},
			},
			{
				"conflict", func(v *store.PoolView) { v.Conflict = &pool.Error{Reason: reason.OverlapsNode, Message: "c"} },
				[]string{ready, "Conflict=True OverlapsNode: c"},
			},
			{"conflict over", func(*store.PoolView) {}, []string{ready, none}},
		} {
			b.set(t, step.edit)
			got, n := b.settle(t)
			if diff := cmp.Diff(step.want, conditions(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
			if n > 1 {
				t.Errorf("%s: %d writes", step.name, n)
			}
		}
	})
}

// A status that somebody else wrote or wiped is put back, and foreign conditions are let be.
func TestPutsTheStatusBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		before, _ := b.settle(t)
		p, _ := b.pools.Find("a")
		p.Status = v1alpha1.IPAddressPoolStatus{}
		b.pools.Put(t, p)
		got, n := b.settle(t)
		got.Conditions[0].LastTransitionTime = before.Conditions[0].LastTransitionTime
		if diff := cmp.Diff(before, got); diff != "" || n != 1 {
			t.Errorf("after the wipe, %d writes (-want +got):\n%s", n, diff)
		}
		p, _ = b.pools.Find("a")
		p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{Type: "Foreign", Status: metav1.ConditionTrue, Reason: "R"})
		b.pools.Put(t, p)
		if _, n := b.settle(t); n != 0 {
			t.Errorf("%d writes because of a foreign condition", n)
		}
	})
}

// The younger object hears once of each conflict, again when it changes or comes back.
func TestTellsTheYoungerObject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		say := func(conflicts ...store.RangeConflict) []string {
			b.views.mu.Lock()
			b.views.conflicts = conflicts
			b.views.mu.Unlock()
			b.AddressesChanged()
			b.settle(t)
			var out []string
			for len(b.events.Events) > 0 {
				out = append(out, <-b.events.Events)
			}
			return out
		}
		node := store.RangeConflict{Kind: "Node", Name: "worker", Pool: "a", Message: "m1"}
		cidr := store.RangeConflict{Kind: "ServiceCIDR", Name: "more", UID: "u", Pool: "a", Message: "m2"}
		for _, step := range []struct {
			name string
			give []store.RangeConflict
			want []string
		}{
			{"none", nil, nil},
			{"two", []store.RangeConflict{node, cidr}, []string{"Warning OverlapsPodRange m1", "Warning OverlapsServiceRange m2"}},
			{"the same", []store.RangeConflict{node, cidr}, nil},
			{"one over", []store.RangeConflict{cidr}, nil},
			{"it is back", []store.RangeConflict{node, cidr}, []string{"Warning OverlapsPodRange m1"}},
		} {
			if diff := cmp.Diff(step.want, say(step.give...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
		}
	})
}

func TestNewRefusesMissingInputs(t *testing.T) {
	t.Parallel()
	if _, err := poolstatus.New(poolstatus.Options{}); err == nil {
		t.Error("no error for empty options")
	}
}
