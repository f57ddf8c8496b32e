// SPDX-License-Identifier: Apache-2.0

// Package poolstatus writes the status of IPAddressPools: the conditions Ready and
// Conflict, the counters and the largest tenants; and it tells Nodes and ServiceCIDRs
// whose ranges overlap an older pool. It is the only writer of that status, writes on
// change only, puts back what others change, and decides nothing that allocation relies
// on. The provider runs it as the ip-address-pool controller; the store tells it of
// changes.
package poolstatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	fieldManager = "fairlead-ip-address-pool"
	// gather bounds the writes while many addresses change: one per pool and interval.
	gather = 500 * time.Millisecond
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
	RangeConflicts() []store.RangeConflict
}

// Options are the controller's inputs; all are required.
type Options struct {
	Pools Pools
	Views Views
	// Informer caches the pools, for what their status says now; the caller starts it
	// after New.
	Informer cache.SharedIndexInformer
	// Recorder emits events on Nodes and ServiceCIDRs.
	Recorder record.EventRecorder
	Now      func() time.Time
}

// writtenStatus is our latest write of a status, kept until the cache has it.
type writtenStatus struct {
	resourceVersion string
	status          v1alpha1.IPAddressPoolStatus
}

// conflict names a range of the cluster and a pool that is older.
type conflict struct{ kind, name, pool string }

// Controller is a [store.Listener].
type Controller struct {
	opts   Options
	synced []cache.InformerSynced
	// queue holds one element while something has changed.
	queue *worker.Queue[struct{}]
	// written and told are touched by the one worker only. told is what was last said
	// about a conflict.
	written map[types.UID]writtenStatus
	told    map[conflict]string
}

// New makes the controller, subscribes it to the views and hooks into the informer.
func New(opts Options) (*Controller, error) {
	if opts.Pools == nil || opts.Views == nil || opts.Informer == nil || opts.Recorder == nil || opts.Now == nil {
		return nil, errors.New("pool status controller: an option is missing")
	}
	c := &Controller{
		opts:    opts,
		queue:   worker.New[struct{}]("ip_address_pool"),
		written: map[types.UID]writtenStatus{},
		told:    map[conflict]string{},
	}
	// The store tells of specs and addresses, only the informer of a status that
	// somebody else wrote.
	reg, err := opts.Informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.AddressesChanged() },
		UpdateFunc: func(any, any) { c.AddressesChanged() },
	})
	if err != nil {
		return nil, fmt.Errorf("pool status controller: add event handler: %w", err)
	}
	c.synced = []cache.InformerSynced{reg.HasSynced}
	opts.Views.Subscribe(c)
	return c, nil
}

// AddressesChanged has the statuses looked at, a little later.
func (c *Controller) AddressesChanged() { c.queue.AddAfter(struct{}{}, gather) }

// ServiceChanged is of no interest to pools.
func (c *Controller) ServiceChanged(loadbalancer.ServiceKey) {}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("ip-address-pool"))
	if err := c.opts.Views.WaitReady(ctx); err != nil {
		c.queue.ShutDown()
		return err
	}
	c.queue.Add(struct{}{})
	c.queue.Run(ctx, 1, c.synced, c.sync)
	return nil
}

func (c *Controller) sync(ctx context.Context, _ struct{}) (time.Duration, error) {
	var errs []error
	seen := make(map[types.UID]bool)
	for _, v := range c.opts.Views.Pools() {
		seen[v.Pool.UID] = true
		errs = append(errs, c.write(ctx, v))
	}
	for uid := range c.written {
		if !seen[uid] {
			delete(c.written, uid)
		}
	}
	c.tell(c.opts.Views.RangeConflicts())
	return 0, errors.Join(errs...)
}

// tell emits one Warning event on the object of each range that came after a pool and
// overlaps it, again only when there is something new to say.
func (c *Controller) tell(conflicts []store.RangeConflict) {
	still := make(map[conflict]string, len(conflicts))
	for _, rc := range conflicts {
		at := conflict{rc.Kind, rc.Name, rc.Pool}
		still[at] = rc.Message
		if c.told[at] == rc.Message {
			continue
		}
		ref := &corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: rc.Kind, Name: rc.Name, UID: rc.UID}
		why := reason.OverlapsServiceRange
		if rc.Kind == "Node" {
			// Events about nodes have the name as the UID, as the kubelet's own do.
			ref.APIVersion, ref.UID, why = "v1", types.UID(rc.Name), reason.OverlapsPodRange
		}
		c.opts.Recorder.Event(ref, corev1.EventTypeWarning, why.String(), rc.Message)
	}
	c.told = still
}

// base returns a pool's status as it is on the server as far as we know: the cache's,
// or our own later write. It is false for a pool that the cache does not have.
func (c *Controller) base(p *v1alpha1.IPAddressPool) (v1alpha1.IPAddressPoolStatus, bool) {
	cached := client.Get[v1alpha1.IPAddressPool](c.opts.Informer, p.Name)
	if cached == nil || cached.UID != p.UID {
		return v1alpha1.IPAddressPoolStatus{}, false
	}
	if w, ok := c.written[p.UID]; ok {
		order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, w.resourceVersion)
		if err == nil && order < 0 {
			return w.status, true
		}
		delete(c.written, p.UID)
	}
	return cached.Status, true
}

func (c *Controller) write(ctx context.Context, v store.PoolView) error {
	known, ok := c.base(v.Pool)
	if !ok {
		return nil // gone, or to come: the informer tells
	}
	want := c.status(v, known.Conditions)
	if equality.Semantic.DeepEqual(withOwnConditions(known), want) {
		return nil
	}
	doc, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion().String(),
		"kind":       "IPAddressPool",
		"metadata":   map[string]any{"name": v.Pool.Name, "uid": v.Pool.UID},
		"status":     want,
	})
	if err != nil {
		return fmt.Errorf("encode status of pool %s: %w", v.Pool.Name, err)
	}
	force := true
	stored, err := c.opts.Pools.Patch(ctx, v.Pool.Name, types.ApplyPatchType, doc,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, "status")
	switch {
	case err == nil:
		c.written[v.Pool.UID] = writtenStatus{stored.ResourceVersion, stored.Status}
		return nil
	case apierrors.IsNotFound(err):
		return nil // gone, and that wakes us
	default:
		return fmt.Errorf("write status of pool %s: %w", v.Pool.Name, err)
	}
}

// status is what a pool's status should be, given its present conditions.
func (c *Controller) status(v store.PoolView, present []metav1.Condition) v1alpha1.IPAddressPoolStatus {
	out := v1alpha1.IPAddressPoolStatus{
		TotalIPv4: v.TotalIPv4, AssignedIPv4: v.AssignedIPv4, AvailableIPv4: v.AvailableIPv4,
		TotalIPv6: v.TotalIPv6, AssignedIPv6: v.AssignedIPv6, AvailableIPv6: v.AvailableIPv6,
		Conditions: withOwnConditions(v1alpha1.IPAddressPoolStatus{Conditions: present}).Conditions,
	}
	for _, t := range v.Tenants {
		out.LargestTenants = append(out.LargestTenants, v1alpha1.PoolTenant{Namespace: t.Namespace, Addresses: t.Addresses})
	}
	set := func(name string, status metav1.ConditionStatus, why reason.Reason, message string) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: name, Status: status, ObservedGeneration: v.Pool.Generation,
			Reason: why.String(), Message: message, LastTransitionTime: metav1.NewTime(c.opts.Now().Truncate(time.Second)),
		})
	}
	switch {
	case v.Fault != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, v.Fault.Reason, v.Fault.Message)
	case v.Disabled:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, reason.Disabled, "disabled: gives no more addresses, Services keep what they hold")
	default:
		set(v1alpha1.ConditionReady, metav1.ConditionTrue, reason.Valid, "the pool is in use")
	}
	switch {
	case v.Conflict != nil:
		set(v1alpha1.ConditionConflict, metav1.ConditionTrue, v.Conflict.Reason, v.Conflict.Message)
	case meta.FindStatusCondition(present, v1alpha1.ConditionConflict) != nil:
		set(v1alpha1.ConditionConflict, metav1.ConditionFalse, reason.NoConflict, "every address of the pool may be handed out")
	}
	return out
}

// withOwnConditions leaves of a status's conditions those of this package, in its order.
func withOwnConditions(s v1alpha1.IPAddressPoolStatus) v1alpha1.IPAddressPoolStatus {
	var own []metav1.Condition
	for _, name := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionConflict} {
		if cond := meta.FindStatusCondition(s.Conditions, name); cond != nil {
			own = append(own, *cond)
		}
	}
	s.Conditions = own
	return s
}
