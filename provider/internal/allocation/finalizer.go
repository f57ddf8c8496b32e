// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

func hasFinalizer(svc *corev1.Service) bool {
	return slices.Contains(svc.Finalizers, v1alpha1.FinalizerService)
}

// classed reports whether a Service has a class that is served: then the framework's
// service controller does not know it.
func classed(classes convert.Classes, svc *corev1.Service) bool {
	return classes.Serves(svc) && svc.Spec.LoadBalancerClass != nil
}

// ended reports whether a Service carries our finalizer and is none of ours any more.
func ended(classes convert.Classes, svc *corev1.Service) bool {
	return hasFinalizer(svc) && !classed(classes, svc)
}

// alone reports whether nobody else tells of a Service's changes: it has our class or our
// finalizer, or external IPs without the service controller's finalizer.
func (c *Controller) alone(svc *corev1.Service) bool {
	return hasFinalizer(svc) || classed(c.store.Classes(), svc) ||
		len(svc.Spec.ExternalIPs) > 0 && !servicehelper.HasLBFinalizer(svc)
}

// unseen reports whether a Service differs from what was last looked at in what it asks
// for.
func (c *Controller) unseen(svc *corev1.Service) bool {
	c.mu.Lock()
	last := c.seen[convert.Key(svc)]
	c.mu.Unlock()
	return last == nil || last.UID != svc.UID || (last.DeletionTimestamp == nil) != (svc.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(last.Spec, svc.Spec) ||
		!equality.Semantic.DeepEqual(last.Annotations, svc.Annotations) ||
		!equality.Semantic.DeepEqual(last.Labels, svc.Labels)
}

// see remembers the copy of a Service that is looked at; nil forgets it.
func (c *Controller) see(key loadbalancer.ServiceKey, svc *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if svc == nil {
		delete(c.seen, key)
	} else {
		c.seen[key] = svc
	}
}

// take reports whether a Service is to be looked after, and sees to it first that its end
// will be told: by our finalizer for Services with our class, by the service
// controller's for those without, which it puts there itself. It returns the Service as
// it is then.
func (c *Controller) take(ctx context.Context, svc *corev1.Service) (*corev1.Service, bool, error) {
	classes := c.store.Classes()
	switch {
	case svc.DeletionTimestamp != nil:
		return svc, false, nil
	case classed(classes, svc):
		svc, err := c.finalize(ctx, svc)
		return svc, err == nil, err
	case classes.Serves(svc):
		o, _ := c.alloc.opening(convert.Key(svc))
		return svc, servicehelper.HasLBFinalizer(svc) || o.vouched && o.uid == svc.UID, nil
	default:
		// While the service controller has work with it, it will call Delete.
		busy := servicehelper.HasLBFinalizer(svc) && svc.Spec.Type != corev1.ServiceTypeLoadBalancer
		return svc, !busy && c.alloc.involved(svc), nil
	}
}

// finalize puts our finalizer on a Service.
func (c *Controller) finalize(ctx context.Context, svc *corev1.Service) (*corev1.Service, error) {
	if hasFinalizer(svc) {
		return svc, nil
	}
	updated := svc.DeepCopy()
	updated.Finalizers = append(updated.Finalizers, v1alpha1.FinalizerService)
	got, err := c.alloc.patch(ctx, svc, updated)
	if err != nil {
		return nil, fmt.Errorf("put finalizer on service %s: %w", convert.Key(svc), err)
	}
	return got, nil
}

// end lets a Service with our finalizer go, and then the finalizer. One that the service
// controller serves by now only loses the finalizer.
func (c *Controller) end(ctx context.Context, svc *corev1.Service) error {
	if !c.store.Classes().Serves(svc) {
		if err := c.alloc.Delete(ctx, svc); err != nil {
			return fmt.Errorf("let service %s go: %w", convert.Key(svc), err)
		}
	}
	updated := svc.DeepCopy()
	updated.Finalizers = slices.DeleteFunc(updated.Finalizers, func(f string) bool { return f == v1alpha1.FinalizerService })
	_, err := c.alloc.patch(ctx, svc, updated)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take finalizer off service %s: %w", convert.Key(svc), err)
	}
	return nil
}
