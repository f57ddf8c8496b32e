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
	// ids number the nodes that were ever heard of: to look counts up by name would be most
	// of the work when each group's list is made anew.
	ids  map[loadbalancer.NodeName]int
	load []int // by id
	// heirs are, by the id of the first, the counts by the id of the second.
	heirs []map[int]int
	// row is one of heirs, spread out by id.
	row []int
	// unseen are groups whose bound claim is not in the cache yet, with the end of their
	// reservation.
	unseen map[loadbalancer.Group]time.Time
}

func newLedger() *ledger {
	return &ledger{
		heads:  map[loadbalancer.Group]head{},
		ids:    map[loadbalancer.NodeName]int{},
		unseen: map[loadbalancer.Group]time.Time{},
	}
}

// id numbers a node.
func (l *ledger) id(name loadbalancer.NodeName) int {
	id, ok := l.ids[name]
	if !ok {
		id = len(l.ids)
		l.ids[name] = id
		l.load, l.heirs = append(l.load, 0), append(l.heirs, nil)
	}
	return id
}

// maxStale bounds the numbers of nodes that are gone.
const maxStale = 1000

// compact numbers the nodes anew if most of those that were ever heard of are gone: where
// nodes come and go all day, each of them would cost time with each group for ever.
// Earlier numbers are void then.
func (l *ledger) compact(nodes int) {
	if len(l.ids) < 2*nodes+maxStale {
		return
	}
	heads := l.heads
	l.heads, l.ids = make(map[loadbalancer.Group]head, len(heads)), make(map[loadbalancer.NodeName]int, nodes)
	l.load, l.heirs, l.row = nil, nil, nil
	for group, h := range heads {
		l.set(group, h)
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

func (l *ledger) count(h head, n int) {
	if h[0] == "" {
		return
	}
	first := l.id(h[0])
	l.load[first] += n
	if h[1] == "" {
		return
	}
	if l.heirs[first] == nil {
		l.heirs[first] = map[int]int{}
	}
	second := l.id(h[1])
	if l.heirs[first][second] += n; l.heirs[first][second] == 0 {
		delete(l.heirs[first], second)
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

// heirsWithout counts, by id and without one group, those that go from one node to another
// should the first die. The result is good until the next call.
func (l *ledger) heirsWithout(group loadbalancer.Group) func(first loadbalancer.NodeName) []int {
	own := l.heads[group]
	return func(first loadbalancer.NodeName) []int {
		clear(l.row)
		for len(l.row) < len(l.ids) {
			l.row = append(l.row, 0)
		}
		for second, n := range l.heirs[l.id(first)] {
			l.row[second] = n
		}
		if own[0] == first && own[1] != "" {
			l.row[l.id(own[1])]--
		}
		return l.row
	}
}
