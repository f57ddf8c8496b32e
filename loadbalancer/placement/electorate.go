// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// electorate is a view's nodes, one of them perhaps taken for dead.
type electorate struct {
	*View
	// without is taken for dead, empty for nobody.
	without loadbalancer.NodeName
	// mercy is whether cordoned nodes count; see cordonedCount.
	mercy mercy
}

// mercy is a boolean that is found out when it is needed, which is seldom.
type mercy uint8

const (
	unknown mercy = iota
	granted
	denied
)

// cordonedCount says whether cordoned nodes count as eligible: because nothing may move,
// or because there is no other node.
func (e *electorate) cordonedCount() bool {
	if e.mercy == unknown {
		e.mercy = granted
		if !e.KeepOnly && e.anyFree() {
			e.mercy = denied
		}
	}
	return e.mercy == granted
}

// anyFree says whether a node may be given the group that is not cordoned.
func (e *electorate) anyFree() bool {
	for i := range e.Nodes.Len() {
		if n, why := e.Nodes.At(i); why == "" && n != e.without {
			return true
		}
	}
	return false
}

// elect names the owner; its epoch is zero while it has not claimed the group.
func (e *electorate) elect() loadbalancer.Ownership {
	best := e.best()
	if best.Node != "" && e.ownedInAPI(best) {
		return loadbalancer.Ownership{Node: e.Persisted.Node}
	}
	if best.Node != "" {
		return best
	}
	if e.KeepOnly {
		return loadbalancer.Ownership{}
	}
	if e.mayKeep(e.Persisted.Node) {
		return loadbalancer.Ownership{Node: e.Persisted.Node}
	}
	for _, n := range e.Successors {
		if e.eligible(n) {
			return loadbalancer.Ownership{Node: n}
		}
	}
	return loadbalancer.Ownership{Node: Rendezvous(e.Group, e.eligibleNodes)}
}

// best is the best claim of a node that may announce.
func (e *electorate) best() loadbalancer.Ownership {
	var best loadbalancer.Ownership
	for _, c := range e.Claims {
		if c.Beats(best) && e.mayKeep(c.Node) {
			best = c
		}
	}
	return best
}

// ownedInAPI says that the API holds a better claim than c, of a node that may announce.
func (e *electorate) ownedInAPI(c loadbalancer.Ownership) bool {
	return !e.KeepOnly && e.Persisted.Node != c.Node && e.Persisted.Epoch > c.Epoch && e.mayKeep(e.Persisted.Node)
}

// mayKeep says whether a node may go on announcing what it has.
func (e *electorate) mayKeep(n loadbalancer.NodeName) bool {
	why, live := e.why(n)
	return live && (why == reason.Restarting || e.counts(why))
}

// eligible says whether a node may be given the group.
func (e *electorate) eligible(n loadbalancer.NodeName) bool {
	why, live := e.why(n)
	return live && e.counts(why)
}

func (e *electorate) why(n loadbalancer.NodeName) (reason.Reason, bool) {
	if n == "" || n == e.without {
		return "", false
	}
	return e.Nodes.Why(n)
}

func (e *electorate) counts(why reason.Reason) bool {
	return why == "" || why == reason.NodeCordoned && e.cordonedCount()
}

// eligibleNodes yields the live and eligible nodes in any order.
func (e *electorate) eligibleNodes(yield func(loadbalancer.NodeName) bool) {
	for i := range e.Nodes.Len() {
		if n, why := e.Nodes.At(i); n != e.without && e.counts(why) && !yield(n) {
			return
		}
	}
}
