// SPDX-License-Identifier: Apache-2.0

// Package allocation gives Services their addresses and takes them back. It owns the
// order of writes (claim, record, Service status; each a compare-and-swap, so that
// every step may be the last one of a process), the one Warning event per failure,
// and the service-address controller, which finishes what could not be done at once
// and repairs statuses. It does not choose addresses (loadbalancer/pool does), nor
// say who announces them (announcement does), nor end a claim's quarantine (claims
// does). The cloud provider's LoadBalancer methods call Ensure, Delete and Exists.
package allocation

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// eventAllocated is the reason of the Normal event that tells new addresses. Reasons
// of Warning events are those of package reason.
const eventAllocated = "AddressAllocated"

// goneMemory is how long a deletion is remembered against a stale cache.
const goneMemory = 10 * time.Minute

// errGone means that a stale copy asked for a Service that is gone or was let go.
var errGone = errors.New("the Service is gone or was let go")

// Announcer completes claims and records, and tells of failures in conditions.
type Announcer interface {
	Propose(svc *corev1.Service, addrs []v1alpha1.LoadBalancerAddress) announcement.Proposal
	AllocationFailed(svc *corev1.Service, r reason.Reason, message string)
	AllocationSucceeded(key loadbalancer.ServiceKey)
}

// Allocator is made by New and is safe for concurrent use.
type Allocator struct {
	store     *store.Store
	announcer Announcer
	events    record.EventRecorder
	service   ServiceGetter
	now       func() time.Time
	locks     *keyLocks

	mu sync.Mutex
	// open are the Services without every address that they need or may have.
	open map[loadbalancer.ServiceKey]opening
	// warned is the last warning told of a Service.
	warned map[loadbalancer.ServiceKey]warning
	// gone are the Services let go, so that a stale cache does not bring them back.
	gone map[types.UID]time.Time
}

// opening is a Service that waits for addresses.
type opening struct {
	uid types.UID
	// failed has no address at all, or not the one asked for; else a second family
	// that is welcome is missing.
	failed  bool
	reason  reason.Reason
	message string
}

// warning is what was told of one Service.
type warning struct {
	uid  types.UID
	text string
}

// ServiceGetter reads one Service.
type ServiceGetter func(ctx context.Context, namespace, name string) (*corev1.Service, error)

// Options are an Allocator's parts; all are needed.
type Options struct {
	Store     *store.Store
	Announcer Announcer
	Events    record.EventRecorder
	// Service reads a Service from the API server, not from a cache.
	Service ServiceGetter
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
}

// New makes an Allocator.
func New(o Options) *Allocator {
	return &Allocator{
		store: o.Store, announcer: o.Announcer, events: o.Events, service: o.Service, now: o.Now, locks: newKeyLocks(),
		open:   make(map[loadbalancer.ServiceKey]opening),
		warned: make(map[loadbalancer.ServiceKey]warning),
		gone:   make(map[types.UID]time.Time),
	}
}

// Ensure gives a Service its addresses, on the word of the service controller, which
// has the Service's finalizer in place. It returns the status to show. Whatever a
// person has to settle is cloudprovider.ImplementedElsewhere, bare: a condition and an
// event tell it, and the service-address controller finishes it.
func (a *Allocator) Ensure(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, error) {
	if err := a.store.WaitReady(ctx); err != nil {
		return nil, err
	}
	defer a.locks.lock(convert.Key(svc))()
	a.setGone(svc.UID, false)
	status, failed, err := a.ensure(ctx, svc)
	if err != nil {
		return nil, err
	}
	if failed {
		return nil, cloudprovider.ImplementedElsewhere
	}
	return status, nil
}

// repair is Ensure on the word of a cache: it leaves Services alone that were let go.
// It returns the status to show, also when the Service still fails.
func (a *Allocator) repair(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, error) {
	defer a.locks.lock(convert.Key(svc))()
	if a.isGone(svc.UID) {
		return nil, errGone
	}
	status, _, err := a.ensure(ctx, svc)
	return status, err
}

// Exists reports whether anything of a Service is left: a claim of any phase, or its
// record. Upstream skips the deletion when not, so a record is looked for uncached.
func (a *Allocator) Exists(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	if err := a.store.WaitReady(ctx); err != nil {
		return nil, false, err
	}
	r := a.store.Record(convert.Key(svc))
	if r == nil || r.Spec.ServiceUID != svc.UID {
		var err error
		if r, err = a.store.RefreshRecord(ctx, svc.Namespace, svc.Name); err != nil {
			return nil, false, err
		}
	}
	if r != nil && r.Spec.ServiceUID == svc.UID {
		return statusOf(r), true, nil
	}
	return &corev1.LoadBalancerStatus{}, len(a.store.ClaimsOf(svc.UID)) > 0, nil
}

// Delete lets a Service go and never waits: its claims become Releasing, its record
// goes. It is idempotent.
func (a *Allocator) Delete(ctx context.Context, svc *corev1.Service) error {
	if err := a.store.WaitReady(ctx); err != nil {
		return err
	}
	key := convert.Key(svc)
	defer a.locks.lock(key)()
	a.setGone(svc.UID, true)
	// There is no second deletion: what another leader just wrote counts too.
	r, err := a.store.RefreshRecord(ctx, svc.Namespace, svc.Name)
	if err != nil {
		return err
	}
	mine := r != nil && r.Spec.ServiceUID == svc.UID
	if mine {
		if err := a.store.RefreshClaims(ctx, r); err != nil {
			return err
		}
	}
	var errs []error
	for _, c := range a.store.ClaimsOf(svc.UID) {
		errs = append(errs, a.release(ctx, c.Name, svc.UID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if mine {
		if err := a.store.DeleteRecord(ctx, r); err != nil {
			return err
		}
	}
	a.close(key, svc.UID)
	a.mu.Lock()
	delete(a.warned, key)
	a.mu.Unlock()
	return nil
}

// release takes a Service off a claim, again while others change it.
func (a *Allocator) release(ctx context.Context, name string, uid types.UID) error {
	err := error(nil)
	for range maxAttempts {
		c := a.store.Claim(name)
		if c == nil {
			return nil
		}
		if err = a.store.ReleaseClaim(ctx, c, uid, a.now()); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

func (a *Allocator) setGone(uid types.UID, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !gone {
		delete(a.gone, uid)
		return
	}
	now := a.now()
	for u, at := range a.gone {
		if now.Sub(at) > goneMemory {
			delete(a.gone, u)
		}
	}
	a.gone[uid] = now
}

func (a *Allocator) isGone(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, gone := a.gone[uid]
	return gone
}

// openings returns the Services that wait for addresses.
func (a *Allocator) openings() []loadbalancer.ServiceKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]loadbalancer.ServiceKey, 0, len(a.open))
	for k := range a.open {
		out = append(out, k)
	}
	return out
}

// isOpen reports whether a Service waits for addresses.
func (a *Allocator) isOpen(key loadbalancer.ServiceKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.open[key]
	return ok
}

// close ends a Service's waiting and the condition that says so, which may be an
// earlier leader's.
func (a *Allocator) close(key loadbalancer.ServiceKey, uid types.UID) {
	a.mu.Lock()
	if a.open[key].uid == uid {
		delete(a.open, key)
	}
	a.mu.Unlock()
	a.announcer.AllocationSucceeded(key)
}

// forget drops what is remembered of a Service that is no more.
func (a *Allocator) forget(key loadbalancer.ServiceKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, key)
	delete(a.warned, key)
}
