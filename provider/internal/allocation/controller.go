// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	// repairDelay leaves the service controller time to write the status itself, so
	// that an ordinary Service costs one status write, not two.
	repairDelay = time.Second
	// repairWorkers repair side by side; openings are served one by one, by age.
	repairWorkers = 4
)

// Controller is the service-address controller. It finishes Services that wait for an
// address as soon as the cause goes, the oldest first, and repairs statuses, claims and
// records that somebody else has changed. Services with Fairlead's load balancer class,
// which the framework's service controller leaves alone, it serves from first to last,
// under a finalizer of its own; and it sees to external IPs. It is a [store.Listener].
type Controller struct {
	store *store.Store
	alloc *Allocator
	queue *worker.Queue[loadbalancer.ServiceKey]
	// addresses holds one element while the line is due.
	addresses *worker.Queue[struct{}]

	mu sync.Mutex
	// resting are Services whose last attempt the API server failed: they come back by
	// the queue with growing pauses, and not whenever an address comes free, which a
	// failed attempt itself brings about. Guarded by mu.
	resting map[loadbalancer.ServiceKey]struct{}
	// seen are the copies looked at last of the Services that nobody else serves.
	// Guarded by mu.
	seen map[loadbalancer.ServiceKey]*corev1.Service
}

// NewController makes the controller and subscribes it to the store.
func NewController(s *store.Store, a *Allocator) *Controller {
	c := &Controller{
		store:     s,
		alloc:     a,
		resting:   make(map[loadbalancer.ServiceKey]struct{}),
		seen:      make(map[loadbalancer.ServiceKey]*corev1.Service),
		queue:     worker.New[loadbalancer.ServiceKey]("service_address"),
		addresses: worker.New[struct{}]("service_address_open"),
	}
	a.wake, a.later = c.AddressesChanged, func(key loadbalancer.ServiceKey, d time.Duration) { c.queue.AddAfter(key, d) }
	s.Subscribe(c)
	return c
}

// AddressesChanged wakes the Services that wait for an address.
func (c *Controller) AddressesChanged() { c.addresses.Add(struct{}{}) }

// ServiceChanged has a Service looked at: at once if it has changed itself and nobody
// else does it, or if another forwards for it by now, else a little later.
func (c *Controller) ServiceChanged(key loadbalancer.ServiceKey) {
	svc := c.store.Service(key)
	if svc != nil && (c.alone(svc) && c.unseen(svc) || outdated(svc, c.store.Record(key))) {
		c.queue.Add(key)
		return
	}
	c.queue.AddAfter(key, repairDelay)
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("service-address")
	ctx = klog.NewContext(ctx, logger)
	if err := c.store.WaitReady(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c.addresses.Run(ctx, 1, nil, func(ctx context.Context, _ struct{}) (time.Duration, error) {
			c.serveLine(ctx)
			return 0, nil
		})
	})
	c.queue.Run(ctx, repairWorkers, nil, func(ctx context.Context, key loadbalancer.ServiceKey) (time.Duration, error) {
		err := c.sync(ctx, key)
		if errors.Is(err, store.ErrConflict) {
			err = fmt.Errorf("%w: %w", worker.ErrLost, err)
		}
		return 0, err
	})
	wg.Wait()
	return nil
}

// logFailure tells of an attempt that the API server failed. That somebody else was faster
// is no news.
func logFailure(ctx context.Context, err error, keysAndValues ...any) {
	switch logger := klog.FromContext(ctx); {
	case ctx.Err() != nil:
	case apierrors.IsConflict(err), errors.Is(err, store.ErrConflict):
		logger.V(4).Info("Somebody else was faster, trying again", append(keysAndValues, "err", err)...)
	default:
		logger.Error(err, "Sync failed, trying again", keysAndValues...)
	}
}

// sync looks at one Service. Those that wait for an address take their turn by age.
func (c *Controller) sync(ctx context.Context, key loadbalancer.ServiceKey) error {
	svc := c.store.Service(key)
	if svc == nil {
		c.alloc.forget(key)
		c.rest(key, false)
		c.see(key, nil)
		return nil
	}
	if c.alone(svc) {
		c.see(key, svc)
	}
	if ended(c.store.Classes(), svc) {
		err := c.end(ctx, svc)
		c.rest(key, err != nil)
		return err
	}
	if _, waits := c.alloc.opening(key); waits && !c.rests(key) {
		c.alloc.change(key, func(o *opening) { o.tried = 0 })
		c.addresses.Add(struct{}{})
		return nil
	}
	_, err := c.repair(ctx, svc, c.alloc.ticket(svc))
	c.rest(key, err != nil)
	return err
}

// serveLine tries those that wait and that something may have changed for, the oldest
// first. Nobody is asked again while all that could help him is known to be gone.
func (c *Controller) serveLine(ctx context.Context) {
	var t store.Ticket
	// full are the messages of those that found nothing in this round, and the count of
	// freed addresses then.
	full := make(map[string]uint64)
	for _, o := range c.alloc.line() {
		freed := c.store.Freed()
		svc := c.store.Service(o.key)
		if svc == nil || svc.UID != o.uid || c.rests(o.key) {
			continue
		}
		if o.tried != freed && o.tried != 0 && o.full != "" && full[o.full] == freed {
			c.alloc.change(o.key, func(o *opening) { o.tried = freed })
			o.tried = freed
		}
		if o.tried != freed {
			queued, err := c.repair(ctx, svc, t)
			if err != nil && ctx.Err() == nil {
				logFailure(ctx, err, "service", klog.KObj(svc))
				c.rest(o.key, true)
				c.queue.Retry(o.key)
			}
			if queued { // something came free meanwhile: the oldest is asked first
				c.addresses.Add(struct{}{})
				return
			}
		}
		if now, waits := c.alloc.opening(o.key); waits {
			t = now.before(t)
			if now.full != "" {
				full[now.full] = now.tried
			}
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
	c.alloc.change(key, func(o *opening) { o.stuck = rest })
}

// repair brings a Service's claims, record and status to what they should be. It acts
// only under a finalizer: without it nobody would be told of the Service's end. queued
// means that older Services have to be asked first.
func (c *Controller) repair(ctx context.Context, cached *corev1.Service, t store.Ticket) (queued bool, err error) {
	svc, mine, err := c.take(ctx, cached)
	if err != nil || !mine {
		c.alloc.change(convert.Key(cached), func(o *opening) { o.stuck = true })
		return false, err
	}
	// Until the status is written: the next decision must not be shown before this one.
	defer c.alloc.locks.lock(convert.Key(svc))()
	out, err := c.alloc.repair(ctx, svc, t)
	if errors.Is(err, errGone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("repair service %s: %w", convert.Key(svc), err)
	}
	if out.queued {
		c.addresses.Add(struct{}{})
		return true, nil
	}
	if !c.store.Classes().Serves(svc) {
		return false, nil
	}
	return false, c.show(ctx, out.svc, out.status)
}

// show writes a Service's status if it differs. A Service without an address keeps what
// its status shows, but for what is another's by now or was released: it may come from
// another load balancer or a backup, and that status is all that tells its address.
func (c *Controller) show(ctx context.Context, svc *corev1.Service, status *corev1.LoadBalancerStatus) error {
	if len(status.Ingress) == 0 {
		status = svc.Status.LoadBalancer.DeepCopy()
		status.Ingress = slices.DeleteFunc(status.Ingress, func(i corev1.LoadBalancerIngress) bool { return c.ofAnother(svc, i.IP) })
	}
	if servicehelper.LoadBalancerStatusEqual(&svc.Status.LoadBalancer, status) {
		return nil
	}
	updated := svc.DeepCopy()
	updated.Status.LoadBalancer = *status
	_, err := c.alloc.patch(ctx, svc, updated)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of service %s: %w", convert.Key(svc), err)
	}
	klog.FromContext(ctx).V(2).Info("Wrote service status", "service", klog.KObj(svc))
	return nil
}

// ofAnother reports whether a claim gives an address to others and not to this Service,
// or is on its way to do so: a released address may be another's as soon as its claim is
// gone, and the claim stays while a Service shows it.
func (c *Controller) ofAnother(svc *corev1.Service, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	claim := c.store.Claim(v1alpha1.ClaimName(addr))
	if claim == nil {
		return false
	}
	named := slices.ContainsFunc(claim.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == svc.UID })
	return claim.Spec.Phase == v1alpha1.ClaimBound && !named || claim.Spec.Phase == v1alpha1.ClaimReleasing && named
}
