// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// syncGroup corrects the successors of a group's claims.
func (c *Controller) syncGroup(ctx context.Context, group loadbalancer.Group) error {
	claims := c.claimsOf(group)
	bound := boundOf(claims)
	if len(bound) == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(claims) > 0 {
			c.ledger.forget(group) // a released address is nobody's load
		}
		return nil
	}
	w := c.worlds.get()
	wishes := c.wishesOf(bound, w, "")
	if len(wishes) == 0 {
		return nil // no record yet: the claim was created with our proposal
	}
	names := c.successors(group, w, wishes, true)
	var errs []error
	for _, claim := range bound {
		if slices.Equal(c.listOf(claim), names) {
			continue
		}
		if err := c.applySuccessors(ctx, claim, names); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writtenList is our latest write of a claim's successors, kept until the cache has it.
type writtenList struct {
	resourceVersion string
	names           []string
}

// boundOf returns the claims that somebody holds.
func boundOf(claims []*v1alpha1.IPClaim) []*v1alpha1.IPClaim {
	var bound []*v1alpha1.IPClaim
	for _, claim := range claims {
		if claim.Spec.Phase == v1alpha1.ClaimBound {
			bound = append(bound, claim)
		}
	}
	return bound
}

// wishesOf collects what the Services that hold a group's claims want announced, without
// one of them.
func (c *Controller) wishesOf(claims []*v1alpha1.IPClaim, w *world, without types.UID) []wish {
	var out []wish
	seen := map[types.UID]bool{without: true}
	for _, claim := range claims {
		for _, s := range claim.Spec.Services {
			r := client.Get[v1alpha1.LoadBalancer](c.opts.Informers.Records, s.Namespace+"/"+s.Name)
			if r == nil || r.Spec.ServiceUID != s.UID || seen[s.UID] {
				continue
			}
			seen[s.UID] = true
			out = append(out, wishOf(w, r.Spec.Addresses, c.serviceOf(r)))
		}
	}
	return out
}

// listOf returns a claim's successors as they are on the server as far as we know: the
// cache's, or our own later write.
func (c *Controller) listOf(claim *v1alpha1.IPClaim) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.proposed[claim.UID]
	if !ok {
		return claim.Spec.Successors
	}
	if order, err := resourceversion.CompareResourceVersion(claim.ResourceVersion, w.resourceVersion); err == nil && order < 0 {
		return w.names
	}
	delete(c.proposed, claim.UID)
	return claim.Spec.Successors
}

func (c *Controller) applySuccessors(ctx context.Context, claim *v1alpha1.IPClaim, names []string) error {
	stored, err := applyGet(ctx, c.opts.Claims, document("IPClaim", claim, "spec", map[string]any{"successors": names}))
	if err != nil {
		return fmt.Errorf("apply successors of claim %s: %w", claim.Name, err)
	}
	if stored == nil {
		return nil // gone
	}
	c.mu.Lock()
	c.proposed[claim.UID] = writtenList{stored.ResourceVersion, names}
	c.mu.Unlock()
	klog.FromContext(ctx).V(2).Info("Proposed successors", "claim", claim.Name, "successors", names)
	return nil
}

// applied is one server-side apply: a partial object that names its UID, so that it
// never recreates an object nor touches a namesake.
type applied struct {
	name string
	body map[string]any
}

func document(kind string, obj metav1.Object, section string, content map[string]any) applied {
	metadata := map[string]any{"name": obj.GetName(), "uid": obj.GetUID()}
	if ns := obj.GetNamespace(); ns != "" {
		metadata["namespace"] = ns
	}
	return applied{obj.GetName(), map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion().String(),
		"kind":       kind,
		"metadata":   metadata,
		section:      content,
	}}
}

// apply writes the document; an object that is gone is no error, because its event is
// under way, one that was replaced is a conflict.
func apply[T any](ctx context.Context, p Patcher[T], doc applied, subresources ...string) error {
	_, err := applyGet(ctx, p, doc, subresources...)
	return err
}

// applyGet is apply that also returns what the server stored; the zero value when the
// object is gone.
func applyGet[T any](ctx context.Context, p Patcher[T], doc applied, subresources ...string) (T, error) {
	var none T
	data, err := json.Marshal(doc.body)
	if err != nil {
		return none, fmt.Errorf("encode: %w", err)
	}
	force := true
	stored, err := p.Patch(ctx, doc.name, types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, subresources...)
	if apierrors.IsNotFound(err) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	return stored, nil
}
