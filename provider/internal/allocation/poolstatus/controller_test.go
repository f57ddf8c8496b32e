// SPDX-License-Identifier: Apache-2.0

package poolstatus_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation/poolstatus"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// pools is a fake that keeps what was applied, after some failures.
type pools struct {
	mu       sync.Mutex
	failures int
	applied  []v1alpha1.IPAddressPool
}

func (p *pools) Patch(_ context.Context, _ string, pt types.PatchType, data []byte, o metav1.PatchOptions, sub ...string) (*v1alpha1.IPAddressPool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failures > 0 {
		p.failures--
		return nil, errors.New("injected")
	}
	var got v1alpha1.IPAddressPool
	if err := json.Unmarshal(data, &got); err != nil {
		return nil, err
	}
	if pt != types.ApplyPatchType || o.FieldManager == "" || o.Force == nil || len(sub) != 1 || sub[0] != "status" {
		return nil, errors.New("not a server-side apply of the status")
	}
	p.applied = append(p.applied, got)
	return &got, nil
}

func (p *pools) drain() []v1alpha1.IPAddressPool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.applied
	p.applied = nil
	return out
}

// views is a fake store.
type views struct {
	mu   sync.Mutex
	list []store.PoolView
}

func (*views) Subscribe(store.Listener)        {}
func (*views) WaitReady(context.Context) error { return nil }

func (v *views) Pools() []store.PoolView {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]store.PoolView(nil), v.list...)
}

func (v *views) set(list ...store.PoolView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list = list
}

func view(assigned int64, fault *pool.Error) store.PoolView {
	return store.PoolView{
		Pool:         &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "p", Generation: 3}},
		AssignedIPv4: assigned, AvailableIPv4: 10 - assigned, Fault: fault,
	}
}

func TestWritesOnChangeOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
		p, v := &pools{failures: 1}, &views{}
		v.set(view(0, nil))
		c := poolstatus.New(p, v, time.Now)
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		settle := func() []v1alpha1.IPAddressPool {
			time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			return p.drain()
		}
		first := settle()
		if len(first) != 1 {
			t.Fatalf("%d writes at start, after one failure", len(first))
		}
		got := first[0].Status
		cond := got.Conditions[0]
		if got.AvailableIPv4 != 10 || cond.Status != metav1.ConditionTrue || cond.Reason != "Valid" || cond.ObservedGeneration != 3 {
			t.Errorf("status %+v", got)
		}
		for range 50 { // many changes at once are one write
			c.AddressesChanged()
		}
		v.set(view(4, nil))
		if again := settle(); len(again) != 1 || again[0].Status.AssignedIPv4 != 4 || again[0].Status.AvailableIPv4 != 6 {
			t.Errorf("after a change: %+v", again)
		}
		c.AddressesChanged()
		if again := settle(); len(again) != 0 {
			t.Errorf("%d writes without a change", len(again))
		}
		v.set(view(0, &pool.Error{Reason: reason.Overlap, Message: "m"}))
		c.AddressesChanged()
		bad := settle()
		if len(bad) != 1 {
			t.Fatalf("%d writes of a fault", len(bad))
		}
		if diff := cmp.Diff([]string{"False", "Overlap", "m"}, []string{string(bad[0].Status.Conditions[0].Status), bad[0].Status.Conditions[0].Reason, bad[0].Status.Conditions[0].Message}); diff != "" {
			t.Errorf("condition (-want +got):\n%s", diff)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}
