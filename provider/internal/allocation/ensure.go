// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// maxAttempts bounds how often a lost compare-and-swap is tried again at once (each
// loss teaches one address that another leader took, while caches lag); after
// that the caller's queue does it.
const maxAttempts = 64

// ensure brings claims and record to what the Service needs; its key is locked.
// failed means that a person has to settle something; the status is then what the
// Service still holds.
func (a *Allocator) ensure(ctx context.Context, svc *corev1.Service) (status *corev1.LoadBalancerStatus, failed bool, err error) {
	req, fault := convert.Service(svc)
	if fault != nil {
		return a.fail(ctx, svc, fault)
	}
	a.warn(svc, req.Warnings)
	for range maxAttempts {
		a.setHeld(svc, &req.Pool)
		got, fault := a.store.Allocate(&req.Pool)
		if fault != nil {
			return a.fail(ctx, svc, fault)
		}
		r, err := a.write(ctx, svc, req, got)
		a.store.Cancel(svc.UID)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		a.settled(svc, req, got)
		return statusOf(r), false, nil
	}
	return nil, false, fmt.Errorf("allocate for service %s: %w", convert.Key(svc), store.ErrConflict)
}

// setHeld fills in what the Service holds: the addresses of its record first, then
// those of claims that an earlier attempt left behind.
func (a *Allocator) setHeld(svc *corev1.Service, req *pool.Request) {
	req.Held = nil
	if r := a.record(svc); r != nil {
		for _, ra := range r.Spec.Addresses {
			addr, err := netip.ParseAddr(ra.Address)
			if err != nil || !a.mayHold(svc, addr) {
				continue
			}
			req.Held = append(req.Held, pool.Assignment{Addr: addr, Pool: ra.Pool})
		}
	}
	for _, c := range a.store.ClaimsOf(svc.UID) {
		addr, err := v1alpha1.ParseClaimName(c.Name)
		listed := slices.ContainsFunc(req.Held, func(h pool.Assignment) bool { return h.Addr == addr })
		if err == nil && !listed && c.Spec.Phase == v1alpha1.ClaimBound {
			req.Held = append(req.Held, pool.Assignment{Addr: addr, Pool: c.Spec.Pool})
		}
	}
}

// mayHold reports whether nobody else has the address, nor had it until just now.
func (a *Allocator) mayHold(svc *corev1.Service, addr netip.Addr) bool {
	h, held := a.store.Holding(addr)
	return !held || h.State == pool.Bound && h.Names(loadbalancer.ServiceUID(svc.UID))
}

// record returns the Service's own record, nil when there is none.
func (a *Allocator) record(svc *corev1.Service) *v1alpha1.LoadBalancer {
	r := a.store.Record(convert.Key(svc))
	if r == nil || r.Spec.ServiceUID != svc.UID {
		return nil
	}
	return r
}

// write carries a decision out: claims, then the record, then the claims of addresses
// given up. A crash between any two writes leaves what the next attempt finishes.
func (a *Allocator) write(ctx context.Context, svc *corev1.Service, req *convert.ServiceRequest, got []pool.Assignment) (*v1alpha1.LoadBalancer, error) {
	addrs := make([]v1alpha1.LoadBalancerAddress, 0, len(got))
	names := make([]string, 0, len(got))
	for _, g := range got {
		name := v1alpha1.ClaimName(g.Addr)
		names = append(names, name)
		addrs = append(addrs, v1alpha1.LoadBalancerAddress{Address: g.Addr.String(), Pool: g.Pool, Claim: name})
	}
	w := writer{a: a, svc: svc, addrs: addrs}
	for _, g := range got {
		if err := w.claim(ctx, g, slices.Min(names)); err != nil {
			return nil, err
		}
	}
	r, err := w.record(ctx, req)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, errGone) {
		// Another leader may have written other addresses: ours must not stay.
		return nil, errors.Join(err, w.undo(ctx))
	}
	if err != nil {
		return nil, err
	}
	for _, c := range a.store.ClaimsOf(svc.UID) {
		if !slices.Contains(names, c.Name) {
			if err := a.release(ctx, c.Name, svc.UID); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// writer is one attempt to carry a decision out.
type writer struct {
	a     *Allocator
	svc   *corev1.Service
	addrs []v1alpha1.LoadBalancerAddress
	// proposal is asked for once, when something new is written.
	proposed bool
	success  []string
	ads      []v1alpha1.AdvertisementReference
	// created are the claims that this attempt made.
	created []*v1alpha1.IPClaim
}

func (w *writer) propose() {
	if w.proposed {
		return
	}
	p := w.a.announcer.Propose(w.svc, w.addrs)
	w.success, w.ads, w.proposed = p.Successors, p.Advertisements, true
}

// claim creates the claim of one address, or brings it up to date.
func (w *writer) claim(ctx context.Context, g pool.Assignment, group string) error {
	ref := store.Reference(w.svc)
	c := w.a.store.Claim(v1alpha1.ClaimName(g.Addr))
	if c == nil {
		w.propose()
		c, err := w.a.store.CreateClaim(ctx, store.NewClaim(g, group, w.svc, w.success))
		if err == nil {
			w.created = append(w.created, c)
		}
		return err
	}
	i := slices.IndexFunc(c.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == ref.UID })
	if i < 0 || c.Spec.Phase != v1alpha1.ClaimBound {
		return fmt.Errorf("claim %s: %w", c.Name, store.ErrConflict)
	}
	if c.Spec.Group == group && equality.Semantic.DeepEqual(c.Spec.Services[i], ref) {
		return nil
	}
	next := c.DeepCopy()
	next.Spec.Group = group
	next.Spec.Services[i] = ref
	_, err := w.a.store.UpdateClaim(ctx, next)
	return err
}

// undo deletes the claims that this attempt made and that the record, as it is now,
// does not list. No node has taken them over if they are unchanged; else they go the
// way of every released claim.
func (w *writer) undo(ctx context.Context) error {
	r := w.a.record(w.svc)
	var errs []error
	for _, c := range w.created {
		if r != nil && slices.ContainsFunc(r.Spec.Addresses, func(ra v1alpha1.LoadBalancerAddress) bool { return ra.Claim == c.Name }) {
			continue
		}
		err := w.a.store.DeleteClaim(ctx, c)
		if errors.Is(err, store.ErrConflict) {
			err = w.a.release(ctx, c.Name, w.svc.UID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// record creates or updates the record, if it differs.
func (w *writer) record(ctx context.Context, req *convert.ServiceRequest) (*v1alpha1.LoadBalancer, error) {
	known := w.a.store.Record(convert.Key(w.svc))
	spec := v1alpha1.LoadBalancerSpec{
		ServiceUID: w.svc.UID, Addresses: w.addrs, Ports: req.Ports, TargetType: cmp.Or(req.TargetType, v1alpha1.TargetPod),
		ExternalTrafficPolicy: req.TrafficPolicy, Forwarding: v1alpha1.ForwardingKubeProxy,
	}
	if known != nil && known.Spec.ServiceUID == w.svc.UID && equality.Semantic.DeepEqual(known.Spec.Addresses, w.addrs) {
		// Only announcement changes the advertisements of addresses that stay.
		spec.Advertisements = known.Spec.Advertisements
		if equality.Semantic.DeepEqual(known.Spec, spec) {
			return known, nil
		}
	} else {
		w.propose()
		spec.Advertisements = w.ads
	}
	r, err := w.a.writeRecord(ctx, w.svc, known, spec)
	if err == nil && (known == nil || known.Spec.ServiceUID != w.svc.UID || !equality.Semantic.DeepEqual(known.Spec.Addresses, w.addrs)) {
		w.a.tellAllocated(ctx, w.svc, w.addrs)
	}
	return r, err
}

// writeRecord creates a record or replaces the spec of the known one. The record of a
// Service that is gone and had the same name becomes this one's; its claims are let go.
func (a *Allocator) writeRecord(ctx context.Context, svc *corev1.Service, known *v1alpha1.LoadBalancer, spec v1alpha1.LoadBalancerSpec) (*v1alpha1.LoadBalancer, error) {
	if known == nil {
		return a.store.CreateRecord(ctx, &v1alpha1.LoadBalancer{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: svc.Namespace, Name: svc.Name, OwnerReferences: owners(svc),
			},
			Spec: spec,
		})
	}
	if old := known.Spec.ServiceUID; old != svc.UID {
		if err := a.mustExist(ctx, svc); err != nil {
			return nil, err
		}
		for _, c := range a.store.ClaimsOf(old) {
			if err := a.release(ctx, c.Name, old); err != nil {
				return nil, err
			}
		}
	}
	next := known.DeepCopy()
	next.OwnerReferences = owners(svc)
	next.Spec = spec
	return a.store.UpdateRecord(ctx, next)
}

// mustExist fails unless the API server has this very Service: what is about to be
// taken from a namesake may be the namesake's by right, and ours the stale copy.
func (a *Allocator) mustExist(ctx context.Context, svc *corev1.Service) error {
	now, err := a.service(ctx, svc.Namespace, svc.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get service %s: %w", convert.Key(svc), err)
	}
	if err != nil || now.UID != svc.UID {
		return fmt.Errorf("service %s of UID %s: %w", convert.Key(svc), svc.UID, errGone)
	}
	return nil
}

func owners(svc *corev1.Service) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID}}
}

func (a *Allocator) tellAllocated(ctx context.Context, svc *corev1.Service, addrs []v1alpha1.LoadBalancerAddress) {
	parts := make([]string, 0, len(addrs))
	for _, ad := range addrs {
		parts = append(parts, ad.Address+" from pool "+strconv.Quote(ad.Pool))
	}
	text := strings.Join(parts, ", ")
	klog.FromContext(ctx).Info("Assigned addresses", "service", klog.KObj(svc), "addresses", text)
	a.events.Event(svc, corev1.EventTypeNormal, eventAllocated, "assigned "+text)
}

// statusOf returns the Service status that a record stands for. ipMode is written out,
// as the API server would fill it in.
func statusOf(r *v1alpha1.LoadBalancer) *corev1.LoadBalancerStatus {
	mode := corev1.LoadBalancerIPModeVIP
	s := &corev1.LoadBalancerStatus{}
	for _, ra := range r.Spec.Addresses {
		s.Ingress = append(s.Ingress, corev1.LoadBalancerIngress{IP: ra.Address, IPMode: &mode})
	}
	return s
}
