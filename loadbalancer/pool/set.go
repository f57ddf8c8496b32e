// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

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
	// Allocation restricts automatic assignment; nil serves every Service.
	Allocation *Allocation
	// Fault is what conversion found wrong, nil when nothing; such a pool is not used.
	Fault *Error
}

// Allocation is a pool's serviceAllocation. A Service matches when its namespace
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
	name       string
	auto       bool
	avoidBuggy bool
	disabled   bool
	alloc      *Allocation
	// intervals are sorted, disjoint and do not touch.
	intervals []Interval
}

// Name returns the IPAddressPool's name.
func (p *Pool) Name() string { return p.name }

// Contains reports whether the pool has the address, buggy or not.
func (p *Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.intervals, func(iv Interval) bool { return iv.Contains(a) })
}

func (p *Pool) has(f Family) bool {
	return slices.ContainsFunc(p.intervals, func(iv Interval) bool { return iv.Family() == f })
}

// Usable counts the addresses of a family that the pool can ever hand out, capped
// at the largest int64.
func (p *Pool) Usable(f Family) int64 {
	var n int64
	for _, iv := range p.intervals {
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

// firstFree returns the lowest address of the family that is not blocked.
func (p *Pool) firstFree(f Family, blocked *Ranges) (netip.Addr, bool) {
	for _, iv := range p.intervals {
		if iv.Family() != f {
			continue
		}
		a, ok := blocked.FirstFree(iv)
		for ok && p.avoidBuggy && buggy(a) {
			next := a.Next()
			if !next.IsValid() || !iv.Contains(next) {
				ok = false
				break
			}
			a, ok = blocked.FirstFree(Interval{From: next, To: iv.To})
		}
		if ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Set is every pool, compiled. It is immutable.
type Set struct {
	// pools are the valid ones by name.
	pools []*Pool
	// faults are those of the others, by name.
	faults map[string]*Error
}

// Compile parses pools and finds overlaps. Of two pools that overlap the younger is
// not used (the later name when they are of one age); addresses given twice in one
// pool count once.
func Compile(specs []Spec, ranges []ClusterRange) *Set {
	s := &Set{faults: make(map[string]*Error)}
	byAge := slices.SortedFunc(slices.Values(specs), func(a, b Spec) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	for _, spec := range byAge {
		p, fault := compile(spec)
		if fault == nil {
			fault = s.overlap(p)
		}
		if fault != nil {
			s.faults[spec.Name] = fault
			continue
		}
		s.pools = append(s.pools, p)
	}
	slices.SortFunc(s.pools, func(a, b *Pool) int { return cmp.Compare(a.name, b.name) })
	return s
}

func compile(spec Spec) (*Pool, *Error) {
	if spec.Fault != nil {
		return nil, spec.Fault
	}
	p := &Pool{name: spec.Name, auto: spec.AutoAssign, avoidBuggy: spec.AvoidBuggyIPs, disabled: spec.Disabled, alloc: spec.Allocation}
	var bad []string
	for _, text := range spec.Addresses {
		iv, err := ParseInterval(text)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		p.intervals = append(p.intervals, iv)
	}
	switch {
	case len(bad) > 0:
		return nil, &Error{reason.InvalidAddresses, "spec.addresses: " + strings.Join(bad, "; ") + "; correct it, no address of this pool is used until then"}
	case len(p.intervals) == 0:
		return nil, &Error{reason.InvalidAddresses, "spec.addresses is empty; add a CIDR prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20)"}
	}
	p.intervals = merge(p.intervals)
	return p, nil
}

// merge sorts intervals and joins those that overlap or touch.
func merge(in []Interval) []Interval {
	slices.SortFunc(in, func(a, b Interval) int { return a.From.Compare(b.From) })
	out := in[:1]
	for _, iv := range in[1:] {
		last := &out[len(out)-1]
		if iv.Family() == last.Family() && (last.Overlaps(iv) || last.To.Next() == iv.From) {
			if last.To.Less(iv.To) {
				last.To = iv.To
			}
			continue
		}
		out = append(out, iv)
	}
	return out
}

func (s *Set) overlap(p *Pool) *Error {
	for _, older := range s.pools {
		for _, iv := range p.intervals {
			for _, o := range older.intervals {
				if iv.Overlaps(o) {
					return &Error{reason.Overlap, fmt.Sprintf(
						"%s overlaps %s of the older pool %q; take the common addresses out of one of them, no address of this pool is used until then", iv, o, older.name)}
				}
			}
		}
	}
	return nil
}

// Fault returns why a pool is not used, nil when it is used or unknown.
func (s *Set) Fault(name string) *Error { return s.faults[name] }

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
	for _, p := range s.pools {
		if p.Contains(a) {
			return p, true
		}
	}
	return nil, false
}

// candidates returns the pools that serve a Service unasked, best first.
func (s *Set) candidates(req *Request) []*Pool {
	var ranked, open []*Pool
	for _, p := range s.pools {
		switch {
		case !p.auto:
		case p.alloc == nil:
			open = append(open, p)
		case p.alloc.matches(req):
			ranked = append(ranked, p)
		}
	}
	slices.SortStableFunc(ranked, func(a, b *Pool) int {
		return cmp.Compare(rank(a.alloc.Priority), rank(b.alloc.Priority))
	})
	return append(ranked, open...)
}

func rank(priority int) int {
	if priority == 0 {
		return math.MaxInt
	}
	return priority
}

// Conflict returns why a pool that is in use never hands out some of its addresses: a
// younger cluster range has them. nil when there is no such range.
func (s *Set) Conflict(name string) *Error { return nil }

// RangeConflicts returns the cluster ranges that overlap an older pool, sorted.
func (s *Set) RangeConflicts() []RangeConflict { return nil }

// Disabled reports whether a valid pool gives no more addresses.
func (s *Set) Disabled(name string) bool {
	p, ok := s.ByName(name)
	return ok && p.disabled
}
