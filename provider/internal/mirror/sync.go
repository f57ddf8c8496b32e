// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// sync brings the copy of one metallb.io object in line with it.
func (c *Controller) sync(ctx context.Context, at key) (time.Duration, error) {
	if k := c.kinds[at.kind]; at.kind == kindPeer {
		c.warnOfSharedRouters(ctx, k)
	}
	return 0, c.bringInLine(ctx, at)
}

func (c *Controller) bringInLine(ctx context.Context, at key) error {
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
		delete(c.noted, at)
	}
	if k.target == nil {
		c.report(ctx, at, src)
		return nil
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
	if src != nil {
		if name := c.rival(); name != "" {
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

// rival returns the MetalLB that keeps the mirror from its work, empty for none.
func (c *Controller) rival() string {
	if c.opts.Mode != Auto {
		return ""
	}
	return c.metallb.found()
}

// report tells an object that nothing reads it, unless a MetalLB does.
func (c *Controller) report(ctx context.Context, at key, src *unstructured.Unstructured) {
	if src == nil || src.GetDeletionTimestamp() != nil {
		return
	}
	if c.rival() != "" {
		delete(c.told, at)
		return
	}
	c.tell(ctx, at, src, reason.KindNotSupported, fmt.Sprintf(
		"not used: Fairlead does not read %s objects in this release; see docs/reference/metallb-compatibility.md", at.kind))
}

func (c *Controller) remove(ctx context.Context, k *kind, existing metav1.Object) error {
	if existing == nil || existing.GetDeletionTimestamp() != nil {
		return nil
	}
	err := k.target.remove(ctx, existing)
	if apierrors.IsNotFound(err) {
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
	changed, told, err := k.target.put(ctx, src, existing)
	var misfit convertError
	switch {
	case errors.As(err, &misfit), apierrors.IsInvalid(err):
		c.tell(ctx, at, src, k.invalid, "not used: "+err.Error())
		return nil
	case apierrors.IsAlreadyExists(err), existing != nil && apierrors.IsNotFound(err):
		return nil // the cache lags behind: the event is under way
	case err != nil:
		return fmt.Errorf("mirror %s %s: %w", k.name, src.GetName(), err)
	}
	delete(c.told, at)
	c.note(ctx, at, src, told)
	if changed {
		klog.FromContext(ctx).Info("Mirrored object", "kind", k.name, "source", klog.KObj(src))
	}
	return nil
}

// note emits one Warning event per generation of an object that is used without some of
// its fields, and one event about what is left to do.
func (c *Controller) note(ctx context.Context, at key, src *unstructured.Unstructured, told remarks) {
	if len(told.unread) == 0 && told.todo == "" {
		delete(c.noted, at)
		return
	}
	version := fmt.Sprintf("%s/%d", src.GetUID(), src.GetGeneration())
	if c.noted[at] == version {
		return
	}
	c.noted[at] = version
	if told.todo != "" {
		klog.FromContext(ctx).Info("Object is mirrored and needs something else", "kind", at.kind, "source", klog.KObj(src), "todo", told.todo)
		c.opts.Recorder.Event(src, corev1.EventTypeNormal, reason.NoPassword.String(), told.todo)
	}
	if len(told.unread) == 0 {
		return
	}
	fields := strings.Join(told.unread, ", ")
	klog.FromContext(ctx).Info("Object is mirrored without some fields", "kind", at.kind, "source", klog.KObj(src), "fields", fields)
	c.opts.Recorder.Eventf(src, corev1.EventTypeWarning, reason.FieldNotSupported.String(),
		"used without %s, which Fairlead does not read in this release; see docs/reference/metallb-compatibility.md", fields)
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
