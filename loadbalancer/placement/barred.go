// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Barred says why a node may not announce anything, whatever the group, as far as its
// Node object tells; empty when it may. Agents and controller ask the same question here.
//
// That a node is not Ready is no reason: the API server says so of a node that it has lost,
// whose addresses may be answered all the same; the controller proposes such nodes last.
// That it is cordoned is none either, but a soft one for [Owner] and [Successors].
func Barred(n loadbalancer.Node) reason.Reason {
	switch {
	case n.Excluded:
		return reason.NodeExcluded
	case n.NetworkUnavailable:
		return reason.NetworkUnavailable
	case n.ShuttingDown:
		return reason.NodeShuttingDown
	default:
		return ""
	}
}
