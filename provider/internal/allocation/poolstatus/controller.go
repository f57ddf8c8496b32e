// SPDX-License-Identifier: Apache-2.0

// Package poolstatus writes the status of IPAddressPools: the Ready condition and the
// counters. It is their only writer, writes on change only, and decides nothing that
// allocation relies on. The provider runs it as the ip-address-pool controller; the
// store tells it of changes.
package poolstatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

const (
	fieldManager = "fairlead-ip-address-pool"
	// gather bounds the writes while many addresses change: one per pool and interval.
	gather = 500 * time.Millisecond
	// maxBackoff bounds the pause between attempts that the API server failed.
	maxBackoff = 30 * time.Second
)

// Pools is how statuses are written.
type Pools interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (*v1alpha1.IPAddressPool, error)
}

// Views is where pools come from; a [store.Store] is one.
type Views interface {
	Subscribe(l store.Listener)
	WaitReady(ctx context.Context) error
	Pools() []store.PoolView
}

// Controller is a [store.Listener].
type Controller struct {
	pools Pools
	views Views
	now   func() time.Time
	// queue holds one element while something has changed.
	queue workqueue.TypedRateLimitingInterface[struct{}]
	// written is what was last written, so that a lagging cache causes no second write.
	// Only Run's goroutine touches it.
	written map[types.UID]v1alpha1.IPAddressPoolStatus
}

// New makes the controller and subscribes it to the views.
func New(pools Pools, views Views, now func() time.Time) *Controller {
	c := &Controller{
		pools: pools,
		views: views,
		now:   now,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[struct{}](gather, maxBackoff),
			workqueue.TypedRateLimitingQueueConfig[struct{}]{Name: "ip_address_pool"}),
		written: make(map[types.UID]v1alpha1.IPAddressPoolStatus),
	}
	views.Subscribe(c)
	return c
}

// AddressesChanged has the statuses looked at, a little later.
func (c *Controller) AddressesChanged() { c.queue.AddAfter(struct{}{}, gather) }

// ServiceChanged is of no interest to pools.
func (c *Controller) ServiceChanged(loadbalancer.ServiceKey) {}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("ip-address-pool"))
	if err := c.views.WaitReady(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	c.queue.Add(struct{}{})
	for {
		item, shutdown := c.queue.Get()
		if shutdown {
			return nil
		}
		if err := c.sync(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Writing pool statuses failed, trying again")
			c.queue.AddRateLimited(item)
		} else {
			c.queue.Forget(item)
		}
		c.queue.Done(item)
	}
}

func (c *Controller) sync(ctx context.Context) error {
	var errs []error
	seen := make(map[types.UID]bool)
	for _, v := range c.views.Pools() {
		seen[v.Pool.UID] = true
		errs = append(errs, c.write(ctx, v))
	}
	for uid := range c.written {
		if !seen[uid] {
			delete(c.written, uid)
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) write(ctx context.Context, v store.PoolView) error {
	known, ok := c.written[v.Pool.UID]
	if !ok {
		known = v.Pool.Status
	}
	status := v1alpha1.IPAddressPoolStatus{
		AssignedIPv4: v.AssignedIPv4, AvailableIPv4: v.AvailableIPv4,
		AssignedIPv6: v.AssignedIPv6, AvailableIPv6: v.AvailableIPv6,
		Conditions: append([]metav1.Condition(nil), known.Conditions...),
	}
	cond := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, ObservedGeneration: v.Pool.Generation,
		Reason: reason.Valid.String(), Message: "the pool is in use", LastTransitionTime: metav1.NewTime(c.now()),
	}
	if v.Fault != nil {
		cond.Status, cond.Reason, cond.Message = metav1.ConditionFalse, v.Fault.Reason.String(), v.Fault.Message
	}
	meta.SetStatusCondition(&status.Conditions, cond)
	if equality.Semantic.DeepEqual(known, status) {
		return nil
	}
	doc, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion().String(),
		"kind":       "IPAddressPool",
		"metadata":   map[string]any{"name": v.Pool.Name, "uid": v.Pool.UID},
		"status":     status,
	})
	if err != nil {
		return fmt.Errorf("encode status of pool %s: %w", v.Pool.Name, err)
	}
	force := true
	_, err = c.pools.Patch(ctx, v.Pool.Name, types.ApplyPatchType, doc,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, "status")
	switch {
	case err == nil:
		c.written[v.Pool.UID] = status
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // the pool is gone, or another by now, and that wakes us
	default:
		return fmt.Errorf("write status of pool %s: %w", v.Pool.Name, err)
	}
}
