// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

const (
	// repairDelay leaves the service controller time to write the status itself, so
	// that an ordinary Service costs one status write, not two.
	repairDelay = time.Second
	// repairWorkers repair side by side; openings are served one by one, by age.
	repairWorkers = 4
	// maxBackoff bounds the pause between attempts that the API server failed.
	maxBackoff = 30 * time.Second
)

// StatusPatcher writes a Service's status: the difference between two copies of it.
type StatusPatcher func(ctx context.Context, old, updated *corev1.Service) error

// Controller is the service-address controller. It finishes Services that wait for an
// address as soon as the cause goes, the oldest first, and repairs statuses, claims and
// records that somebody else has changed. It is a [store.Listener].
type Controller struct {
	store *store.Store
	alloc *Allocator
	patch StatusPatcher
	queue workqueue.TypedRateLimitingInterface[loadbalancer.ServiceKey]
	// addresses holds one element while openings are due.
	addresses workqueue.TypedRateLimitingInterface[struct{}]

	mu sync.Mutex
	// resting are Services whose last attempt the API server failed: they come back by
	// the queue with growing pauses, and not whenever an address comes free, which a
	// failed attempt itself brings about. Guarded by mu.
	resting map[loadbalancer.ServiceKey]struct{}
}

// NewController makes the controller and subscribes it to the store.
func NewController(s *store.Store, a *Allocator, patch StatusPatcher) *Controller {
	c := &Controller{
		store:   s,
		alloc:   a,
		patch:   patch,
		resting: make(map[loadbalancer.ServiceKey]struct{}),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[loadbalancer.ServiceKey](50*time.Millisecond, maxBackoff),
			workqueue.TypedRateLimitingQueueConfig[loadbalancer.ServiceKey]{Name: "service_address"}),
		addresses: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[struct{}](50*time.Millisecond, maxBackoff),
			workqueue.TypedRateLimitingQueueConfig[struct{}]{Name: "service_address_open"}),
	}
	s.Subscribe(c)
	return c
}

// AddressesChanged wakes the Services that wait for an address.
func (c *Controller) AddressesChanged() { c.addresses.Add(struct{}{}) }

// ServiceChanged has a Service looked at, a little later.
func (c *Controller) ServiceChanged(key loadbalancer.ServiceKey) { c.queue.AddAfter(key, repairDelay) }

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("service-address")
	ctx = klog.NewContext(ctx, logger)
	if err := c.store.WaitReady(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		work(ctx, c.addresses, func(ctx context.Context, _ struct{}) error {
			c.serveOpenings(ctx)
			return nil
		})
	})
	for range repairWorkers {
		wg.Go(func() { work(ctx, c.queue, c.sync) })
	}
	<-ctx.Done()
	c.queue.ShutDown()
	c.addresses.ShutDown()
	wg.Wait()
	return nil
}

// work takes items until the queue shuts down.
func work[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], do func(context.Context, T) error) {
	for {
		item, shutdown := q.Get()
		if shutdown {
			return
		}
		if err := do(ctx, item); err != nil {
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Sync failed, trying again", "item", item)
			}
			q.AddRateLimited(item)
		} else {
			q.Forget(item)
		}
		q.Done(item)
	}
}

// sync looks at one Service. Those that wait for an address take their turn by age.
func (c *Controller) sync(ctx context.Context, key loadbalancer.ServiceKey) error {
	svc := c.store.Service(key)
	if svc == nil {
		c.alloc.forget(key)
		c.rest(key, false)
		return nil
	}
	if c.alloc.isOpen(key) && !c.rests(key) {
		c.addresses.Add(struct{}{})
		return nil
	}
	err := c.repair(ctx, svc)
	c.rest(key, err != nil)
	return err
}

// serveOpenings tries every Service that waits, the oldest first.
func (c *Controller) serveOpenings(ctx context.Context) {
	var waiting []*corev1.Service
	for _, key := range c.alloc.openings() {
		if svc := c.store.Service(key); svc != nil && !c.rests(key) {
			waiting = append(waiting, svc)
		}
	}
	slices.SortFunc(waiting, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, svc := range waiting {
		if err := c.repair(ctx, svc); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Sync failed, trying again", "service", klog.KObj(svc))
			c.rest(convert.Key(svc), true)
			c.queue.AddRateLimited(convert.Key(svc))
		}
	}
}

func (c *Controller) rests(key loadbalancer.ServiceKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.resting[key]
	return ok
}

func (c *Controller) rest(key loadbalancer.ServiceKey, rest bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rest {
		c.resting[key] = struct{}{}
	} else {
		delete(c.resting, key)
	}
}

// repair brings a Service's claims, record and status to what they should be. It acts
// only under the service controller's finalizer: without it nobody would be told of
// the Service's end.
func (c *Controller) repair(ctx context.Context, svc *corev1.Service) error {
	if !convert.Ours(svc) || !servicehelper.HasLBFinalizer(svc) {
		return nil
	}
	status, err := c.alloc.repair(ctx, svc)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("repair service %s: %w", convert.Key(svc), err)
	}
	// A Service without an address keeps what its status shows: it may come from
	// another load balancer or a backup, and that status is all that tells its address.
	if len(status.Ingress) == 0 || servicehelper.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		return nil
	}
	updated := svc.DeepCopy()
	updated.Status.LoadBalancer = *status
	err = c.patch(ctx, svc, updated)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of service %s: %w", convert.Key(svc), err)
	}
	klog.FromContext(ctx).V(2).Info("Wrote service status", "service", klog.KObj(svc))
	return nil
}
