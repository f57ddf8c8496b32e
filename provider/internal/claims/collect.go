// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// grace is three times the same: how long a claim may exist, or stay, without
// a record or a Service status that uses it; how long a Service that Fairlead no longer
// serves may hold one; and how long an address waits for a Service of the same name to
// take it over. Allocation does each within seconds; a minute leaves time for a new
// leader to finish or repair what the last one began.
const grace = time.Minute

// standing is how one Service of a claim stands to it.
type standing uint8

const (
	// holds: the Service exists, is entitled to the address and uses it.
	holds standing = iota
	// idle: it exists, but is not entitled to the address or does not use it.
	idle
	// replaced: it is gone, and a Service of its name that Fairlead serves is there.
	replaced
	// gone: it does not exist.
	gone
)

// collect takes those Services from a bound claim that no longer hold it, and ends the
// claim when none is left.
func (c *Controller) collect(ctx context.Context, claim *v1alpha1.IPClaim) (time.Duration, error) {
	stand := make([]standing, len(claim.Spec.Services))
	for i, s := range claim.Spec.Services {
		var err error
		if stand[i], err = c.standing(ctx, claim, s); err != nil {
			return 0, err
		}
	}
	stay, wait := c.stay(claim, stand)
	if len(stay) == len(claim.Spec.Services) {
		return wait, nil
	}
	for i, s := range claim.Spec.Services {
		if stand[i] != idle || slices.ContainsFunc(stay, sameService(s)) {
			continue
		}
		again, err := c.onServer(ctx, claim, s)
		if err != nil {
			return 0, err
		}
		if again == holds {
			c.forgetLeaving(claim, s) // the cache lags behind; look again in a while
			return grace, nil
		}
	}
	if len(stay) == 0 {
		return 0, c.write(ctx, left(claim), "Ended claim that no Service holds")
	}
	shrunk := claim.DeepCopy()
	shrunk.Spec.Services = stay
	return 0, c.write(ctx, shrunk, "Removed Services from claim")
}

// stay returns the Services that keep their place on a claim, and when to look at the
// others among them again, zero for never.
func (c *Controller) stay(claim *v1alpha1.IPClaim, stand []standing) ([]v1alpha1.ServiceReference, time.Duration) {
	now := time.Now()
	// Whoever takes an address over must be alone on it: the first of those replaced,
	// and none while another Service holds the address, which they can join as anybody.
	heir := -1
	if !slices.Contains(stand, holds) && !slices.Contains(stand, idle) {
		heir = slices.Index(stand, replaced)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.leavingSince[claim.UID]
	since := map[types.UID]time.Time{}
	var stay []v1alpha1.ServiceReference
	var wait time.Duration
	for i, s := range claim.Spec.Services {
		switch {
		case stand[i] == holds:
			stay = append(stay, s)
		case stand[i] == idle, i == heir:
			start, known := before[s.UID]
			if !known {
				start = now
			}
			since[s.UID] = start
			rest := grace - now.Sub(start)
			if rest <= 0 {
				continue
			}
			stay = append(stay, s)
			if wait == 0 || rest < wait {
				wait = rest
			}
		}
	}
	delete(c.leavingSince, claim.UID)
	if len(since) > 0 {
		c.leavingSince[claim.UID] = since
	}
	return stay, wait
}

func (c *Controller) forgetLeaving(claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.leavingSince[claim.UID], s.UID)
}

func sameService(s v1alpha1.ServiceReference) func(v1alpha1.ServiceReference) bool {
	return func(o v1alpha1.ServiceReference) bool { return o.UID == s.UID }
}

// standing says how a Service stands to a claim. That it exists is the cache's word,
// that it does not the server's.
func (c *Controller) standing(ctx context.Context, claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference) (standing, error) {
	key := s.Namespace + "/" + s.Name
	svc := client.Get[corev1.Service](c.opts.Informers.Services, key)
	if svc == nil || svc.UID != s.UID {
		var err error
		svc, err = c.opts.GetService(ctx, s.Namespace, s.Name)
		if apierrors.IsNotFound(err) {
			return gone, nil
		}
		if err != nil {
			return holds, fmt.Errorf("get Service %s: %w", key, err)
		}
	}
	return c.judge(claim, s, svc, client.Get[v1alpha1.LoadBalancer](c.opts.Informers.Records, key)), nil
}

// onServer says the same from the server's word alone, of a Service that exists.
func (c *Controller) onServer(ctx context.Context, claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference) (standing, error) {
	r, err := c.opts.GetRecord(ctx, s.Namespace, s.Name)
	if apierrors.IsNotFound(err) {
		r, err = nil, nil
	}
	if err != nil {
		return holds, fmt.Errorf("get record %s/%s: %w", s.Namespace, s.Name, err)
	}
	svc, err := c.opts.GetService(ctx, s.Namespace, s.Name)
	if apierrors.IsNotFound(err) {
		return gone, nil
	}
	if err != nil {
		return holds, fmt.Errorf("get Service %s/%s: %w", s.Namespace, s.Name, err)
	}
	return c.judge(claim, s, svc, r), nil
}

// judge is the decision of standing on objects of whatever source; r may be nil.
func (c *Controller) judge(claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference, svc *corev1.Service, r *v1alpha1.LoadBalancer) standing {
	switch {
	case svc.UID != s.UID && c.mayInherit(svc, claim):
		return replaced
	case svc.UID != s.UID:
		return gone
	case c.entitled(svc, claim) && (recordUses(r, s, claim) || statusHas(svc, claim)):
		return holds
	default:
		return idle
	}
}

// entitled reports whether a Service may hold the claim's address at all: Fairlead
// serves it, or its spec.externalIPs names the address. One that is being deleted holds
// its addresses until allocation has released them; one without a class that Fairlead
// once served and by its configuration no longer does keeps what it has.
func (c *Controller) entitled(svc *corev1.Service, claim *v1alpha1.IPClaim) bool {
	alive := *svc
	alive.DeletionTimestamp = nil
	served := c.opts.Classes
	served.Classless = true
	return served.Serves(&alive) || slices.ContainsFunc(svc.Spec.ExternalIPs, names(claim))
}

// mayInherit reports whether a Service may take the address of a namesake over.
func (c *Controller) mayInherit(svc *corev1.Service, claim *v1alpha1.IPClaim) bool {
	return c.opts.Classes.Serves(svc) || svc.DeletionTimestamp == nil && slices.ContainsFunc(svc.Spec.ExternalIPs, names(claim))
}

func recordUses(r *v1alpha1.LoadBalancer, s v1alpha1.ServiceReference, claim *v1alpha1.IPClaim) bool {
	return r != nil && r.Spec.ServiceUID == s.UID &&
		slices.ContainsFunc(r.Spec.Addresses, func(a v1alpha1.LoadBalancerAddress) bool { return a.Claim == claim.Name })
}

func statusHas(svc *corev1.Service, claim *v1alpha1.IPClaim) bool {
	named := names(claim)
	return slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return named(i.IP) })
}

// names tells whether a string is the claim's address.
func names(claim *v1alpha1.IPClaim) func(string) bool {
	return func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && v1alpha1.ClaimName(addr.Unmap()) == claim.Name
	}
}

// write swaps a claim for its successor; an error says too that it changed meanwhile.
func (c *Controller) write(ctx context.Context, claim *v1alpha1.IPClaim, what string) error {
	_, err := c.opts.Claims.Update(ctx, claim, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update claim %s: %w", claim.Name, err)
	}
	klog.FromContext(ctx).Info("Changed claim", "claim", claim.Name, "phase", claim.Spec.Phase, "change", what)
	return nil
}
