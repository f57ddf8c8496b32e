// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// ServiceRequest is a Service read for the controller.
type ServiceRequest struct {
	// Pool is the request for addresses, without what only the controller knows:
	// the namespace's labels and the addresses held.
	Pool pool.Request
	// Ports of the Service.
	Ports []v1alpha1.Port
	// TargetType asked for, pod when unset.
	TargetType v1alpha1.TargetType
	// TrafficPolicy of the Service.
	TrafficPolicy v1alpha1.TrafficPolicy
	// Warnings are faults that did not stop the request: one Warning event each.
	Warnings []pool.Error
}

// Ours reports whether Fairlead serves the Service: type LoadBalancer without a class
// and not being deleted.
func Ours(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// Classes says which Services of type LoadBalancer Fairlead serves.
type Classes struct {
	// Class is the spec.loadBalancerClass that it serves.
	Class string
	// Classless: it serves Services without a class too.
	Classless bool
}

// Serves reports whether a Service that is not being deleted is Fairlead's.
func (c Classes) Serves(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil {
		return false
	}
	if svc.Spec.LoadBalancerClass == nil {
		return c.Classless
	}
	return *svc.Spec.LoadBalancerClass == c.Class
}

// Key returns the Service's key.
func Key(svc *corev1.Service) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: svc.Namespace, Name: svc.Name}
}

// Service reads what a Service needs and asks for. The error is for the Service's
// author: the first bad annotation, or two requests that contradict each other.
func Service(svc *corev1.Service) (*ServiceRequest, *pool.Error) {
	r := &ServiceRequest{
		Pool: pool.Request{
			Service:   Key(svc),
			UID:       loadbalancer.ServiceUID(svc.UID),
			Labels:    svc.Labels,
			Families:  families(svc),
			AnyFamily: svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack,
			Preferred: StatusAddresses(svc),
		},
		Ports:         Ports(svc),
		TrafficPolicy: TrafficPolicy(svc),
		TargetType:    v1alpha1.TargetPod,
	}
	if err := r.readTargetType(svc); err != nil {
		return nil, err
	}
	r.Pool.Pool, _ = r.knob(svc, poolKeys())
	if err := r.readAddresses(svc); err != nil {
		return nil, err
	}
	return r, nil
}

// TrafficPolicy returns a Service's externalTrafficPolicy as the records hold it.
func TrafficPolicy(svc *corev1.Service) v1alpha1.TrafficPolicy {
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return v1alpha1.TrafficPolicyLocal
	}
	return v1alpha1.TrafficPolicyCluster
}

func addressKeys() []string {
	return []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobAddresses,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobAddressesMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobAddressesMetalLB,
	}
}

func poolKeys() []string {
	return []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobPool,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobPoolMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobPoolMetalLB,
	}
}

// knob returns the value under the first key that is set, and that key. A blank
// value counts as unset: templates leave such behind. A differing value under a
// later key is a warning.
func (r *ServiceRequest) knob(svc *corev1.Service, keys []string) (value, key string) {
	for _, k := range keys {
		v := strings.TrimSpace(svc.Annotations[k])
		switch {
		case v == "" || v == value:
		case key == "":
			value, key = v, k
		default:
			r.Warnings = append(r.Warnings, pool.Error{Reason: reason.ConflictingAnnotations, Message: fmt.Sprintf(
				"annotation %s: %q is ignored, because %s: %q comes first; remove one of them", k, v, key, value)})
		}
	}
	return value, key
}

func (r *ServiceRequest) readTargetType(svc *corev1.Service) *pool.Error {
	switch v := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationTargetType]); v {
	case "", string(v1alpha1.TargetPod):
	case string(v1alpha1.TargetNodePort):
		r.TargetType = v1alpha1.TargetNodePort
	default:
		return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf(
			"annotation %s: %q is neither pod nor node-port; write one of them", v1alpha1.AnnotationTargetType, v)}
	}
	return nil
}

// readAddresses reads the annotation, then spec.loadBalancerIP, the last way of asking.
func (r *ServiceRequest) readAddresses(svc *corev1.Service) *pool.Error {
	value, key := r.knob(svc, addressKeys())
	if key != "" {
		addrs, err := parseAddresses(value)
		if err != nil {
			return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf("annotation %s: %v", key, err)}
		}
		r.Pool.Addresses = addrs
	}
	if svc.Spec.LoadBalancerIP == "" {
		return nil
	}
	addrs, err := parseAddresses(svc.Spec.LoadBalancerIP)
	switch {
	case err != nil:
		return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf("spec.loadBalancerIP: %v", err)}
	case key == "":
		r.Pool.Addresses = addrs
	case !slices.Contains(r.Pool.Addresses, addrs[0]):
		return &pool.Error{Reason: reason.ConflictingRequests, Message: fmt.Sprintf(
			"annotation %s: %q and spec.loadBalancerIP: %q ask for different addresses; drop one of the two", key, value, svc.Spec.LoadBalancerIP)}
	}
	return nil
}

// parseAddresses reads a comma separated list with at most one address per family.
func parseAddresses(s string) ([]netip.Addr, error) {
	var out []netip.Addr
	for text := range strings.SplitSeq(s, ",") {
		text = strings.TrimSpace(text)
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%q is not an IP address; write a comma separated list such as 192.0.2.10", text)
		}
		if slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			return nil, fmt.Errorf("%q has more than one %s address; ask for one per IP family", s, pool.FamilyOf(a))
		}
		out = append(out, a)
	}
	return out, nil
}

// families returns the IP families of a Service; a Service from before dual stack
// has none and gets IPv4, or the family of its cluster IP.
func families(svc *corev1.Service) []pool.Family {
	var out []pool.Family
	for _, f := range svc.Spec.IPFamilies {
		if f == corev1.IPv6Protocol {
			out = append(out, pool.IPv6)
		} else {
			out = append(out, pool.IPv4)
		}
	}
	if len(out) > 0 {
		return out
	}
	if a, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && a.Is6() {
		return []pool.Family{pool.IPv6}
	}
	return []pool.Family{pool.IPv4}
}

// StatusAddresses returns the addresses in a Service's status.
func StatusAddresses(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil && a.Zone() == "" && !a.Is4In6() {
			out = append(out, a)
		}
	}
	return out
}

// Ports returns a Service's ports as the records hold them.
func Ports(svc *corev1.Service) []v1alpha1.Port {
	out := make([]v1alpha1.Port, 0, len(svc.Spec.Ports))
	for _, p := range svc.Spec.Ports {
		out = append(out, v1alpha1.Port{Name: p.Name, Protocol: string(p.Protocol), Port: p.Port, NodePort: p.NodePort})
	}
	return out
}
