// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// reservationLife bounds how long a proposal counts whose claim never appears.
const reservationLife = time.Minute

// ledger counts, per node, the groups that have it as first successor. Proposals count
// at once, before their claims are in the cache, so that several allocations side by
// side do not all choose the same idle node. It is not safe for concurrent use.
type ledger struct {
	first map[loadbalancer.Group]loadbalancer.NodeName
	load  map[loadbalancer.NodeName]int
	// unseen are groups whose bound claim is not in the cache yet, with the end of their
	// reservation.
	unseen map[loadbalancer.Group]time.Time
}

func newLedger() *ledger {
	return &ledger{
		first:  map[loadbalancer.Group]loadbalancer.NodeName{},
		load:   map[loadbalancer.NodeName]int{},
		unseen: map[loadbalancer.Group]time.Time{},
	}
}

func (l *ledger) set(group loadbalancer.Group, first loadbalancer.NodeName) {
	l.uncount(group)
	l.first[group] = first
	if first != "" {
		l.load[first]++
	}
}

func (l *ledger) uncount(group loadbalancer.Group) {
	old := l.first[group]
	if old == "" {
		return
	}
	if l.load[old]--; l.load[old] == 0 {
		delete(l.load, old)
	}
}

func (l *ledger) remove(group loadbalancer.Group) {
	l.uncount(group)
	delete(l.first, group)
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
	first := l.first[group]
	if len(claim.Spec.Successors) > 0 {
		first = loadbalancer.NodeName(claim.Spec.Successors[0])
	}
	l.set(group, first)
	delete(l.unseen, group)
}

// reserve records a proposal; seen says whether the group has a bound claim in the cache.
func (l *ledger) reserve(group loadbalancer.Group, first loadbalancer.NodeName, seen bool, now time.Time) {
	for g, end := range l.unseen {
		if end.Before(now) {
			l.remove(g)
		}
	}
	l.set(group, first)
	if !seen {
		l.unseen[group] = now.Add(reservationLife)
	}
}

// loadWithout is a node's load without one group's share.
func (l *ledger) loadWithout(node loadbalancer.NodeName, group loadbalancer.Group) int {
	n := l.load[node]
	if node != "" && l.first[group] == node {
		n--
	}
	return n
}
