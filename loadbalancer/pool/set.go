// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Error says why there is no address, or why a pool is not used: a machine-readable
// reason, and a message with the cause and the remedy for the Service's or the
// pool's author. Messages hold nothing that changes by itself (no counts, no times),
// because a changed message is a new event.
type Error struct {
	Reason  reason.Reason
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Spec is one IPAddressPool as written.
type Spec struct {
	Name string
	// Created ranks overlapping pools: the older one is used.
	Created loadbalancer.Since
	// Addresses are prefixes and ranges, not parsed yet.
	Addresses []string
	// Excluded are never handed out, in the spelling of Addresses.
	Excluded      []string
	AutoAssign    bool
	AvoidBuggyIPs bool
	// Disabled pools give nothing more.
	Disabled bool
	// Allocation restricts the pool to some Services; nil serves every one.
	Allocation *Allocation
	// Fault is what conversion found wrong, nil when nothing; such a pool is not used.
	Fault *Error
}

// Allocation is a pool's serviceAllocation: only Services that match get addresses of
// the pool, and they get them before those of pools for everybody. A Service matches when its namespace
// matches (by name or by label; both lists empty match all) and its labels match
// (no selectors match all).
type Allocation struct {
	// Priority: lower first, 0 last.
	Priority           int
	Namespaces         []string
	NamespaceSelectors []labels.Selector
	ServiceSelectors   []labels.Selector
}

func (a *Allocation) matches(req *Request) bool {
	ns := len(a.Namespaces) == 0 && len(a.NamespaceSelectors) == 0 ||
		slices.Contains(a.Namespaces, req.Service.Namespace) ||
		anyMatches(a.NamespaceSelectors, req.NamespaceLabels)
	return ns && (len(a.ServiceSelectors) == 0 || anyMatches(a.ServiceSelectors, req.Labels))
}

func anyMatches(selectors []labels.Selector, l labels.Set) bool {
	return slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(l) })
}

// Pool is one valid pool.
type Pool struct {
	name string
	// id is the pool's place among the set's pools.
	id         int
	auto       bool
	avoidBuggy bool
	disabled   bool
	alloc      *Allocation
	// order is the pool's place among those that serve Services unasked; a pool that
	// does not comes after all of them.
	order int
	// intervals are sorted, disjoint and do not touch; so are grants, what is left of
	// them for handing out.
	intervals, grants []Interval
	// gaps are the grants as keys, by family.
	gaps [2][]gap
}

// gap is an interval between excluded addresses.
type gap struct{ from, to key }

// Name returns the IPAddressPool's name.
func (p *Pool) Name() string { return p.name }

// Contains reports whether the pool has the address, handed out or not.
func (p *Pool) Contains(a netip.Addr) bool { return contains(p.intervals, a) }

// contains looks for an address in sorted, disjoint intervals.
func contains(in []Interval, a netip.Addr) bool {
	i, ok := slices.BinarySearchFunc(in, a, func(iv Interval, a netip.Addr) int {
		switch {
		case iv.To.Less(a):
			return -1
		case a.Less(iv.From):
			return 1
		default:
			return 0
		}
	})
	return ok && in[i].Contains(a)
}

// usable reports whether the pool may hand out an address that it has.
func (p *Pool) usable(a netip.Addr) bool {
	return (!p.avoidBuggy || !buggy(a)) && p.grantsKey(slot(FamilyOf(a)), keyOf(a))
}

// grantsKey reports whether an address of a family is none that is excluded.
func (p *Pool) grantsKey(slot int, k key) bool {
	gaps := p.gaps[slot]
	low, high := 0, len(gaps)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if gaps[mid].to.less(k) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(gaps) && !k.less(gaps[low].from)
}

// returns reports whether the pool has nothing against a namesake's taking a held
// address over. People may make retained claims by hand, so those count only where an
// address may be handed out.
func (p *Pool) returns(a netip.Addr, h Holding) bool {
	return h.State == Bound || p.grantsKey(slot(FamilyOf(a)), keyOf(a))
}

func (p *Pool) has(f Family) bool {
	return slices.ContainsFunc(p.intervals, func(iv Interval) bool { return iv.Family() == f })
}

// serves reports whether the pool is for the Service.
func (p *Pool) serves(req *Request) bool { return p.alloc == nil || p.alloc.matches(req) }

// Usable counts the addresses of a family that the pool can ever hand out as long as
// none is a node's own, capped at the largest int64.
func (p *Pool) Usable(f Family) int64 {
	var n int64
	for _, iv := range p.grants {
		if iv.Family() != f {
			continue
		}
		s := iv.Size()
		if p.avoidBuggy {
			s -= buggyCount(iv)
		}
		if s > math.MaxInt64-n {
			return math.MaxInt64
		}
		n += s
	}
	return n
}

// Set is every pool, compiled. It is immutable.
type Set struct {
	// pools are the valid ones by name.
	pools []*Pool
	// faults are those of the others, by name.
	faults map[string]*Error
	// conflicts are those of pools in use with ranges of the cluster, by name.
	conflicts      map[string]*Error
	rangeConflicts []RangeConflict
	// spans are the addresses of all valid pools, sorted, by family.
	spans [2][]span
	// ranked and open are the pools that serve Services unasked, best first: with and
	// without serviceAllocation.
	ranked, open []*Pool
	// rankedFor are places in ranked of the pools that only name namespaces, by
	// namespace; rankedAny those of the others. Ascending.
	rankedFor map[string][]int
	rankedAny []int
}

// span is an interval of one pool.
type span struct {
	from, to key
	pool     *Pool
}

// slot is a family's place in an array.
func slot(f Family) int {
	if f == IPv4 {
		return 0
	}
	return 1
}

// Fault returns why a pool is not used, nil when it is used or unknown.
func (s *Set) Fault(name string) *Error { return s.faults[name] }

// Conflict returns why a pool that is in use never hands out some of its addresses: a
// younger range of the cluster has them. nil when there is no such range.
func (s *Set) Conflict(name string) *Error { return s.conflicts[name] }

// RangeConflicts returns the cluster ranges that overlap an older pool, sorted.
func (s *Set) RangeConflicts() []RangeConflict { return slices.Clone(s.rangeConflicts) }

// Disabled reports whether a valid pool gives no more addresses.
func (s *Set) Disabled(name string) bool {
	p, ok := s.ByName(name)
	return ok && p.disabled
}

// ByName returns a valid pool.
func (s *Set) ByName(name string) (*Pool, bool) {
	i, ok := slices.BinarySearchFunc(s.pools, name, func(p *Pool, n string) int { return cmp.Compare(p.name, n) })
	if !ok {
		return nil, false
	}
	return s.pools[i], true
}

// ByAddr returns the valid pool that has the address.
func (s *Set) ByAddr(a netip.Addr) (*Pool, bool) {
	return s.byKey(slot(FamilyOf(a)), keyOf(a))
}

func (s *Set) byKey(slot int, k key) (*Pool, bool) {
	spans := s.spans[slot]
	low, high := 0, len(spans)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if spans[mid].to.less(k) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(spans) || k.less(spans[low].from) {
		return nil, false
	}
	return spans[low].pool, true
}
