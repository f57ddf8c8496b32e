// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// fail remembers that a Service waits for something that a person has to settle, tells
// it once, and sees to it that there is a record to carry the condition. The Service
// keeps what it holds.
func (a *Allocator) fail(ctx context.Context, svc *corev1.Service, fault *pool.Error) (*corev1.LoadBalancerStatus, bool, error) {
	key := convert.Key(svc)
	now := opening{uid: svc.UID, failed: true, reason: fault.Reason, message: fault.Message}
	a.mu.Lock()
	last := a.open[key]
	if last != now {
		// Waiting from here on, told only once the record that carries the condition is there.
		a.open[key] = opening{uid: svc.UID, failed: true}
	}
	a.mu.Unlock()
	r, err := a.failedRecord(ctx, svc)
	if err != nil {
		return nil, false, err
	}
	if last == now {
		return statusOf(r), true, nil
	}
	a.mu.Lock()
	a.open[key] = now
	a.mu.Unlock()
	a.announcer.AllocationFailed(svc, fault.Reason, fault.Message)
	// An earlier leader may have told it already.
	if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionAllocated); c == nil ||
		c.Status != metav1.ConditionFalse || c.Reason != fault.Reason.String() || c.Message != fault.Message {
		klog.FromContext(ctx).Info("No address", "service", klog.KObj(svc), "reason", fault.Reason, "message", fault.Message)
		a.events.Event(svc, corev1.EventTypeWarning, fault.Reason.String(), fault.Message)
	}
	return statusOf(r), true, nil
}

// failedRecord returns the Service's record with the addresses that it still holds, or
// makes one without any.
func (a *Allocator) failedRecord(ctx context.Context, svc *corev1.Service) (*v1alpha1.LoadBalancer, error) {
	var err error
	for range maxAttempts {
		known := a.store.Record(convert.Key(svc))
		spec := v1alpha1.LoadBalancerSpec{
			ServiceUID: svc.UID, Ports: convert.Ports(svc), TargetType: v1alpha1.TargetPod,
			ExternalTrafficPolicy: convert.TrafficPolicy(svc), Forwarding: v1alpha1.ForwardingKubeProxy,
		}
		if known != nil && known.Spec.ServiceUID == svc.UID {
			spec = *known.Spec.DeepCopy()
			spec.Addresses = slices.DeleteFunc(spec.Addresses, func(ra v1alpha1.LoadBalancerAddress) bool {
				return !a.holds(svc, ra.Claim)
			})
			if len(spec.Addresses) == len(known.Spec.Addresses) {
				return known, nil
			}
		}
		var r *v1alpha1.LoadBalancer
		r, err = a.writeRecord(ctx, svc, known, spec)
		if !errors.Is(err, store.ErrConflict) {
			return r, err
		}
	}
	return nil, err
}

// holds reports whether a claim is Bound to the Service.
func (a *Allocator) holds(svc *corev1.Service, claim string) bool {
	c := a.store.Claim(claim)
	return c != nil && c.Spec.Phase == v1alpha1.ClaimBound &&
		slices.ContainsFunc(c.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == svc.UID })
}

// settled ends a Service's waiting, or keeps it open for a family that it would like.
func (a *Allocator) settled(svc *corev1.Service, req *convert.ServiceRequest, got []pool.Assignment) {
	key := convert.Key(svc)
	a.close(key, svc.UID)
	if len(got) < len(req.Pool.Families) {
		a.mu.Lock()
		a.open[key] = opening{uid: svc.UID}
		a.mu.Unlock()
	}
}

// warn tells of faults that did not stop the Service, once per change of them.
func (a *Allocator) warn(svc *corev1.Service, faults []pool.Error) {
	texts := make([]string, 0, len(faults))
	for _, f := range faults {
		texts = append(texts, f.Message)
	}
	key := convert.Key(svc)
	now := warning{uid: svc.UID, text: strings.Join(texts, "\n")}
	a.mu.Lock()
	last := a.warned[key]
	if now.text == "" {
		delete(a.warned, key)
	} else {
		a.warned[key] = now
	}
	a.mu.Unlock()
	if now == last {
		return
	}
	for _, f := range faults {
		a.events.Event(svc, corev1.EventTypeWarning, f.Reason.String(), f.Message)
	}
}
