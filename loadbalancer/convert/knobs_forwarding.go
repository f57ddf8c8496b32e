// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// maxSourceRanges is how many of them a record holds.
	maxSourceRanges = 256
	// maxAffinitySeconds is the API server's limit.
	maxAffinitySeconds = 86400
)

// Wishes are what a Service says about forwarding and about its routes; what it leaves open
// is empty.
type Wishes struct {
	TargetType v1alpha1.TargetType
	Forwarding v1alpha1.Forwarding
	Scheduler  Scheduler
	// AffinitySeconds is the session affinity by client address, 0 for none.
	AffinitySeconds int32
	// SourceRanges in canonical form, ascending, each once; none: everybody may connect.
	SourceRanges []string
	// BGP is what it says of its routes, nil for nothing.
	BGP *v1alpha1.BGPOverrides
}

// Scheduler is one of IPVS with its flags. The zero Scheduler is nobody's choice.
type Scheduler struct {
	// Name in the kernel.
	Name string
	// Flags as records have them: fallback, port; ascending.
	Flags []string
}

// SchedulerNames returns the schedulers of IPVS that a Service may ask for.
func SchedulerNames() []string {
	return []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}
}

// ParseScheduler reads a scheduler and, after commas, flags of sh and mh: "mh,mh-port".
func ParseScheduler(text string) (Scheduler, error) {
	name, rest, flagged := strings.Cut(strings.TrimSpace(text), ",")
	out := Scheduler{Name: strings.TrimSpace(name)}
	if !slices.Contains(SchedulerNames(), out.Name) {
		return Scheduler{}, fmt.Errorf("%q is no scheduler; write one of %s", out.Name, strings.Join(SchedulerNames(), ", "))
	}
	if !flagged {
		return out, nil
	}
	if out.Name != "sh" && out.Name != "mh" {
		return Scheduler{}, fmt.Errorf("scheduler %s has no flags, only sh and mh have; write %s alone", out.Name, out.Name)
	}
	for flag := range strings.SplitSeq(rest, ",") {
		flag = strings.TrimSpace(flag)
		short, ok := strings.CutPrefix(flag, out.Name+"-")
		if !ok || short != "fallback" && short != "port" {
			return Scheduler{}, fmt.Errorf("%q is no flag of scheduler %s; write %s-fallback or %s-port", flag, out.Name, out.Name, out.Name)
		}
		if !slices.Contains(out.Flags, short) {
			out.Flags = append(out.Flags, short)
		}
	}
	slices.Sort(out.Flags)
	return out, nil
}

// Forwarding reads what a Service of any type says about forwarding. The error is for the
// Service's author: the first bad annotation.
func Forwarding(svc *corev1.Service) (Wishes, *pool.Error) {
	var w Wishes
	for _, read := range []func(*corev1.Service) *pool.Error{w.readTargetType, w.readDataPlane, w.readScheduler, w.readSourceRanges, w.readBGP} {
		if err := read(svc); err != nil {
			return Wishes{}, err
		}
	}
	w.AffinitySeconds = affinity(svc)
	return w, nil
}

func (w *Wishes) readTargetType(svc *corev1.Service) *pool.Error {
	switch v := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationTargetType]); v {
	case "":
	case string(v1alpha1.TargetPod), string(v1alpha1.TargetNodePort):
		w.TargetType = v1alpha1.TargetType(v)
	default:
		return invalid(v1alpha1.AnnotationTargetType, "%q is neither pod nor node-port; write one of them", v)
	}
	return nil
}

func (w *Wishes) readDataPlane(svc *corev1.Service) *pool.Error {
	switch v := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationDataPlane]); v {
	case "":
	case string(v1alpha1.ForwardingIPVS), string(v1alpha1.ForwardingKubeProxy):
		w.Forwarding = v1alpha1.Forwarding(v)
	default:
		return invalid(v1alpha1.AnnotationDataPlane, "%q is neither ipvs nor kube-proxy; write one of them", v)
	}
	return nil
}

func (w *Wishes) readScheduler(svc *corev1.Service) *pool.Error {
	v := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationScheduler])
	if v == "" {
		return nil
	}
	var err error
	if w.Scheduler, err = ParseScheduler(v); err != nil {
		return invalid(v1alpha1.AnnotationScheduler, "%v", err)
	}
	return nil
}

// affinity returns a Service's session affinity in seconds; what the API server fills in
// is filled in here too.
func affinity(svc *corev1.Service) int32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return min(max(*c.ClientIP.TimeoutSeconds, 1), maxAffinitySeconds)
	}
	return corev1.DefaultClientIPServiceAffinitySeconds
}

// readSourceRanges reads spec.loadBalancerSourceRanges, else the annotation that was there
// before it, as kube-proxy does: of Services of type LoadBalancer only.
func (w *Wishes) readSourceRanges(svc *corev1.Service) *pool.Error {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	where, texts := "spec.loadBalancerSourceRanges", svc.Spec.LoadBalancerSourceRanges
	if value := strings.TrimSpace(svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); len(texts) == 0 && value != "" {
		where, texts = "annotation "+corev1.AnnotationLoadBalancerSourceRangesKey, strings.Split(value, ",")
	}
	var out []netip.Prefix
	for _, text := range texts {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf(
				"%s: %q is not a CIDR prefix; write ranges such as 192.0.2.0/24", where, text)}
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	out = slices.Compact(out)
	if len(out) > maxSourceRanges {
		return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf(
			"%s: there are %d ranges, more than %d; join some of them", where, len(out), maxSourceRanges)}
	}
	for _, p := range out {
		w.SourceRanges = append(w.SourceRanges, p.String())
	}
	return nil
}
