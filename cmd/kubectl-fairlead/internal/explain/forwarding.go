// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Forwarding is who takes packets for a Service from the announcing node to its targets.
type Forwarding struct {
	// Asked is the data plane that its record says: ipvs or kube-proxy.
	Asked string `json:"asked"`
	// IPMode is what its status says: with Proxy kube-proxy does not know the addresses.
	IPMode string `json:"ipMode,omitempty"`
	// How are scheduler, targets and what else the record says.
	How string `json:"how"`
	// SourceRanges that may connect, none for everybody.
	SourceRanges []string `json:"sourceRanges,omitempty"`
	// NodeAddresses are of nodes, each served by its own.
	NodeAddresses []string `json:"nodeAddresses,omitempty"`
	// Nodes are who forwards on which, and why not IPVS; where the record asks for it.
	Nodes []string `json:"nodes,omitempty"`
}

// forwarding describes a record's data plane.
func (b *book) forwarding(svc *corev1.Service, r *v1alpha1.LoadBalancer) *Forwarding {
	out := &Forwarding{
		Asked: string(r.Spec.Forwarding), IPMode: ipModes(svc), How: how(&r.Spec),
		SourceRanges: r.Spec.SourceRanges, NodeAddresses: r.Spec.NodeAddresses,
	}
	if r.Spec.Forwarding != v1alpha1.ForwardingIPVS {
		return out
	}
	forwarded := meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionForwarded)
	type line struct{ node, says string }
	var lines []line
	for i := range b.state.Agents {
		a := &b.state.Agents[i]
		lines = append(lines, line{a.Name, planeWords(a, r, forwarded)})
	}
	slices.SortFunc(lines, func(x, y line) int { return cmp.Compare(x.node, y.node) })
	// Nodes that say the same are one line: clusters are large, and mostly of one mind.
	for done := map[string]bool{}; len(lines) > 0; lines = lines[1:] {
		says := lines[0].says
		if done[says] {
			continue
		}
		done[says] = true
		var nodes []string
		for _, l := range lines {
			if l.says == says {
				nodes = append(nodes, l.node)
			}
		}
		out.Nodes = append(out.Nodes, says+": "+strings.Join(nodes, ", "))
	}
	return out
}

// planeWords says who forwards a record on a node, and why not IPVS.
func planeWords(a *v1alpha1.NodeAgent, r *v1alpha1.LoadBalancer, forwarded bool) string {
	d := &a.Status.DataPlane
	words := "kube-proxy"
	switch {
	case d.Forwarding == "":
		return words + " (the agent does not say; it is of an earlier release, or starting)"
	case d.Forwarding != v1alpha1.ForwardingIPVS:
		return because(words, d.Reason, d.Message)
	}
	for _, w := range d.Waiting {
		if w.Name == r.Namespace+"/"+r.Name {
			return because(words, w.Reason, w.Message)
		}
	}
	// Versions grow with each status too, so that an older one says nothing once all is well.
	if c, err := resourceversion.CompareResourceVersion(cmp.Or(d.Revision, "0"), r.ResourceVersion); !forwarded && (err != nil || c < 0) {
		return "ipvs, maybe not this version of it yet"
	}
	return "ipvs"
}

func because(words, why, message string) string {
	if why != "" {
		words += " (" + why + ")"
	}
	if message != "" {
		words += ", because " + strings.TrimSuffix(message, ".")
	}
	return words
}

func ipModes(svc *corev1.Service) string {
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && !slices.Contains(out, string(*in.IPMode)) {
			out = append(out, string(*in.IPMode))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func how(s *v1alpha1.LoadBalancerSpec) string {
	targets := "straight to pods"
	if s.TargetType == v1alpha1.TargetNodePort {
		targets = "to node ports of other nodes and pods of its own"
	}
	out := fmt.Sprintf("%s, externalTrafficPolicy %s", targets, s.ExternalTrafficPolicy)
	if s.Forwarding != v1alpha1.ForwardingIPVS {
		return out
	}
	out += ", scheduler " + cmp.Or(s.Scheduler, "rr (wrr where weights count)")
	for _, flag := range s.SchedulerFlags {
		out += "," + s.Scheduler + "-" + flag
	}
	if s.SessionAffinitySeconds > 0 {
		out += fmt.Sprintf(", a client stays with its pod for %d s", s.SessionAffinitySeconds)
	}
	return out
}
