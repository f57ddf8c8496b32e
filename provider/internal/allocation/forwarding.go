// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// retreatDelay is how long node agents go on forwarding after a Service's status says
// that kube-proxy does: its sync period is a second by default, and longer under load.
const retreatDelay = 5 * time.Second

// Defaults are what Services get that do not say.
type Defaults struct {
	Forwarding v1alpha1.Forwarding
	Scheduler  convert.Scheduler
}

// retreat is a Service that goes from IPVS to kube-proxy, and since when its status tells.
type retreat struct {
	uid   types.UID
	since time.Time
}

// forwarding fills in what a record says of forwarding and of its routes. known is the Service's own record,
// nil when there is none.
func (w *writer) forwarding(spec *v1alpha1.LoadBalancerSpec, known *v1alpha1.LoadBalancer) {
	wishes := w.n.wishes
	if wishes == nil && known != nil { // it cannot be understood at present
		old := &known.Spec
		spec.TargetType, spec.Forwarding = old.TargetType, old.Forwarding
		spec.Scheduler, spec.SchedulerFlags = old.Scheduler, old.SchedulerFlags
		spec.SessionAffinitySeconds, spec.SourceRanges = old.SessionAffinitySeconds, old.SourceRanges
		spec.BGP = old.BGP
		return
	}
	if wishes == nil {
		wishes = &convert.Wishes{}
	}
	spec.TargetType = w.targetType(wishes)
	scheduler := wishes.Scheduler
	if scheduler.Name == "" { // and if nobody says, nodes see whether weights count
		scheduler = w.a.defaults.Scheduler
	}
	spec.Scheduler, spec.SchedulerFlags = scheduler.Name, scheduler.Flags
	spec.SessionAffinitySeconds, spec.SourceRanges = wishes.AffinitySeconds, wishes.SourceRanges
	spec.BGP = wishes.BGP
	spec.Forwarding = cmp.Or(wishes.Forwarding, w.a.defaults.Forwarding)
	if w.n.back = spec.Forwarding == v1alpha1.ForwardingKubeProxy; !w.n.back {
		w.a.advance(w.n.tenant.Service)
		return
	}
	if known != nil && known.Spec.Forwarding == v1alpha1.ForwardingIPVS && w.a.retreats(w.n.svc) {
		spec.Forwarding = v1alpha1.ForwardingIPVS
	}
}

// targetType is what the Service asks for, else its first address's pool says, else pod.
// Under externalTrafficPolicy Local it is pod: a node port is as good as another node.
func (w *writer) targetType(wishes *convert.Wishes) v1alpha1.TargetType {
	if convert.TrafficPolicy(w.n.svc) == v1alpha1.TrafficPolicyLocal {
		return v1alpha1.TargetPod
	}
	var byPool v1alpha1.TargetType
	if len(w.addrs) > 0 {
		if p := w.a.store.Pool(w.addrs[0].Pool); p != nil && p.Spec.Defaults != nil {
			byPool = p.Spec.Defaults.TargetType
		}
	}
	return cmp.Or(wishes.TargetType, byPool, v1alpha1.TargetPod)
}

// retreats reports whether the record of a Service that goes to kube-proxy must still say
// ipvs: its status goes first, or nobody would forward between the two.
func (a *Allocator) retreats(svc *corev1.Service) bool {
	if len(svc.Status.LoadBalancer.Ingress) == 0 {
		return false // kube-proxy serves external IPs whatever anybody says
	}
	key := convert.Key(svc)
	a.mu.Lock()
	defer a.mu.Unlock()
	if showsProxy(svc) {
		delete(a.retreating, key) // the status is about to be written, which comes back here
		return true
	}
	r, known := a.retreating[key]
	if !known || r.uid != svc.UID {
		r = retreat{svc.UID, a.now()}
		a.retreating[key] = r
	}
	rest := retreatDelay - a.now().Sub(r.since)
	if rest <= 0 {
		delete(a.retreating, key)
		return false
	}
	a.later(key, rest)
	return true
}

// advance forgets that a Service was on its way to kube-proxy.
func (a *Allocator) advance(key loadbalancer.ServiceKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.retreating, key)
}

func showsProxy(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
		return i.IPMode != nil && *i.IPMode == corev1.LoadBalancerIPModeProxy
	})
}

// modeOf says who forwards what a record's Service is sent: with Proxy kube-proxy does not
// know the address, with VIP it serves it on each node. back: kube-proxy is to take over.
func modeOf(r *v1alpha1.LoadBalancer, back bool) corev1.LoadBalancerIPMode {
	if !back && r.Spec.Forwarding == v1alpha1.ForwardingIPVS &&
		meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionForwarded) {
		return corev1.LoadBalancerIPModeProxy
	}
	return corev1.LoadBalancerIPModeVIP
}

// outdated reports whether a Service's status says another forwards than its record.
func outdated(svc *corev1.Service, r *v1alpha1.LoadBalancer) bool {
	return r != nil && r.Spec.ServiceUID == svc.UID && len(svc.Status.LoadBalancer.Ingress) > 0 &&
		showsProxy(svc) != (modeOf(r, false) == corev1.LoadBalancerIPModeProxy)
}
