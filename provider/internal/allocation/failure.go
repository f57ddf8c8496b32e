// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// failure is one thing that a person has to settle. Comparable.
type failure struct {
	reason  reason.Reason
	message string
}

// settle tells what became of a Service whose claims and record are written, and ends
// its waiting or begins it. freed is the store's count before the decision.
func (a *Allocator) settle(ctx context.Context, n *need, d *decision, r *v1alpha1.LoadBalancer, freed uint64) {
	var warnings []pool.Error
	if n.req != nil {
		warnings = n.req.Warnings
	}
	a.warn(n.svc, slices.Concat(warnings, d.lost))
	var now []failure
	if d.fault != nil {
		now = append(now, failure{d.fault.Reason, d.fault.Message})
	}
	for _, f := range d.refused {
		now = append(now, failure{f.Reason, f.Message})
	}
	if len(now) == 0 {
		a.close(convert.Key(n.svc), n.svc.UID)
		if d.short {
			a.wait(n.svc, func(o *opening) { o.tried = freed })
		}
		return
	}
	var last []failure
	a.wait(n.svc, func(o *opening) {
		last = o.told
		o.told, o.tried, o.stuck = now, freed, false
		o.waits = d.fault != nil && d.fault.Reason == reason.PoolExhausted
		o.full = ""
		if o.waits && len(now) == 1 && simple(&n.req.Pool) {
			o.full = n.tenant.Service.Namespace + labels.FormatLabels(n.svc.Labels) + d.fault.Message
		}
	})
	if !slices.Equal(last, now) {
		a.tellFailed(ctx, n.svc, r, last, now)
	}
}

// simple requests need one free address of some pool, and nothing else helps them: of
// two from one namespace, with the same labels and the same message, either both can
// have one or neither.
func simple(req *pool.Request) bool {
	return req.SharingKey == "" && len(req.Preferred) == 0 && len(req.Addresses) == 0 && req.Count <= 1 && !req.AnyFamily
}

// tellFailed tells new failures in the condition and, each once, by an event.
func (a *Allocator) tellFailed(ctx context.Context, svc *corev1.Service, r *v1alpha1.LoadBalancer, last, now []failure) {
	messages := make([]string, 0, len(now))
	for _, f := range now {
		messages = append(messages, f.message)
	}
	why, message := now[0].reason, strings.Join(messages, "; ")
	a.announcer.AllocationFailed(svc, why, message)
	// An earlier leader may have told it already.
	c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionAllocated)
	if last == nil && c != nil && c.Status == metav1.ConditionFalse && c.Reason == why.String() && c.Message == message {
		return
	}
	for _, f := range now {
		if !slices.Contains(last, f) {
			klog.FromContext(ctx).Info("No address", "service", klog.KObj(svc), "reason", f.reason, "message", f.message)
			a.events.Event(svc, corev1.EventTypeWarning, f.reason.String(), f.message)
		}
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
