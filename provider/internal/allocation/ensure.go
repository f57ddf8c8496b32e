// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// maxAttempts bounds how often a lost compare-and-swap is tried again at once (each
// loss teaches one address that another leader took, while caches lag); after
// that the caller's queue does it.
const maxAttempts = 64

// maxAddresses is how many addresses a record lists: those of a load balancer in both
// families, and as many external IPs as the admission policy lets a Service have.
const maxAddresses = 2*v1alpha1.MaxAddressesPerFamily + 16

// need is what a Service needs, as read from it.
type need struct {
	svc *corev1.Service
	// serves: Fairlead is to give it a load balancer.
	serves bool
	// leave: its load balancer is another's by now, and what it has of Fairlead's stays
	// as it is until it ends.
	leave bool
	// req is nil when the Service cannot be understood; fault says why.
	req      *convert.ServiceRequest
	fault    *pool.Error
	tenant   pool.Tenant
	external []netip.Addr
	// wishes about forwarding; nil when what the Service says cannot be understood.
	wishes *convert.Wishes
	// back: kube-proxy is to forward, or to take over from IPVS.
	back bool
	// now is the Service as it is since its status was written on the way.
	now *corev1.Service
}

// outcome is what became of a Service.
type outcome struct {
	// status to show: the addresses of its load balancer.
	status *corev1.LoadBalancerStatus
	// svc is the Service as it is now, as far as is known.
	svc *corev1.Service
	// failed: a person has to settle something before it has its load balancer.
	failed bool
	// queued: others have to be asked first.
	queued bool
}

// decision is what a Service is to have.
type decision struct {
	balancer, external []store.Decision
	// fault is why the load balancer is not as it should be; balancer is then what is kept.
	fault *pool.Error
	// onNodes are external IPs that are nodes' own.
	onNodes []string
	// refused are the external IPs that it cannot have, and what else it says in vain.
	refused []pool.Error
	// lost says why it leaves addresses that it had.
	lost []pool.Error
	// short: a family that it would like is missing.
	short  bool
	queued bool
}

func (d *decision) all() []store.Decision { return slices.Concat(d.balancer, d.external) }

func externalIPs(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	return convert.ExternalIPs(svc)
}

// involved reports whether a Service that is not served has, or may have, anything.
func (a *Allocator) involved(svc *corev1.Service) bool {
	return len(externalIPs(svc)) > 0 || a.record(svc) != nil ||
		slices.ContainsFunc(a.store.ClaimsOf(svc.UID), func(c *v1alpha1.IPClaim) bool { return store.Holds(c, svc.UID) })
}

func (a *Allocator) read(svc *corev1.Service) *need {
	classes := a.store.Classes()
	n := &need{svc: svc, now: svc, serves: classes.Serves(svc), tenant: convert.Tenant(svc), external: externalIPs(svc)}
	n.leave = !n.serves && svc.DeletionTimestamp == nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		svc.Spec.LoadBalancerClass == nil
	if n.serves {
		n.req, n.fault = convert.Service(svc)
	}
	if w, err := convert.Forwarding(svc); err == nil {
		n.wishes = &w
	}
	return n
}

// ensure brings claims and record to what the Service needs; its key is locked.
func (a *Allocator) ensure(ctx context.Context, svc *corev1.Service, t store.Ticket) (outcome, error) {
	n := a.read(svc)
	freed := a.store.Freed()
	for range maxAttempts {
		d := a.decide(n, t)
		if d.queued {
			a.wait(svc, func(o *opening) { o.waits = true })
			return outcome{queued: true}, nil
		}
		r, err := a.write(ctx, n, d)
		a.store.Cancel(svc.UID)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			a.change(n.tenant.Service, func(o *opening) { o.stuck = true })
			return outcome{}, err
		}
		if r == nil { // it neither needs nor has anything
			return outcome{svc: n.now, status: &corev1.LoadBalancerStatus{}}, nil
		}
		a.settle(ctx, n, d, r, freed)
		return outcome{svc: n.now, status: statusOf(r, n.back), failed: d.fault != nil}, nil
	}
	return outcome{}, fmt.Errorf("allocate for service %s: %w", convert.Key(svc), store.ErrConflict)
}

func (a *Allocator) decide(n *need, t store.Ticket) *decision {
	d := &decision{fault: n.fault}
	if n.req != nil {
		a.setHeld(n.svc, &n.req.Pool)
		d.balancer, d.queued, d.fault = a.store.Allocate(&n.req.Pool, t)
		if d.queued {
			return d
		}
		d.short = d.fault == nil && !complete(&n.req.Pool, d.balancer)
	}
	if d.fault != nil || n.leave {
		d.balancer = a.kept(n)
	}
	if n.serves {
		d.lost = a.lost(n, d)
	}
	a.decideExternal(n, d)
	return d
}

// decideExternal decides on the addresses of spec.externalIPs.
func (a *Allocator) decideExternal(n *need, d *decision) {
	for _, addr := range n.external {
		if slices.ContainsFunc(d.balancer, func(g store.Decision) bool { return g.Addr == addr }) {
			continue
		}
		got, refused := a.store.AllocateExternal(n.svc, addr)
		switch {
		case refused != nil:
			d.refused = append(d.refused, *refused)
		case len(d.balancer)+len(d.external)+len(d.onNodes) == maxAddresses:
			d.refused = append(d.refused, pool.Error{Reason: reason.ExternalIPNotGranted, Message: fmt.Sprintf(
				"spec.externalIPs: %s is neither served nor announced, because the Service has %d addresses already; use another Service for it", addr, maxAddresses)})
		case got.OnNode:
			d.onNodes = append(d.onNodes, addr.String())
			if got.Lost {
				d.lost = append(d.lost, pool.Error{Reason: reason.NoInterface, Message: fmt.Sprintf(
					"spec.externalIPs: %s was a node's own, and no node has it now; it waits for its node. To have it announced instead, take it out of the spec and put it back", addr)})
			}
		default:
			d.external = append(d.external, got.Decision)
		}
	}
	if n.wishes == nil && !n.serves && len(d.external)+len(d.onNodes) > 0 {
		_, err := convert.Forwarding(n.svc)
		d.refused = append(d.refused, *err)
	}
}

// complete reports whether a request is met in every family that it names.
func complete(req *pool.Request, got []store.Decision) bool {
	for _, f := range req.Families {
		need, have := 0, 0
		for _, addr := range req.Addresses {
			if pool.FamilyOf(addr) == f {
				need++
			}
		}
		for _, g := range got {
			if pool.FamilyOf(g.Addr) == f {
				have++
			}
		}
		if have < max(need, req.Count, 1) {
			return false
		}
	}
	return true
}

// setHeld fills in what the Service holds: the addresses of its record first, then
// those of claims that an earlier attempt left behind.
func (a *Allocator) setHeld(svc *corev1.Service, req *pool.Request) {
	req.Held = nil
	if r := a.record(svc); r != nil {
		for _, ra := range r.Spec.Addresses {
			addr, err := netip.ParseAddr(ra.Address)
			if err != nil || ra.Rule == v1alpha1.RuleExternalIP || !a.mayHold(svc, addr) {
				continue
			}
			req.Held = append(req.Held, pool.Assignment{Addr: addr, Pool: ra.Pool, Rule: pool.Rule(ra.Rule)})
		}
	}
	for _, c := range a.store.ClaimsOf(svc.UID) {
		addr, err := v1alpha1.ParseClaimName(c.Name)
		listed := slices.ContainsFunc(req.Held, func(h pool.Assignment) bool { return h.Addr == addr })
		if err == nil && !listed && c.Spec.Phase == v1alpha1.ClaimBound && c.Spec.SharingKey != pool.ExternalKey {
			req.Held = append(req.Held, pool.Assignment{Addr: addr, Pool: c.Spec.Pool, Rule: a.guess(req, c)})
		}
	}
}

// guess says by what rule a Service came to an address of which there is only the claim:
// the record was not written yet, or is lost.
func (a *Allocator) guess(req *pool.Request, c *v1alpha1.IPClaim) pool.Rule {
	p := a.store.Pool(c.Spec.Pool)
	switch {
	case slices.ContainsFunc(req.Addresses, func(asked netip.Addr) bool { return v1alpha1.ClaimName(asked) == c.Name }):
		return pool.RuleRequested
	case a.store.Rebound(c.Name):
		return pool.RuleShown
	case loadbalancer.ServiceUID(c.Spec.Services[0].UID) != req.UID:
		return pool.RuleShared
	case req.Pool != "":
		return pool.RulePool
	case p != nil && p.Spec.ServiceAllocation != nil:
		return pool.RuleServiceAllocation
	default:
		return pool.RuleAutoAssign
	}
}

// mayHold reports whether nobody else has the address, nor had it until just now.
func (a *Allocator) mayHold(svc *corev1.Service, addr netip.Addr) bool {
	h, held := a.store.Holding(addr)
	return !held || h.State == pool.Bound && h.Names(convert.Tenant(svc).UID)
}

// record returns the Service's own record, nil when there is none.
func (a *Allocator) record(svc *corev1.Service) *v1alpha1.LoadBalancer {
	r := a.store.Record(convert.Key(svc))
	if r == nil || r.Spec.ServiceUID != svc.UID {
		return nil
	}
	return r
}

// kept returns what a Service keeps whose request cannot be met: what its record lists
// and it may still be on, or nobody has a claim of, or what it has claims of when there
// is no record.
func (a *Allocator) kept(n *need) []store.Decision {
	var out []store.Decision
	keep := func(name string, as pool.Assignment) {
		c := a.store.Claim(name)
		_, held := a.store.Holding(as.Addr)
		if c == nil && !held || store.Holds(c, n.svc.UID) && a.misfit(n, c) == nil {
			out = append(out, store.Decision{Assignment: as, Claim: c})
		}
	}
	if r := a.record(n.svc); r != nil {
		for _, ra := range r.Spec.Addresses {
			if addr, err := netip.ParseAddr(ra.Address); err == nil && ra.Rule != v1alpha1.RuleExternalIP {
				keep(ra.Claim, pool.Assignment{Addr: addr, Pool: ra.Pool, Rule: pool.Rule(ra.Rule)})
			}
		}
		return out
	}
	for _, c := range a.store.ClaimsOf(n.svc.UID) {
		if addr, err := v1alpha1.ParseClaimName(c.Name); err == nil && c.Spec.SharingKey != pool.ExternalKey {
			keep(c.Name, pool.Assignment{Addr: addr, Pool: c.Spec.Pool})
		}
	}
	return out
}

// misfit says why a Service may not be on a claim's address beside the others there. The
// sharing key of a Service that cannot be understood is not at issue.
func (a *Allocator) misfit(n *need, c *v1alpha1.IPClaim) *pool.Error {
	key := c.Spec.SharingKey
	if n.req != nil {
		key = n.req.Pool.SharingKey
	}
	h := convert.Holding(c)
	if h.SharingKey == "" && len(h.Tenants) > 1 {
		h.SharingKey = key // written away by the release before, see store.Allocate
	}
	return pool.Fits(h, n.tenant, key)
}

// lost says why a Service leaves addresses that its record lists, or that its status
// shows when it has no record: they are others', or it does not fit there any more.
func (a *Allocator) lost(n *need, d *decision) []pool.Error {
	var had []string
	if r := a.record(n.svc); r != nil {
		for _, ra := range r.Spec.Addresses {
			if ra.Rule != v1alpha1.RuleExternalIP {
				had = append(had, ra.Claim)
			}
		}
	} else {
		for _, addr := range convert.StatusAddresses(n.svc) {
			had = append(had, v1alpha1.ClaimName(addr))
		}
	}
	var out []pool.Error
	for _, name := range had {
		if slices.ContainsFunc(d.balancer, func(g store.Decision) bool { return v1alpha1.ClaimName(g.Addr) == name }) {
			continue
		}
		c := a.store.Claim(name)
		if c == nil || c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		if why := a.misfit(n, c); why != nil && (d.fault == nil || d.fault.Reason != why.Reason) {
			out = append(out, pool.Error{Reason: why.Reason, Message: fmt.Sprintf("address %s is left, because %s", c.Spec.Address, why.Message)})
		}
	}
	return out
}
