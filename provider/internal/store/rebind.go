// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// rebindRetry is how long a failed start-up reconciliation waits for its next attempt.
const rebindRetry = time.Second

// Run does the start-up reconciliation of a new leader and then blocks until ctx is
// done. It waits for the caches given, lists claims, records, pools and Services
// uncached, and makes the missing claim of every address that a Service holds by its
// record or shows in its status: all of it before the first allocation, or a new
// Service could get an old one's address after a restore or a migration.
func (s *Store) Run(ctx context.Context, synced ...cache.InformerSynced) error {
	logger := klog.FromContext(ctx).WithName("store")
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	for {
		err := s.rebind(klog.NewContext(ctx, logger))
		if err == nil {
			break
		}
		logger.Error(err, "Start-up reconciliation failed, trying again")
		retry := time.NewTimer(rebindRetry)
		select {
		case <-ctx.Done():
			retry.Stop()
			return ctx.Err()
		case <-retry.C:
		}
	}
	close(s.ready)
	logger.Info("Start-up reconciliation done")
	<-ctx.Done()
	return nil
}

func (s *Store) rebind(ctx context.Context) error {
	services, err := s.load(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var errs []error
	for _, svc := range services {
		if svc.DeletionTimestamp != nil {
			continue
		}
		for _, d := range s.unclaimed(svc) {
			errs = append(errs, s.rebindOne(ctx, svc, d))
		}
	}
	return errors.Join(errs...)
}

// load takes in everything, uncached: without a resource version the API server
// answers from a quorum.
func (s *Store) load(ctx context.Context) ([]*corev1.Service, error) {
	pools, err := s.api.ListPools(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	claims, err := s.api.Claims().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	records, err := s.api.Records(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	services, err := s.api.ListServices(ctx)
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	for i := range pools.Items {
		s.ObservePool(&pools.Items[i])
	}
	for i := range claims.Items {
		s.ObserveClaim(&claims.Items[i])
	}
	for i := range records.Items {
		s.ObserveRecord(&records.Items[i])
	}
	out := make([]*corev1.Service, 0, len(services.Items))
	for i := range services.Items {
		out = append(out, &services.Items[i])
	}
	return out, nil
}

// unclaimed returns the addresses that a Service holds or shows and whose claim does
// not name it: those of its record, else those of its status that lie in a pool.
// Retained and Releasing claims are left alone: nobody else gets those meanwhile.
func (s *Store) unclaimed(svc *corev1.Service) []Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	var held []pool.Assignment
	serves := s.classes.Serves(svc)
	if r := s.records[convert.Key(svc)]; r != nil && r.Spec.ServiceUID == svc.UID && len(r.Spec.Addresses) > 0 {
		for _, ra := range r.Spec.Addresses {
			a, err := netip.ParseAddr(ra.Address)
			if err == nil && (serves || ra.Rule == v1alpha1.RuleExternalIP) {
				held = append(held, pool.Assignment{Addr: a, Pool: ra.Pool, Rule: pool.Rule(ra.Rule)})
			}
		}
	} else if serves {
		for _, a := range convert.StatusAddresses(svc) {
			if p, ok := s.set.ByAddr(a); ok && !s.ledger.Reserved(a) {
				held = append(held, pool.Assignment{Addr: a, Pool: p.Name(), Rule: pool.RuleShown})
			}
		}
	}
	var out []Decision
	for _, as := range held {
		c := s.claims[v1alpha1.ClaimName(as.Addr)]
		if c == nil || c.Spec.Phase == v1alpha1.ClaimBound && !names(c, svc.UID) {
			out = append(out, Decision{as, c})
		}
	}
	return out
}

// rebindOne makes the claim of an address, or joins the one that an older Service has
// by now, if the two may share.
func (s *Store) rebindOne(ctx context.Context, svc *corev1.Service, d Decision) error {
	logger := klog.FromContext(ctx).WithValues("service", klog.KObj(svc), "address", d.Addr)
	key := ""
	if d.Rule == pool.RuleExternalIP {
		key = pool.ExternalKey
	} else if req, fault := convert.Service(svc); fault == nil {
		key = req.Pool.SharingKey
	}
	var err error
	switch {
	case d.Claim == nil:
		names := []string{v1alpha1.ClaimName(d.Addr)}
		for _, c := range s.ClaimsOf(svc.UID) {
			names = append(names, c.Name)
		}
		c := NewClaim(d.Assignment, s.GroupFor(names), svc)
		c.Spec.SharingKey = key
		_, err = s.CreateClaim(ctx, c)
	case pool.Fits(convert.Holding(d.Claim), convert.Tenant(svc), key) != nil:
		err = ErrConflict
	default:
		next := d.Claim.DeepCopy()
		next.Spec.Services = Succeed(next.Spec.Services, Reference(svc))
		_, err = s.UpdateClaim(ctx, next)
	}
	switch {
	case err == nil:
		logger.Info("Bound an address again", "pool", d.Pool)
		if d.Rule == pool.RuleShown {
			s.mu.Lock()
			s.rebound[v1alpha1.ClaimName(d.Addr)] = struct{}{}
			s.mu.Unlock()
		}
	case errors.Is(err, ErrConflict):
		logger.Info("Address of a Service belongs to another by now")
	case apierrors.IsInvalid(err):
		// Trying again cannot help, and every other Service waits for this to end. The
		// address stays booked as wanted.
		logger.Error(err, "Address of a Service cannot be claimed")
	default:
		return err
	}
	return nil
}

// Rebound reports whether this leader made a claim, or joined it, because a Service's
// status showed the address.
func (s *Store) Rebound(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.rebound[name]
	return ok
}

// NewClaim returns the claim of an address for a Service, not written yet.
func NewClaim(as pool.Assignment, group string, svc *corev1.Service) *v1alpha1.IPClaim {
	return &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ClaimName(as.Addr)},
		Spec: v1alpha1.IPClaimSpec{
			Address:  as.Addr.String(),
			Pool:     as.Pool,
			Group:    group,
			Services: []v1alpha1.ServiceReference{Reference(svc)},
			Phase:    v1alpha1.ClaimBound,
		},
	}
}

// Succeed returns a claim's Services with one more, in the place of those of its name.
func Succeed(services []v1alpha1.ServiceReference, ref v1alpha1.ServiceReference) []v1alpha1.ServiceReference {
	out := slices.DeleteFunc(slices.Clone(services), func(r v1alpha1.ServiceReference) bool {
		return r.Namespace == ref.Namespace && r.Name == ref.Name
	})
	return append(out, ref)
}

// Reference returns how claims name a Service.
func Reference(svc *corev1.Service) v1alpha1.ServiceReference {
	return v1alpha1.ServiceReference{
		Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, Ports: convert.Ports(svc), Backends: convert.Backends(svc),
	}
}
