// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Port is what a Service serves on an address: nobody else may on the same one.
type Port struct {
	Protocol string
	Port     int32
}

// Service is what the checker knows of one Service.
type Service struct {
	Key, UID string
	// Leaving: being deleted.
	Leaving bool
	// Balanced: of type LoadBalancer.
	Balanced bool
	// Shown are the addresses in the status.
	Shown []string
	Ports []Port
	// Families are the IP families that it has cluster addresses of, "IPv4" and "IPv6".
	Families []string
	// External are spec.externalIPs.
	External    []string
	Annotations map[string]string
	Finalizers  []string
}

// Tenant is one Service named by a claim.
type Tenant struct {
	Key, UID string
	Ports    []Port
}

// Claim is what the checker knows of one IPClaim.
type Claim struct {
	Name, Address, Pool, Phase, Group, SharingKey string
	Tenants                                       []Tenant
	RetainUntil                                   time.Time
}

// Record is what the checker knows of one LoadBalancer.
type Record struct {
	Key, UID string
	// Addresses with the rule that chose each.
	Addresses map[string]string
	// Reason of the condition Allocated if it is False.
	Reason string
}

func serviceOf(svc *corev1.Service) *Service {
	s := &Service{
		Key: svc.Namespace + "/" + svc.Name, UID: string(svc.UID), Leaving: svc.DeletionTimestamp != nil,
		Balanced: svc.Spec.Type == corev1.ServiceTypeLoadBalancer, External: svc.Spec.ExternalIPs,
		Annotations: svc.Annotations, Finalizers: svc.Finalizers,
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		s.Shown = append(s.Shown, in.IP)
	}
	for _, p := range svc.Spec.Ports {
		s.Ports = append(s.Ports, Port{string(p.Protocol), p.Port})
	}
	for _, f := range svc.Spec.IPFamilies {
		s.Families = append(s.Families, string(f))
	}
	return s
}

func claimOf(c *v1alpha1.IPClaim) *Claim {
	out := &Claim{
		Name: c.Name, Address: c.Spec.Address, Pool: c.Spec.Pool, Phase: string(c.Spec.Phase), Group: c.Spec.Group,
		SharingKey: c.Spec.SharingKey,
	}
	if c.Spec.RetainUntil != nil {
		out.RetainUntil = c.Spec.RetainUntil.Time
	}
	for _, s := range c.Spec.Services {
		t := Tenant{Key: s.Namespace + "/" + s.Name, UID: string(s.UID)}
		for _, p := range s.Ports {
			t.Ports = append(t.Ports, Port{p.Protocol, p.Port})
		}
		out.Tenants = append(out.Tenants, t)
	}
	return out
}

func recordOf(r *v1alpha1.LoadBalancer) *Record {
	out := &Record{Key: r.Namespace + "/" + r.Name, UID: string(r.Spec.ServiceUID), Addresses: map[string]string{}}
	for _, a := range r.Spec.Addresses {
		out.Addresses[a.Address] = string(a.Rule)
	}
	for _, c := range r.Status.Conditions {
		if c.Type == v1alpha1.ConditionAllocated && c.Status != "True" {
			out.Reason = c.Reason
		}
	}
	return out
}

// names says whether the claim is Bound for the Service.
func (c *Claim) names(uid string) bool {
	return c.Phase == string(v1alpha1.ClaimBound) && slices.ContainsFunc(c.Tenants, func(t Tenant) bool { return t.UID == uid })
}

func (c *Claim) String() string {
	var who []string
	for _, t := range c.Tenants {
		who = append(who, fmt.Sprintf("%s (%s) %v", t.Key, short(t.UID), t.Ports))
	}
	return fmt.Sprintf("claim %s %s for %s", c.Address, c.Phase, strings.Join(who, ", "))
}

func (s *Service) String() string {
	state := ""
	if s.Leaving {
		state = " leaving,"
	}
	return fmt.Sprintf("service %s (%s)%s shows %v, ports %v", s.Key, short(s.UID), state, s.Shown, s.Ports)
}

func (r *Record) String() string {
	return fmt.Sprintf("record %s (%s) has %v", r.Key, short(r.UID), r.Addresses)
}

// short keeps traces readable.
func short(uid string) string { return uid[:min(8, len(uid))] }

// common returns a port that both lists hold.
func common(a, b []Port) (Port, bool) {
	for _, p := range a {
		if slices.Contains(b, p) {
			return p, true
		}
	}
	return Port{}, false
}
