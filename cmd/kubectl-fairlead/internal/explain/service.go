// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/externalip"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// ServiceReport is the answer for one Service.
type ServiceReport struct {
	// Service as namespace/name.
	Service string `json:"service"`
	// NotServed says why Fairlead has nothing to do with the Service, empty when it has.
	NotServed string `json:"notServed,omitempty"`
	// Addresses that it has, in its record's order.
	Addresses []Address `json:"addresses,omitempty"`
	// Forwarding is who forwards to it, nil without a record.
	Forwarding *Forwarding `json:"forwarding,omitempty"`
	// BGP is who tells its addresses by BGP, nil where nobody is to.
	BGP *BGP `json:"bgp,omitempty"`
	// Absent says why there is no address, or not every one that was asked for.
	Absent *Absence `json:"absent,omitempty"`
	// Conditions of its record.
	Conditions []Condition `json:"conditions,omitempty"`
	// Notes are what else there is to know.
	Notes []string `json:"notes,omitempty"`
}

// Address is one address that a Service has.
type Address struct {
	Address string `json:"address"`
	// Rule chose it, and Why says it in words.
	Rule string `json:"rule,omitempty"`
	Why  string `json:"why"`
	Holding
}

// Holding is how an address is held and announced.
type Holding struct {
	Pool  string `json:"pool,omitempty"`
	Claim string `json:"claim,omitempty"`
	Phase string `json:"phase,omitempty"`
	// Group is the claim whose owner announces this address too, empty when it is alone.
	Group string `json:"group,omitempty"`
	// Services that hold it, or had it last, with their ports.
	Services   []string `json:"services,omitempty"`
	SharingKey string   `json:"sharingKey,omitempty"`
	// RetainFor is how long it is kept for a namesake once its last Service has ended.
	RetainFor      string   `json:"retainFor,omitempty"`
	RetainUntil    string   `json:"retainUntil,omitempty"`
	ReleasingSince string   `json:"releasingSince,omitempty"`
	Owner          string   `json:"owner,omitempty"`
	Successors     []string `json:"successors,omitempty"`
	Advertisements []string `json:"advertisements,omitempty"`
	// Conflicts are hosts outside the cluster that have it too, as nodes hear them.
	Conflicts []string `json:"conflicts,omitempty"`
}

// Condition is a condition of a record or of a pool.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Absence says why an address is missing.
type Absence struct {
	// Reason and Message are the allocator's answer now.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Pools are all pools with what each would do for the Service.
	Pools []Verdict `json:"pools,omitempty"`
}

// Service explains one Service; false when there is none of that name.
func Service(s *cluster.State, namespace, name string) (ServiceReport, bool) {
	i := slices.IndexFunc(s.Services, func(svc corev1.Service) bool { return svc.Namespace == namespace && svc.Name == name })
	if i < 0 {
		return ServiceReport{}, false
	}
	b, svc := newBook(s), &s.Services[i]
	r := ServiceReport{Service: namespace + "/" + name, Notes: slices.Clone(s.Gaps)}
	r.NotServed = notServed(s.Config.Classes, svc)
	record := b.record(svc)
	for _, c := range b.claimsOf(svc) {
		a, err := v1alpha1.ParseClaimName(c.Name)
		if err != nil || c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		rule := b.rule(svc, a)
		out := Address{Address: a.String(), Rule: string(rule), Why: ruleWords(rule, c), Holding: b.holding(c)}
		if record != nil {
			for _, ad := range record.Spec.Advertisements {
				if len(ad.Addresses) > 0 && !slices.Contains(ad.Addresses, out.Address) {
					continue
				}
				out.Advertisements = append(out.Advertisements, ad.Kind+" "+ad.Name)
			}
		}
		r.Addresses = append(r.Addresses, out)
	}
	if record != nil {
		r.Conditions = conditions(record.Status.Conditions)
		if len(record.Spec.Addresses)+len(record.Spec.NodeAddresses) > 0 {
			r.Forwarding = b.forwarding(svc, record)
		}
		r.BGP = b.bgp(record)
	}
	if r.NotServed == "" {
		r.Absent = b.absence(svc)
		r.addNotes(b, svc, record)
	}
	return r, true
}

func notServed(classes convert.Classes, svc *corev1.Service) string {
	class := svc.Spec.LoadBalancerClass
	switch {
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer && len(svc.Spec.ExternalIPs) == 0:
		return fmt.Sprintf("it is of type %s; Fairlead serves Services of type LoadBalancer, and spec.externalIPs", svc.Spec.Type)
	case svc.Spec.Type != corev1.ServiceTypeLoadBalancer:
		return ""
	case svc.DeletionTimestamp != nil:
		return "it is being deleted"
	case classes.Serves(svc):
		return ""
	case class == nil:
		return fmt.Sprintf("it has no spec.loadBalancerClass, and this cluster's Fairlead is configured for class %s only", classes.Class)
	default:
		return fmt.Sprintf("its spec.loadBalancerClass is %s; this cluster's Fairlead serves class %s", *class, classes.Class)
	}
}

func ruleWords(rule v1alpha1.AllocationRule, c *v1alpha1.IPClaim) string {
	switch rule {
	case v1alpha1.RuleRequested:
		return "the Service asks for this very address"
	case v1alpha1.RuleShown:
		return "the Service's status showed it already and it was free"
	case v1alpha1.RuleRetained:
		return "it was kept for a Service of this namespace and name"
	case v1alpha1.RuleShared:
		return fmt.Sprintf("a Service with the same sharing key %q had it", c.Spec.SharingKey)
	case v1alpha1.RulePool:
		return fmt.Sprintf("lowest free address of pool %q, which the Service asks for", c.Spec.Pool)
	case v1alpha1.RuleServiceAllocation:
		return fmt.Sprintf("lowest free address of pool %q, whose serviceAllocation matches the Service", c.Spec.Pool)
	case v1alpha1.RuleAutoAssign:
		return fmt.Sprintf("lowest free address of pool %q, which is for everybody", c.Spec.Pool)
	case v1alpha1.RuleExternalIP:
		return "spec.externalIPs names it and the ExternalIPPolicy grants it"
	default:
		return "its record does not say by which rule (an older Fairlead gave it, or the record is not written yet)"
	}
}

// holding describes a claim.
func (b *book) holding(c *v1alpha1.IPClaim) Holding {
	h := Holding{
		Pool: c.Spec.Pool, Claim: c.Name, Phase: string(c.Spec.Phase), SharingKey: c.Spec.SharingKey,
		ReleasingSince: stamp(c.Spec.ReleasingSince), RetainUntil: stamp(c.Spec.RetainUntil),
	}
	if c.Spec.Group != c.Name {
		h.Group = c.Spec.Group
	}
	if c.Spec.RetainFor != nil {
		h.RetainFor = c.Spec.RetainFor.Duration.String()
	}
	for _, s := range c.Spec.Services {
		h.Services = append(h.Services, s.Namespace+"/"+s.Name+portWords(s.Ports))
	}
	slices.Sort(h.Services)
	if o := c.Status.Owner; o != nil {
		h.Owner = fmt.Sprintf("%s (epoch %d, since %s)", o.Node, o.Epoch, stamp(&o.Since))
	} else if b.toldByBGP(c) {
		h.Owner = "every node that may, by BGP"
	}
	for _, n := range c.Spec.Successors {
		h.Successors = append(h.Successors, b.nodeWords(n))
	}
	if a, err := v1alpha1.ParseClaimName(c.Name); err == nil {
		h.Conflicts = b.conflicts(a)
	}
	return h
}

func stamp(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func portWords(ports []v1alpha1.Port) string {
	if len(ports) == 0 {
		return ""
	}
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	}
	return " (" + strings.Join(out, ", ") + ")"
}

func conditions(in []metav1.Condition) []Condition {
	out := make([]Condition, 0, len(in))
	for _, c := range in {
		out = append(out, Condition{Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message})
	}
	slices.SortFunc(out, func(x, y Condition) int { return strings.Compare(x.Type, y.Type) })
	return out
}

// absence asks the allocator what the Service would get now.
func (b *book) absence(svc *corev1.Service) *Absence {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	req, err := b.request(svc)
	if err != nil {
		return &Absence{Reason: err.Reason.String(), Message: err.Message}
	}
	got, err := pool.Allocate(b.set, b.ledger, &req.Pool)
	missing := slices.DeleteFunc(slices.Clone(got), func(a pool.Assignment) bool {
		return slices.ContainsFunc(req.Pool.Held, func(h pool.Assignment) bool { return h.Addr == a.Addr })
	})
	switch {
	case err != nil:
		return &Absence{Reason: err.Reason.String(), Message: err.Message, Pools: b.verdicts(&req.Pool)}
	case len(missing) > 0:
		return &Absence{
			Reason: "Pending", Pools: b.verdicts(&req.Pool),
			Message: fmt.Sprintf("the allocator would give %s now; wait a moment, else see whether the controller runs: kubectl -n fairlead-system get deployments,leases", assignmentWords(missing)),
		}
	}
	return nil
}

func assignmentWords(in []pool.Assignment) string {
	out := make([]string, len(in))
	for i, a := range in {
		out[i] = fmt.Sprintf("%s from pool %q", a.Addr, a.Pool)
		if a.Rule != "" {
			out[i] += fmt.Sprintf(" (%s)", a.Rule)
		}
	}
	return strings.Join(out, ", ")
}

// addNotes adds what is unusual.
func (r *ServiceReport) addNotes(b *book, svc *corev1.Service, record *v1alpha1.LoadBalancer) {
	note := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	if req, err := convert.Service(svc); err == nil {
		for _, w := range req.Warnings {
			note("%s: %s", w.Reason, w.Message)
		}
	}
	for i := range b.state.Claims {
		c := &b.state.Claims[i]
		names := slices.Contains(serviceNames(c.Spec.Services), svc.Namespace+"/"+svc.Name)
		if names && c.Spec.Phase == v1alpha1.ClaimRetained {
			note("address %s is kept for it until %s", c.Spec.Address, stamp(c.Spec.RetainUntil))
		}
		if names && c.Spec.Phase == v1alpha1.ClaimReleasing {
			note("address %s, which it had, is being released since %s", c.Spec.Address, stamp(c.Spec.ReleasingSince))
		}
	}
	if record == nil && b.state.Records != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		note("it has no LoadBalancer record yet")
	}
	shown := convert.StatusAddresses(svc)
	for _, a := range shown {
		if !r.has(a) {
			note("its status shows %s, which it does not hold", a)
		}
	}
	for _, a := range r.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && a.Rule != string(v1alpha1.RuleExternalIP) && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && !slices.Contains(shown, addr) {
			note("its status does not show %s yet", a.Address)
		}
	}
	for _, a := range convert.ExternalIPs(svc) {
		if !r.has(a) {
			note("address %s of spec.externalIPs: %s", a, b.externalWords(svc, a))
		}
	}
}

func (r *ServiceReport) has(a netip.Addr) bool {
	return slices.ContainsFunc(r.Addresses, func(x Address) bool { return x.Address == a.String() })
}

// externalWords says why an external IP has no claim of the Service's.
func (b *book) externalWords(svc *corev1.Service, a netip.Addr) string {
	tenant := convert.Tenant(svc)
	whose, own := b.reserved[a]
	_, err := pool.AllocateExternal(b.set, b.ledger, tenant, a)
	record := b.record(svc)
	switch {
	case b.state.PolicyKnown && !externalip.Granted(b.state.Policy, svc.Namespace, b.namespaceLabels(svc.Namespace), a, tenant.Ports):
		return "no grant of the ExternalIPPolicy named default allows it (ExternalIPNotGranted)"
	case record != nil && slices.Contains(record.Spec.NodeAddresses, a.String()):
		if !own {
			return "it was a node's own and waits for its node; take it out of the spec and put it back to have it announced"
		}
		return fmt.Sprintf("it is the address of %s, which serves it; nobody announces it", whose)
	case own:
		return fmt.Sprintf("it is the address of %s", whose)
	case !b.state.PolicyKnown:
		return "the Service does not hold it"
	case err != nil:
		return fmt.Sprintf("%s (%s)", err.Message, err.Reason)
	default:
		return "it is granted and free; wait a moment, else see whether the controller runs"
	}
}
