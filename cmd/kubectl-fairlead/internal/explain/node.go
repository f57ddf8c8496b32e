// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// nodeWords says whether a node's agent could take over.
func (b *book) nodeWords(name string) string {
	if doubts := append(b.agentDoubts(name), b.nodeDoubts(name)...); len(doubts) > 0 {
		return name + " (" + strings.Join(doubts, ", ") + ")"
	}
	return name
}

// agentDoubts say why an agent is not ready.
func (b *book) agentDoubts(name string) []string {
	if b.state.Agents == nil {
		return nil
	}
	i := slices.IndexFunc(b.state.Agents, func(a v1alpha1.NodeAgent) bool { return a.Name == name })
	if i < 0 {
		return []string{"no agent"}
	}
	ready := meta.FindStatusCondition(b.state.Agents[i].Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil:
		return []string{"not ready"}
	case ready.Status != metav1.ConditionTrue:
		return []string{"not ready: " + ready.Reason}
	default:
		return nil
	}
}

// nodeDoubts say why a node may not announce, or only while no other may.
func (b *book) nodeDoubts(name string) []string {
	var out []string
	for i := range b.state.Nodes {
		if b.state.Nodes[i].Name != name {
			continue
		}
		n := convert.Node(&b.state.Nodes[i])
		if why := placement.Barred(n); why != "" {
			out = append(out, why.String())
		}
		if n.Cordoned {
			out = append(out, reason.NodeCordoned.String())
		}
	}
	return out
}

// conflicts tell of hosts outside the cluster that have an address, ascending by node.
func (b *book) conflicts(a netip.Addr) []string {
	var out []string
	for i := range b.state.Agents {
		for _, c := range b.state.Agents[i].Status.Conflicts {
			if c.Address != a.String() {
				continue
			}
			does := "so it is not announced there"
			if c.Announced {
				does = "announced all the same"
			}
			out = append(out, fmt.Sprintf("%s: MAC address %s has it, heard on %s of node %s since %s, %s",
				reason.DuplicateAddress, c.MAC, c.Interface, b.state.Agents[i].Name, stamp(&c.Since), does))
		}
	}
	slices.Sort(out)
	return out
}
