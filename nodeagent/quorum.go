// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"iter"
	"maps"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// forgetAfter is when a member that died counts no longer as last known, unless this
// node is in the minority: then its own view is in doubt, not the others' lives.
const forgetAfter = time.Minute

// quorum remembers who was alive lately. An agent that sees fewer than half of them is
// more likely to be cut off, or starved, than to be the last one standing.
type quorum struct {
	seen    map[loadbalancer.NodeName]time.Time
	leaving map[loadbalancer.NodeName]bool
}

func newQuorum() *quorum {
	return &quorum{seen: make(map[loadbalancer.NodeName]time.Time), leaving: make(map[loadbalancer.NodeName]bool)}
}

// expect has nodes counted as if they had been alive now: a run that has just started and
// hears of nobody is as likely cut off as one that saw them go.
func (q *quorum) expect(now time.Time, nodes iter.Seq[loadbalancer.NodeName]) {
	for n := range nodes {
		q.seen[n] = now
	}
}

// minority takes the present view and says whether it shows fewer than half of the
// last known members. Members that said goodbye, and those that the API server too
// holds for gone or not ready, are not missed.
func (q *quorum) minority(now time.Time, live map[loadbalancer.NodeName]plan.Member, nodes map[loadbalancer.NodeName]loadbalancer.Node) bool {
	for n, m := range live {
		q.seen[n] = now
		q.leaving[n] = m.Leaving
	}
	maps.DeleteFunc(q.seen, func(n loadbalancer.NodeName, _ time.Time) bool {
		_, alive := live[n]
		return !alive && (q.leaving[n] || !nodes[n].Ready)
	})
	if 2*len(live) < len(q.seen) {
		return true
	}
	maps.DeleteFunc(q.seen, func(_ loadbalancer.NodeName, at time.Time) bool { return now.Sub(at) > forgetAfter })
	maps.DeleteFunc(q.leaving, func(n loadbalancer.NodeName, _ bool) bool { _, known := q.seen[n]; return !known })
	return false
}
