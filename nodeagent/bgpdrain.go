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
	// since is when the first reason came that has the routes go; zero where the node never
	// told anything that could be drained.
	since time.Time
	over  bool
	// looked says that it was asked before, told is the last answer.
	looked bool
	told   loadbalancer.BGPDrain
}

// look says how the routes end, given what is known of the node and of this agent.
func (d *drain) look(now time.Time, node loadbalancer.Node, leaving bool, patience time.Duration) loadbalancer.BGPDrain {
	why := drainReason(node, leaving)
	ended := ends(d.why)
	d.why = why
	switch {
	case !ends(why):
		d.since, d.over = time.Time{}, false
	case !ended && d.looked:
		// From now on, however long the node was cordoned before: this is when it is said that
		// the routes go.
		d.since = now
	}
	d.over = d.due(now, patience) || d.over
	d.looked = true
	d.told = loadbalancer.BGPDrain{Reason: why.String(), Over: d.over}
	return d.told
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

// ends says whether routes that are drained for a reason go in the end.
func ends(why reason.Reason) bool { return why != "" && why != reason.NodeCordoned }

// due says whether the time is over.
func (d *drain) due(now time.Time, patience time.Duration) bool {
	return ends(d.why) && !d.over && now.Sub(d.since) >= patience
}
