// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// ServiceRequest is a Service read for the controller.
type ServiceRequest struct {
	// Pool is the request for addresses, without what only the controller knows:
	// the namespace's labels and the addresses held.
	Pool pool.Request
	// Ports of the Service.
	Ports []v1alpha1.Port
	// Wishes about forwarding.
	Wishes
	// Reclaim is the policy asked for, empty when the pool's counts.
	Reclaim v1alpha1.ReclaimPolicy
	// ExternalIPs are the addresses of spec.externalIPs, each once.
	ExternalIPs []netip.Addr
	// TrafficPolicy of the Service.
	TrafficPolicy v1alpha1.TrafficPolicy
	// Warnings are faults that did not stop the request: one Warning event each.
	Warnings []pool.Error
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
			Ports:     poolPorts(svc),
			Backends:  Backends(svc),
		},
		Ports:         Ports(svc),
		TrafficPolicy: TrafficPolicy(svc),
		ExternalIPs:   ExternalIPs(svc),
	}
	r.Pool.Pool, _ = r.knob(svc, poolKeys())
	for _, read := range []func(*corev1.Service) *pool.Error{
		r.readForwarding, r.readReclaim, r.readAdvertisements, r.readSharingKey, r.readAddresses, r.readCount,
	} {
		if err := read(svc); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *ServiceRequest) readForwarding(svc *corev1.Service) (err *pool.Error) {
	r.Wishes, err = Forwarding(svc)
	return err
}

// Tenant returns a Service as it stands on an address.
func Tenant(svc *corev1.Service) pool.Tenant {
	return pool.Tenant{Service: Key(svc), UID: loadbalancer.ServiceUID(svc.UID), Ports: poolPorts(svc), Backends: Backends(svc)}
}

// Backends tells what traffic of a Service may reach on the announcing node: empty
// under externalTrafficPolicy Cluster (any node reaches any pod), a digest of the
// selector under Local, and the Service's own UID under Local without a selector,
// because its endpoints are then nobody else's.
func Backends(svc *corev1.Service) string {
	switch {
	case TrafficPolicy(svc) == v1alpha1.TrafficPolicyCluster:
		return ""
	case len(svc.Spec.Selector) == 0:
		return string(svc.UID)
	}
	var canonical strings.Builder
	for _, k := range slices.Sorted(maps.Keys(svc.Spec.Selector)) {
		// Quoted, so that no two selectors read the same.
		fmt.Fprintf(&canonical, "%q=%q,", k, svc.Spec.Selector[k])
	}
	sum := sha256.Sum256([]byte(canonical.String()))
	return hex.EncodeToString(sum[:8])
}

// ExternalIPs returns the addresses of spec.externalIPs, each once and in their order.
func ExternalIPs(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, text := range svc.Spec.ExternalIPs {
		a, err := netip.ParseAddr(text)
		if err == nil && a.Zone() == "" && !a.Is4In6() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// TrafficPolicy returns a Service's externalTrafficPolicy as the records hold it.
func TrafficPolicy(svc *corev1.Service) v1alpha1.TrafficPolicy {
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return v1alpha1.TrafficPolicyLocal
	}
	return v1alpha1.TrafficPolicyCluster
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

func poolPorts(svc *corev1.Service) []pool.Port {
	out := make([]pool.Port, 0, len(svc.Spec.Ports))
	for _, p := range svc.Spec.Ports {
		protocol := cmp.Or(string(p.Protocol), string(corev1.ProtocolTCP))
		out = append(out, pool.Port{Protocol: protocol, Number: uint16(p.Port)}) //nolint:gosec // 1 to 65535 by validation
	}
	return out
}
