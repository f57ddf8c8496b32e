// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"maps"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// macs are the link-layer addresses that node agents were ever heard to have, by node.
// They are kept when a node is no member any longer: one that only the gossip misses must
// not be taken for a stranger, or two halves of a cluster would defend against each other.
type macs map[loadbalancer.NodeName]map[kernel.MAC]struct{}

// learn adds those that members tell, and forgets nodes that are no longer in the cluster.
// The address of all zeros stands for a member that does not tell.
func (m macs) learn(members map[loadbalancer.NodeName]plan.Member, nodes map[loadbalancer.NodeName]loadbalancer.Node) {
	for n, member := range members {
		if !member.Known {
			continue
		}
		if m[n] == nil {
			m[n] = make(map[kernel.MAC]struct{})
		}
		delete(m[n], kernel.MAC{})
		for _, i := range member.Interfaces {
			m[n][i.MAC] = struct{}{}
		}
	}
	maps.DeleteFunc(m, func(n loadbalancer.NodeName, _ map[kernel.MAC]struct{}) bool {
		_, member := members[n]
		_, node := nodes[n]
		return !member && !node
	})
}

// all returns them together with those of this node's links; nil while an agent of an
// earlier version does not tell its own, so that it is not taken for a stranger.
func (m macs) all(own []kernel.Link) map[kernel.MAC]struct{} {
	out := make(map[kernel.MAC]struct{})
	for _, of := range m {
		if _, untold := of[kernel.MAC{}]; untold {
			return nil
		}
		maps.Copy(out, of)
	}
	for _, l := range own {
		out[l.MAC] = struct{}{}
	}
	return out
}
