// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// sync brings the copy of one metallb.io object in line with it.
func (c *Controller) sync(ctx context.Context, at key) error {
	k, ok := c.kinds[at.kind]
	if !ok {
		return fmt.Errorf("unknown kind %q", at.kind)
	}
	src, known := k.source.get(at.namespace, at.name)
	if !known {
		return nil // the cache's first fill marks everything
	}
	if src == nil {
		delete(c.told, at)
	}
	if at.namespace != c.opts.Namespace {
		if src != nil {
			c.tell(ctx, at, src, reason.WrongNamespace, fmt.Sprintf(
				"not used: %s objects count in namespace %q only; move it there, or write the fairlead.dev kind", sourceMetalLB, c.opts.Namespace))
		}
		return nil
	}
	existing := k.target.get(at.name)
	if existing != nil && existing.GetLabels()[v1alpha1.LabelSource] != sourceMetalLB {
		if src != nil {
			c.tell(ctx, at, src, reason.NameTaken, fmt.Sprintf(
				"not used: an %s.%s named %q exists already; rename or delete one of the two", k.name, v1alpha1.GroupName, at.name))
		}
		return nil
	}
	if src != nil && src.GetDeletionTimestamp() != nil {
		src = nil
	}
	if src != nil && c.opts.Mode == Auto {
		if name := c.metallb.found(); name != "" {
			c.tell(ctx, at, src, reason.MetalLBRunning, fmt.Sprintf(
				"not used while MetalLB runs (%s in namespace %s): remove it, or set metallb.mirror: Force", name, c.opts.Namespace))
			src = nil
		}
	}
	if src == nil {
		return c.remove(ctx, k, existing)
	}
	return c.put(ctx, at, src, existing)
}

func (c *Controller) remove(ctx context.Context, k *kind, existing metav1.Object) error {
	if existing == nil || existing.GetDeletionTimestamp() != nil {
		return nil
	}
	err := k.target.remove(ctx, existing)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // its event is under way
	}
	if err != nil {
		return fmt.Errorf("delete mirrored %s %s: %w", k.name, existing.GetName(), err)
	}
	klog.FromContext(ctx).Info("Deleted mirrored object", "kind", k.name, "name", existing.GetName())
	return nil
}

func (c *Controller) put(ctx context.Context, at key, src *unstructured.Unstructured, existing metav1.Object) error {
	k := c.kinds[at.kind]
	changed, err := k.target.put(ctx, src, existing)
	var misfit convertError
	switch {
	case errors.As(err, &misfit), apierrors.IsInvalid(err):
		c.tell(ctx, at, src, k.invalid, "not used: "+err.Error())
		return nil
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // the cache lags behind: the event is under way
	case err != nil:
		return fmt.Errorf("mirror %s %s: %w", k.name, src.GetName(), err)
	}
	delete(c.told, at)
	if changed {
		klog.FromContext(ctx).Info("Mirrored object", "kind", k.name, "source", klog.KObj(src))
	}
	return nil
}

// tell emits one Warning event per object and cause.
func (c *Controller) tell(ctx context.Context, at key, src *unstructured.Unstructured, r reason.Reason, message string) {
	said := string(src.GetUID()) + " " + r.String() + ": " + message
	if c.told[at] == said {
		return
	}
	c.told[at] = said
	klog.FromContext(ctx).Info("Object is not mirrored", "source", klog.KObj(src), "reason", r, "message", message)
	c.opts.Recorder.Event(src, corev1.EventTypeWarning, r.String(), message)
}
