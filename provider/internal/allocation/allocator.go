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
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
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

// goneMemory is how long, at least, a deletion is remembered against a stale cache.
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
	patch     Patcher
	now       func() time.Time
	locks     *keyLocks
	defaults  Defaults
	// wake has the line looked at, and later a Service; set before anything runs.
	wake  func()
	later func(loadbalancer.ServiceKey, time.Duration)

	mu sync.Mutex
	// open are the Services without every address that they need or may have.
	open map[loadbalancer.ServiceKey]opening
	// warned is the last warning told of a Service.
	warned map[loadbalancer.ServiceKey]warning
	// gone are the Services let go, so that a stale cache does not bring them back.
	gone map[types.UID]departure
	// retreating are the Services on their way to kube-proxy.
	retreating map[loadbalancer.ServiceKey]retreat
	// pruned is when the oldest of them were forgotten last.
	pruned time.Time
}

// departure is when a Service was let go, and the version of it that said so.
type departure struct {
	at  time.Time
	svc *corev1.Service
}

// warning is what was told of one Service.
type warning struct {
	uid  types.UID
	text string
}

// ServiceGetter reads one Service.
type ServiceGetter func(ctx context.Context, namespace, name string) (*corev1.Service, error)

// Patcher writes the difference between two copies of a Service, in its status or its
// finalizers, provided that the Service still is as the old copy says; else the error is
// a conflict. It returns the Service as it is then.
type Patcher func(ctx context.Context, old, updated *corev1.Service) (*corev1.Service, error)

// Options are an Allocator's parts; all are needed.
type Options struct {
	Store     *store.Store
	Announcer Announcer
	Events    record.EventRecorder
	// Service reads a Service from the API server, not from a cache.
	Service ServiceGetter
	// Patch writes a Service.
	Patch Patcher
	// Now is the clock, time.Now outside tests.
	Now func() time.Time
	// Defaults for Services that do not say: kube-proxy, and no scheduler, where left out.
	Defaults Defaults
}

// New makes an Allocator.
func New(o Options) *Allocator {
	o.Defaults.Forwarding = cmp.Or(o.Defaults.Forwarding, v1alpha1.ForwardingKubeProxy)
	return &Allocator{
		store: o.Store, announcer: o.Announcer, events: o.Events, service: o.Service, patch: o.Patch, now: o.Now, locks: newKeyLocks(),
		defaults: o.Defaults, wake: func() {}, later: func(loadbalancer.ServiceKey, time.Duration) {},
		retreating: make(map[loadbalancer.ServiceKey]retreat),
		open:       make(map[loadbalancer.ServiceKey]opening),
		warned:     make(map[loadbalancer.ServiceKey]warning),
		gone:       make(map[types.UID]departure),
	}
}

// Ensure gives a Service its addresses, on the word of the service controller, which
// has the Service's finalizer in place. It returns the status to show. Whatever a
// person has to settle, or has to wait its turn, is cloudprovider.ImplementedElsewhere,
// bare: a condition and an event tell it, and the service-address controller finishes
// it. So is a Service that Fairlead does not serve.
func (a *Allocator) Ensure(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, error) {
	if !a.store.Classes().Serves(svc) {
		return nil, cloudprovider.ImplementedElsewhere
	}
	if err := a.store.WaitReady(ctx); err != nil {
		return nil, err
	}
	key := convert.Key(svc)
	defer a.locks.lock(key)()
	a.setGone(svc, false)
	out, err := a.ensure(ctx, svc, a.ticket(svc))
	if err != nil {
		return nil, err
	}
	a.change(key, func(o *opening) { o.vouched = true })
	if out.queued {
		a.wake()
	}
	if out.queued || out.failed {
		return nil, cloudprovider.ImplementedElsewhere
	}
	return out.status, nil
}

// repair is Ensure on the word of a cache: it leaves Services alone that were let go. The
// status of the outcome is to be shown also when the Service still fails. The caller
// has locked the key.
func (a *Allocator) repair(ctx context.Context, svc *corev1.Service, t store.Ticket) (outcome, error) {
	if a.isGone(svc) {
		return outcome{}, errGone
	}
	return a.ensure(ctx, svc, t)
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
		return statusOf(r, false), true, nil
	}
	return &corev1.LoadBalancerStatus{}, a.store.HasClaims(svc.UID), nil
}

// Delete lets a Service's load balancer go and never waits: its claims become Retained or
// Releasing, its record goes. A Service that goes on living keeps its external IPs. It
// is idempotent.
func (a *Allocator) Delete(ctx context.Context, svc *corev1.Service) error {
	if err := a.store.WaitReady(ctx); err != nil {
		return err
	}
	defer a.locks.lock(convert.Key(svc))()
	if svc.DeletionTimestamp == nil && !a.store.Classes().Serves(svc) && len(externalIPs(svc)) > 0 {
		_, err := a.ensure(ctx, svc, store.Ticket{})
		return err
	}
	a.setGone(svc, true)
	replaced, err := a.replaced(ctx, svc)
	if err != nil {
		return err
	}
	if replaced {
		return a.releaseOthers(ctx, svc.UID, a.heritage(svc.UID))
	}
	return a.letGo(ctx, svc)
}

// replaced reports whether a Service ended without our seeing it, and one of its name
// that is served is there. The orderly end of a Service leaves no room for that.
func (a *Allocator) replaced(ctx context.Context, svc *corev1.Service) (bool, error) {
	if svc.DeletionTimestamp != nil {
		return false, nil
	}
	now, err := a.service(ctx, svc.Namespace, svc.Name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get service %s: %w", convert.Key(svc), err)
	}
	return now.UID != svc.UID && a.store.Classes().Serves(now), nil
}

// heritage returns the claims of a Service that is gone which a namesake may take over:
// if none does, the claims controller ends them.
func (a *Allocator) heritage(uid types.UID) []string {
	var out []string
	for _, c := range a.store.ClaimsOf(uid) {
		if store.Holds(c, uid) && len(c.Spec.Services) == 1 {
			out = append(out, c.Name)
		}
	}
	return out
}

// letGo takes everything from a Service; its key is locked.
func (a *Allocator) letGo(ctx context.Context, svc *corev1.Service) error {
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
	if err := a.releaseOthers(ctx, svc.UID, nil); err != nil {
		return err
	}
	if mine {
		if err := a.store.DeleteRecord(ctx, r); err != nil {
			return err
		}
	}
	key := convert.Key(svc)
	a.close(key, svc.UID)
	a.mu.Lock()
	delete(a.warned, key)
	a.mu.Unlock()
	return nil
}

// releaseOthers takes a Service off all its claims but those to keep, and puts the groups
// right of those that stay.
func (a *Allocator) releaseOthers(ctx context.Context, uid types.UID, keep []string) error {
	seeds := slices.Clone(keep)
	var errs []error
	for _, c := range a.store.ClaimsOf(uid) {
		if !slices.Contains(keep, c.Name) {
			errs = append(errs, a.release(ctx, c.Name, uid))
			seeds = append(seeds, c.Name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return a.regroup(ctx, seeds)
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

// regroup writes the groups of claims that are linked to those named, where they are
// not what they should be.
func (a *Allocator) regroup(ctx context.Context, names []string) error {
	for range maxAttempts {
		wrong := a.store.Misgrouped(names)
		if len(wrong) == 0 {
			return nil
		}
		for _, c := range wrong {
			if _, err := a.store.UpdateClaim(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}
	return fmt.Errorf("group claims %v: %w", names, store.ErrConflict)
}

func (a *Allocator) setGone(svc *corev1.Service, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !gone {
		delete(a.gone, svc.UID)
		return
	}
	now := a.now()
	if now.Sub(a.pruned) > goneMemory {
		a.pruned = now
		maps.DeleteFunc(a.gone, func(_ types.UID, d departure) bool { return now.Sub(d.at) > goneMemory })
	}
	a.gone[svc.UID] = departure{now, svc}
}

// isGone reports whether a copy of a Service is from before it was let go. A newer one
// has come back: its type or class has changed twice.
func (a *Allocator) isGone(svc *corev1.Service) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d, gone := a.gone[svc.UID]
	if !gone {
		return false
	}
	c, err := resourceversion.CompareResourceVersion(svc.ResourceVersion, d.svc.ResourceVersion)
	return err != nil || c <= 0
}

// forget drops what is remembered of a Service that is no more.
func (a *Allocator) forget(key loadbalancer.ServiceKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, key)
	delete(a.warned, key)
	delete(a.retreating, key)
}
