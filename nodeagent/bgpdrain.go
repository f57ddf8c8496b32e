// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// drain is how this node ends telling routes: first they ask for the least preference, so
// that routers choose others while packets still arrive here, then they go. A node that is
// cordoned stays the last resort.
type drain struct {
	why reason.Reason
	// since is zero where the node never told anything that could be drained.
	since time.Time
	over  bool
	// looked says that it was asked before.
	looked bool
}

// look says how the routes end, given what is known of the node and of this agent.
func (d *drain) look(now time.Time, node loadbalancer.Node, leaving bool, patience time.Duration) loadbalancer.BGPDrain {
	why := drainReason(node, leaving)
	began := d.why != ""
	d.why = why
	switch {
	case why == "":
		d.since, d.over = time.Time{}, false
	case !began && (d.looked || why == reason.NodeCordoned):
		d.since = now
	}
	d.over = why != "" && why != reason.NodeCordoned && (d.over || now.Sub(d.since) >= patience)
	d.looked = true
	return loadbalancer.BGPDrain{Reason: why.String(), Over: d.over}
}

// drainReason says why a node is to end telling routes, "" when it is not.
func drainReason(node loadbalancer.Node, leaving bool) reason.Reason {
	switch {
	case leaving:
		return reason.Leaving
	case node.ShuttingDown:
		return reason.NodeShuttingDown
	case node.Excluded:
		return reason.NodeExcluded
	case node.Cordoned:
		return reason.NodeCordoned
	default:
		return ""
	}
}

// due says whether the time is over.
func (d *drain) due(now time.Time, patience time.Duration) bool {
	return d.why != "" && d.why != reason.NodeCordoned && !d.over && now.Sub(d.since) >= patience
}
