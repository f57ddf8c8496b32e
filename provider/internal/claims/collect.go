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
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// unboundLife is how long a claim may exist, or stay, without a record or a Service
// status that uses it. Allocation writes the three within seconds; a minute leaves time
// for a new leader to finish or repair what the last one began.
const unboundLife = time.Minute

// collect starts the release of a bound claim that nobody holds: its Services are
// gone, or neither a record nor a Service's status has used it for a while.
func (c *Controller) collect(ctx context.Context, claim *v1alpha1.IPClaim) (time.Duration, error) {
	left, err := c.existing(ctx, claim)
	if err != nil {
		return 0, err
	}
	switch {
	case len(left) == 0:
		return 0, c.write(ctx, claim, releasing(claim), "Releasing address of deleted Services")
	case len(left) < len(claim.Spec.Services):
		shrunk := claim.DeepCopy()
		shrunk.Spec.Services = left
		return 0, c.write(ctx, claim, shrunk, "Removed deleted Services from claim")
	}
	if slices.ContainsFunc(left, func(s v1alpha1.ServiceReference) bool { return c.usedInCache(claim, s) }) {
		c.forgetUnbound(claim)
		return 0, nil
	}
	if wait := c.unboundFor(claim); wait > 0 {
		return wait, nil
	}
	for _, s := range left {
		used, err := c.usedOnServer(ctx, claim, s)
		if err != nil {
			return 0, err
		}
		if used {
			c.forgetUnbound(claim) // the cache lags behind; look again in a while
			return unboundLife, nil
		}
	}
	return 0, c.write(ctx, claim, releasing(claim), "Releasing address that no record uses")
}

// existing returns the claim's Services that exist. One that the cache does not have
// is asked for on the server.
func (c *Controller) existing(ctx context.Context, claim *v1alpha1.IPClaim) ([]v1alpha1.ServiceReference, error) {
	var left []v1alpha1.ServiceReference
	for _, s := range claim.Spec.Services {
		svc := lookup[corev1.Service](c.opts.Informers.Services, s.Namespace+"/"+s.Name)
		if svc == nil || svc.UID != s.UID {
			var err error
			svc, err = c.opts.GetService(ctx, s.Namespace, s.Name)
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("get Service %s/%s: %w", s.Namespace, s.Name, err)
			}
		}
		if svc.UID == s.UID {
			left = append(left, s)
		}
	}
	return left, nil
}

func (c *Controller) usedInCache(claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference) bool {
	key := s.Namespace + "/" + s.Name
	return recordUses(lookup[v1alpha1.LoadBalancer](c.opts.Informers.Records, key), s, claim) ||
		serviceUses(lookup[corev1.Service](c.opts.Informers.Services, key), s, claim)
}

func (c *Controller) usedOnServer(ctx context.Context, claim *v1alpha1.IPClaim, s v1alpha1.ServiceReference) (bool, error) {
	r, err := c.opts.GetRecord(ctx, s.Namespace, s.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get record %s/%s: %w", s.Namespace, s.Name, err)
	}
	if err == nil && recordUses(r, s, claim) {
		return true, nil
	}
	svc, err := c.opts.GetService(ctx, s.Namespace, s.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get Service %s/%s: %w", s.Namespace, s.Name, err)
	}
	return err == nil && serviceUses(svc, s, claim), nil
}

func recordUses(r *v1alpha1.LoadBalancer, s v1alpha1.ServiceReference, claim *v1alpha1.IPClaim) bool {
	return r != nil && r.Spec.ServiceUID == s.UID &&
		slices.ContainsFunc(r.Spec.Addresses, func(a v1alpha1.LoadBalancerAddress) bool { return a.Claim == claim.Name })
}

func serviceUses(svc *corev1.Service, s v1alpha1.ServiceReference, claim *v1alpha1.IPClaim) bool {
	if svc == nil || svc.UID != s.UID {
		return false
	}
	return slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
		addr, err := netip.ParseAddr(i.IP)
		return err == nil && v1alpha1.ClaimName(addr) == claim.Name
	})
}

// unboundFor notes that a claim is unused and returns how long it may still stay so.
func (c *Controller) unboundFor(claim *v1alpha1.IPClaim) time.Duration {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.unboundSince[claim.UID]
	if !ok {
		since = now
		c.unboundSince[claim.UID] = now
	}
	return unboundLife - now.Sub(since)
}

func (c *Controller) forgetUnbound(claim *v1alpha1.IPClaim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unboundSince, claim.UID)
}

// releasing returns a copy that keeps its last holders but is held by nobody.
func releasing(claim *v1alpha1.IPClaim) *v1alpha1.IPClaim {
	out := claim.DeepCopy()
	out.Spec.Phase = v1alpha1.ClaimReleasing
	now := metav1.Now()
	out.Spec.ReleasingSince = &now
	return out
}

// write swaps a claim for its successor; a claim that changed meanwhile is looked at
// again when its event comes.
func (c *Controller) write(ctx context.Context, old, claim *v1alpha1.IPClaim, what string) error {
	_, err := c.opts.Claims.Update(ctx, claim, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update claim %s: %w", old.Name, err)
	}
	klog.FromContext(ctx).Info("Changed claim", "claim", old.Name, "change", what)
	return nil
}
