// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// reservationLife bounds how long a proposal counts whose claim never appears.
const reservationLife = time.Minute

// head is the first and the second successor of a group, empty where there is none.
type head [2]loadbalancer.NodeName

func headOf(names []loadbalancer.NodeName) head {
	var h head
	copy(h[:], names)
	return h
}

// ledger counts, per node, the groups that have it as first successor and, per pair of
// nodes, those that have them as first and second. Proposals count at once, before their
// claims are in the cache, so that several allocations side by side do not all choose the
// same idle node. It is not safe for concurrent use.
type ledger struct {
	heads map[loadbalancer.Group]head
	load  map[loadbalancer.NodeName]int
	heirs map[loadbalancer.NodeName]map[loadbalancer.NodeName]int
	// unseen are groups whose bound claim is not in the cache yet, with the end of their
	// reservation.
	unseen map[loadbalancer.Group]time.Time
}

func newLedger() *ledger {
	return &ledger{
		heads:  map[loadbalancer.Group]head{},
		load:   map[loadbalancer.NodeName]int{},
		heirs:  map[loadbalancer.NodeName]map[loadbalancer.NodeName]int{},
		unseen: map[loadbalancer.Group]time.Time{},
	}
}

func (l *ledger) set(group loadbalancer.Group, h head) {
	old := l.heads[group]
	if old != h {
		l.count(old, -1)
		l.count(h, 1)
	}
	l.heads[group] = h
}

// count keeps no zeros: nodes come and go.
func (l *ledger) count(h head, n int) {
	if h[0] == "" {
		return
	}
	if l.load[h[0]] += n; l.load[h[0]] == 0 {
		delete(l.load, h[0])
	}
	if h[1] == "" {
		return
	}
	heirs := l.heirs[h[0]]
	if heirs == nil {
		heirs = map[loadbalancer.NodeName]int{}
		l.heirs[h[0]] = heirs
	}
	if heirs[h[1]] += n; heirs[h[1]] == 0 {
		delete(heirs, h[1])
	}
	if len(heirs) == 0 {
		delete(l.heirs, h[0])
	}
}

func (l *ledger) remove(group loadbalancer.Group) {
	l.count(l.heads[group], -1)
	delete(l.heads, group)
	delete(l.unseen, group)
}

// forget ends a group that the cache says is gone, unless it was reserved anew: an
// address may be given to the next Service before the end of its last claim is told.
func (l *ledger) forget(group loadbalancer.Group) {
	if _, reserved := l.unseen[group]; !reserved {
		l.remove(group)
	}
}

// observe takes over what a bound claim in the cache says. An empty list never overrides a
// choice already made: the cache may be older than our own write.
func (l *ledger) observe(claim *v1alpha1.IPClaim) {
	group := loadbalancer.Group(claim.Spec.Group)
	h := l.heads[group]
	if len(claim.Spec.Successors) > 0 {
		h = head{loadbalancer.NodeName(claim.Spec.Successors[0])}
	}
	if len(claim.Spec.Successors) > 1 {
		h[1] = loadbalancer.NodeName(claim.Spec.Successors[1])
	}
	l.set(group, h)
	delete(l.unseen, group)
}

// reserve records a proposal; seen says whether the group has a bound claim in the cache.
func (l *ledger) reserve(group loadbalancer.Group, names []loadbalancer.NodeName, seen bool, now time.Time) {
	for g, end := range l.unseen {
		if end.Before(now) {
			l.remove(g)
		}
	}
	l.set(group, headOf(names))
	if !seen {
		l.unseen[group] = now.Add(reservationLife)
	}
}

// loadWithout is a node's load without one group's share.
func (l *ledger) loadWithout(node loadbalancer.NodeName, group loadbalancer.Group) int {
	n := l.load[node]
	if node != "" && l.heads[group][0] == node {
		n--
	}
	return n
}

// heirsWithout counts, without one group, those that go from one node to another should
// the first die.
func (l *ledger) heirsWithout(group loadbalancer.Group) func(first, second loadbalancer.NodeName) int {
	own := l.heads[group]
	return func(first, second loadbalancer.NodeName) int {
		n := l.heirs[first][second]
		if own == (head{first, second}) {
			n--
		}
		return n
	}
}
