// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// write carries a decision out: claims, then the record, then the claims of addresses
// given up, then the groups. A crash between any two writes leaves what the next attempt
// finishes. It returns nil for a Service that needs nothing.
func (a *Allocator) write(ctx context.Context, n *need, d *decision) (*v1alpha1.LoadBalancer, error) {
	all := d.all()
	if !n.serves && len(all)+len(d.onNodes)+len(d.refused) == 0 {
		if !a.involved(n.svc) {
			return nil, nil
		}
		return nil, a.letGo(ctx, n.svc)
	}
	w := writer{a: a, n: n, failing: d.fault != nil, onNodes: d.onNodes}
	names := make([]string, 0, len(all))
	for i := range all {
		g := &all[i]
		// A pool may be replaced by one of another name while its addresses are held, or
		// called another in the cluster that claims come from.
		g.Pool = cmp.Or(a.store.PoolAt(g.Addr), g.Pool)
		name := v1alpha1.ClaimName(g.Addr)
		names = append(names, name)
		w.addrs = append(w.addrs, v1alpha1.LoadBalancerAddress{
			Address: g.Addr.String(), Pool: g.Pool, Claim: name, Rule: v1alpha1.AllocationRule(g.Rule),
		})
	}
	group := a.store.GroupFor(names)
	for _, g := range all {
		if err := w.claim(ctx, g, group); err != nil {
			return nil, err
		}
	}
	r, err := w.record(ctx)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, errGone) {
		// Another leader may have written other addresses: ours must not stay.
		return nil, errors.Join(err, w.undo(ctx))
	}
	if err != nil {
		return nil, err
	}
	if err := a.hide(ctx, n, r, names); err != nil {
		return nil, err
	}
	return r, a.releaseOthers(ctx, n.svc.UID, names)
}

// hide sees to it that a Service shows no address that it is about to give up: what its
// status shows is served by kube-proxy, also when the address is another's by then.
// The cache may not know of the last status write.
func (a *Allocator) hide(ctx context.Context, n *need, r *v1alpha1.LoadBalancer, keep []string) error {
	svc := n.svc
	leaves := func(name string) bool {
		return !slices.Contains(keep, name) && store.Holds(a.store.Claim(name), svc.UID)
	}
	if !slices.ContainsFunc(a.store.ClaimsOf(svc.UID), func(c *v1alpha1.IPClaim) bool { return leaves(c.Name) }) {
		return nil
	}
	now, err := a.service(ctx, svc.Namespace, svc.Name)
	if apierrors.IsNotFound(err) || err == nil && now.UID != svc.UID {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get service %s: %w", convert.Key(svc), err)
	}
	status := now.Status.LoadBalancer.DeepCopy()
	status.Ingress = slices.DeleteFunc(status.Ingress, func(i corev1.LoadBalancerIngress) bool {
		addr, err := netip.ParseAddr(i.IP)
		return err == nil && leaves(v1alpha1.ClaimName(addr))
	})
	if len(status.Ingress) == len(now.Status.LoadBalancer.Ingress) {
		return nil
	}
	if next := statusOf(r, n.back); len(next.Ingress) > 0 {
		status = next // what will be shown anyway
	}
	updated := now.DeepCopy()
	updated.Status.LoadBalancer = *status
	got, err := a.patch(ctx, now, updated)
	switch {
	case err == nil:
		n.now = got
		return nil
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return fmt.Errorf("hide addresses given up of service %s: %w", convert.Key(svc), store.ErrConflict)
	default:
		return fmt.Errorf("hide addresses given up of service %s: %w", convert.Key(svc), err)
	}
}

// writer is one attempt to carry a decision out.
type writer struct {
	a     *Allocator
	n     *need
	addrs []v1alpha1.LoadBalancerAddress
	// onNodes are addresses of nodes, which have no claims.
	onNodes []string
	// proposal is asked for once, when something new is written.
	proposed bool
	success  []string
	ads      []v1alpha1.AdvertisementReference
	// failing: the Service cannot have what it asks for.
	failing bool
	// created are the claims that this attempt made, entered those of others that it joined.
	created []*v1alpha1.IPClaim
	entered []string
}

func (w *writer) propose() {
	if w.proposed || len(w.addrs) == 0 {
		return
	}
	p := w.a.announcer.Propose(w.n.svc, w.addrs)
	w.success, w.ads, w.proposed = p.Successors, p.Advertisements, true
}

// claim creates the claim of one address, joins it, or brings it up to date.
func (w *writer) claim(ctx context.Context, g store.Decision, group string) error {
	uid := w.n.svc.UID
	if g.Claim == nil {
		w.propose()
		next := store.NewClaim(g.Assignment, group, w.n.svc)
		next.Spec.Successors = w.success
		w.terms(g, next)
		c, err := w.a.store.CreateClaim(ctx, next)
		if err == nil {
			w.created = append(w.created, c)
		}
		return err
	}
	next, err := w.next(ctx, g, group)
	if err != nil {
		return err
	}
	next.Spec.Pool = g.Pool
	if next.Spec.Services[0].UID == uid {
		w.terms(g, next)
	}
	if equality.Semantic.DeepEqual(next.Spec, g.Claim.Spec) {
		return nil
	}
	// What is taken over from a namesake stays: given back, it would not be kept for us.
	joins := !store.Holds(g.Claim, uid) && len(next.Spec.Services) > len(g.Claim.Spec.Services)
	if _, err = w.a.store.UpdateClaim(ctx, next); err == nil && joins {
		w.entered = append(w.entered, next.Name)
	}
	return err
}

// next returns the claim with the Service on it: where it is already, on a claim kept for
// its name, in the place of a namesake that is gone, or beside others.
func (w *writer) next(ctx context.Context, g store.Decision, group string) (*v1alpha1.IPClaim, error) {
	svc, next, ref := w.n.svc, g.Claim.DeepCopy(), store.Reference(w.n.svc)
	bound := next.Spec.Phase == v1alpha1.ClaimBound
	namesake := slices.ContainsFunc(next.Spec.Services, func(r v1alpha1.ServiceReference) bool {
		return r.Namespace == svc.Namespace && r.Name == svc.Name
	})
	i := slices.IndexFunc(next.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == ref.UID })
	switch {
	case bound && i >= 0:
		next.Spec.Services[i] = ref
	case namesake && (next.Spec.Phase == v1alpha1.ClaimRetained || bound && len(next.Spec.Services) == 1):
		if err := w.a.mustExist(ctx, svc); err != nil {
			return nil, err
		}
		w.propose()
		next.Spec.Services, next.Spec.Successors, next.Spec.Group = []v1alpha1.ServiceReference{ref}, w.success, group
		next.Spec.Phase, next.Spec.RetainUntil = v1alpha1.ClaimBound, nil
	case bound && namesake:
		if err := w.a.mustExist(ctx, svc); err != nil {
			return nil, err
		}
		next.Spec.Services = store.Succeed(next.Spec.Services, ref)
	case bound:
		next.Spec.Services = append(next.Spec.Services, ref)
	default:
		return nil, fmt.Errorf("claim %s: %w", next.Name, store.ErrConflict)
	}
	return next, nil
}

// terms writes what the first Service of a claim says for all of them: by what key others
// may join, and how long the address is kept afterwards.
func (w *writer) terms(g store.Decision, c *v1alpha1.IPClaim) {
	switch {
	case g.Rule == pool.RuleExternalIP:
		c.Spec.SharingKey, c.Spec.RetainFor = pool.ExternalKey, nil
	case w.n.req != nil:
		c.Spec.SharingKey = w.n.req.Pool.SharingKey
		c.Spec.RetainFor = w.a.store.RetainFor(g.Pool, w.n.req.Reclaim)
	}
}

// undo takes back the claims that this attempt made and that the record, as it is now,
// does not list. No node has taken a new claim over if it is unchanged; else it goes the
// way of every released claim.
func (w *writer) undo(ctx context.Context) error {
	r := w.a.record(w.n.svc)
	listed := func(name string) bool {
		return r != nil && slices.ContainsFunc(r.Spec.Addresses, func(ra v1alpha1.LoadBalancerAddress) bool { return ra.Claim == name })
	}
	var errs []error
	for _, c := range w.created {
		if listed(c.Name) {
			continue
		}
		err := w.a.store.DeleteClaim(ctx, c)
		if errors.Is(err, store.ErrConflict) {
			err = w.a.release(ctx, c.Name, w.n.svc.UID)
		}
		errs = append(errs, err)
	}
	for _, name := range w.entered {
		if !listed(name) {
			errs = append(errs, w.a.release(ctx, name, w.n.svc.UID))
		}
	}
	return errors.Join(errs...)
}

// record creates or updates the record, if it differs.
func (w *writer) record(ctx context.Context) (*v1alpha1.LoadBalancer, error) {
	svc := w.n.svc
	known := w.a.store.Record(convert.Key(svc))
	mine := known != nil && known.Spec.ServiceUID == svc.UID
	spec := v1alpha1.LoadBalancerSpec{
		ServiceUID: svc.UID, Addresses: w.addrs, Ports: convert.Ports(svc),
		ExternalTrafficPolicy: convert.TrafficPolicy(svc), NodeAddresses: w.onNodes,
	}
	w.forwarding(&spec, w.a.record(svc))
	if mine && equality.Semantic.DeepEqual(known.Spec.Addresses, w.addrs) {
		// Only announcement changes the advertisements of addresses that stay.
		spec.Advertisements = known.Spec.Advertisements
		if equality.Semantic.DeepEqual(known.Spec, spec) {
			return known, nil
		}
	} else {
		w.propose()
		spec.Advertisements = w.ads
	}
	r, err := w.writeRecord(ctx, known, spec)
	if err != nil {
		return nil, err
	}
	for _, ad := range w.addrs {
		if !mine || !slices.ContainsFunc(known.Spec.Addresses, func(ra v1alpha1.LoadBalancerAddress) bool { return ra.Claim == ad.Claim }) {
			w.a.tellAllocated(ctx, svc, w.addrs)
			break
		}
	}
	return r, nil
}

// writeRecord creates a record or replaces the spec of the known one. The record of a
// Service that is gone and had the same name becomes this one's; what is left of its
// claims is let go, unless this one may need it yet.
func (w *writer) writeRecord(ctx context.Context, known *v1alpha1.LoadBalancer, spec v1alpha1.LoadBalancerSpec) (*v1alpha1.LoadBalancer, error) {
	a, svc := w.a, w.n.svc
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
		var leave []string
		if w.failing {
			leave = a.heritage(old)
		}
		if err := a.releaseOthers(ctx, old, leave); err != nil {
			return nil, err
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
		parts = append(parts, ad.Address+" "+v1alpha1.Origin(ad.Pool))
	}
	text := strings.Join(parts, ", ")
	klog.FromContext(ctx).Info("Assigned addresses", "service", klog.KObj(svc), "addresses", text)
	a.events.Event(svc, corev1.EventTypeNormal, eventAllocated, "assigned "+text)
}

// statusOf returns the Service status that a record stands for: external IPs are no
// part of it. ipMode is written out, as the API server would fill it in. back: kube-proxy
// is to take over, whatever the record still says.
func statusOf(r *v1alpha1.LoadBalancer, back bool) *corev1.LoadBalancerStatus {
	mode := modeOf(r, back)
	s := &corev1.LoadBalancerStatus{}
	for _, ra := range r.Spec.Addresses {
		if ra.Rule != v1alpha1.RuleExternalIP {
			s.Ingress = append(s.Ingress, corev1.LoadBalancerIngress{IP: ra.Address, IPMode: &mode})
		}
	}
	return s
}
