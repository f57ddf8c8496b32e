// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Compile parses pools and finds overlaps. Of two pools that overlap the younger is
// not used (the later name when they are of one age), and so is a pool that overlaps a
// range of the cluster that is not younger; a pool that is older than the range is
// used without the common addresses. Addresses given twice in one pool count once.
func Compile(specs []Spec, ranges []ClusterRange) *Set {
	s := &Set{faults: make(map[string]*Error), conflicts: make(map[string]*Error), rankedFor: make(map[string][]int)}
	byAge := slices.SortedFunc(slices.Values(specs), func(a, b Spec) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	compiled := make([]*Pool, len(byAge))
	var all []Interval
	for i, spec := range byAge {
		p, fault := compile(spec)
		if fault != nil {
			s.faults[spec.Name] = fault
			continue
		}
		compiled[i] = p
		all = append(all, p.intervals...)
	}
	cluster := newRangeTable(ranges)
	claimed := newOverlaps(all)
	for i, p := range compiled {
		if p == nil {
			continue
		}
		fault, younger := cluster.check(p, byAge[i].Created)
		if fault == nil {
			fault = claimed.add(p)
		}
		if fault != nil {
			s.faults[p.name] = fault
			continue
		}
		s.take(p, younger)
	}
	s.finish()
	return s
}

func compile(spec Spec) (*Pool, *Error) {
	if spec.Fault != nil {
		return nil, spec.Fault
	}
	p := &Pool{name: spec.Name, auto: spec.AutoAssign, avoidBuggy: spec.AvoidBuggyIPs, disabled: spec.Disabled, alloc: spec.Allocation}
	var bad []string
	p.intervals, bad = parseIntervals("spec.addresses", spec.Addresses, nil)
	excluded, bad := parseIntervals("spec.excludedAddresses", spec.Excluded, bad)
	switch {
	case len(bad) > 0:
		return nil, &Error{reason.InvalidAddresses, strings.Join(bad, "; ") + "; correct it, no address of this pool is used until then"}
	case len(p.intervals) == 0:
		return nil, &Error{reason.InvalidAddresses, "spec.addresses is empty; add a CIDR prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20)"}
	}
	p.intervals = merge(p.intervals)
	p.grants = subtract(p.intervals, excluded)
	return p, nil
}

// parseIntervals reads a list; bad gets what is wrong with it, under the field's name.
func parseIntervals(field string, list, bad []string) (out []Interval, _ []string) {
	var wrong []string
	for _, text := range list {
		iv, err := ParseInterval(text)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		out = append(out, iv)
	}
	if len(wrong) > 0 {
		bad = append(bad, field+": "+strings.Join(wrong, "; "))
	}
	return out, bad
}

// merge sorts intervals and joins those that overlap or touch.
func merge(in []Interval) []Interval {
	if len(in) == 0 {
		return nil
	}
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

// subtract returns what is left of merged intervals without others, which it sorts.
func subtract(in, out []Interval) []Interval {
	if len(out) == 0 {
		return in
	}
	out = merge(out)
	var left []Interval
	i := 0
	for _, iv := range in {
		for i < len(out) && out[i].To.Less(iv.From) {
			i++
		}
		rest := true
		for j := i; j < len(out) && !iv.To.Less(out[j].From); j++ {
			if iv.From.Less(out[j].From) {
				left = append(left, Interval{From: iv.From, To: out[j].From.Prev()})
			}
			if !out[j].To.Less(iv.To) {
				rest = false
				break
			}
			iv.From = out[j].To.Next()
		}
		if rest {
			left = append(left, iv)
		}
	}
	return left
}

// take adds a valid pool, without the addresses of younger ranges of the cluster.
func (s *Set) take(p *Pool, younger []ClusterRange) {
	s.pools = append(s.pools, p)
	if len(younger) == 0 {
		return
	}
	back := make([]Interval, 0, len(younger))
	for _, r := range younger {
		back = append(back, r.Interval)
		s.rangeConflicts = append(s.rangeConflicts, RangeConflict{Range: r, Pool: p.name})
	}
	s.conflicts[p.name] = heldBack(younger)
	p.grants = subtract(p.grants, back)
}

// finish sorts what lookups need sorted.
func (s *Set) finish() {
	slices.SortFunc(s.pools, func(a, b *Pool) int { return cmp.Compare(a.name, b.name) })
	slices.SortFunc(s.rangeConflicts, func(a, b RangeConflict) int {
		return cmp.Or(compareRanges(a.Range, b.Range), cmp.Compare(a.Pool, b.Pool))
	})
	for i, p := range s.pools {
		p.id, p.order = i, math.MaxInt
		for _, iv := range p.intervals {
			f := slot(iv.Family())
			s.spans[f] = append(s.spans[f], span{from: keyOf(iv.From), to: keyOf(iv.To), pool: p})
		}
		for _, iv := range p.grants {
			f := slot(iv.Family())
			p.gaps[f] = append(p.gaps[f], gap{from: keyOf(iv.From), to: keyOf(iv.To)})
		}
		switch {
		case !p.auto || p.disabled:
		case p.alloc == nil:
			s.open = append(s.open, p)
		default:
			s.ranked = append(s.ranked, p)
		}
	}
	for f := range s.spans {
		slices.SortFunc(s.spans[f], func(a, b span) int {
			return cmp.Or(cmp.Compare(a.from.hi, b.from.hi), cmp.Compare(a.from.lo, b.from.lo))
		})
	}
	slices.SortStableFunc(s.ranked, func(a, b *Pool) int {
		return cmp.Compare(rank(a.alloc.Priority), rank(b.alloc.Priority))
	})
	for i, p := range s.ranked {
		p.order = i
		if len(p.alloc.Namespaces) == 0 || len(p.alloc.NamespaceSelectors) > 0 {
			s.rankedAny = append(s.rankedAny, i)
			continue
		}
		for _, ns := range p.alloc.Namespaces {
			if l := s.rankedFor[ns]; len(l) == 0 || l[len(l)-1] != i {
				s.rankedFor[ns] = append(l, i)
			}
		}
	}
	for i, p := range s.open {
		p.order = len(s.ranked) + i
	}
}

func rank(priority int) int {
	if priority == 0 {
		return math.MaxInt
	}
	return priority
}

// overlaps finds out which older pool has an address of a younger one, in logarithmic
// time: the address space is cut where any interval begins or ends, and an index of
// the pieces that some pool has finds the first of them.
type overlaps struct {
	// cuts are where pieces begin, in ascending order; by family.
	cuts [2][]key
	// owned has a free bit for each piece that some pool has, owner is whose it is.
	owned [2]*index
	owner [2][]piece
}

type piece struct {
	iv   Interval
	pool *Pool
}

func newOverlaps(all []Interval) *overlaps {
	o := &overlaps{}
	for _, iv := range all {
		f := slot(iv.Family())
		o.cuts[f] = append(o.cuts[f], keyOf(iv.From))
		if end, ok := keyOf(iv.To).next(); ok {
			o.cuts[f] = append(o.cuts[f], end)
		}
	}
	for f, cuts := range o.cuts {
		slices.SortFunc(cuts, func(a, b key) int { return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)) })
		o.cuts[f] = slices.Compact(cuts)
		o.owned[f] = newIndex(key{}, key{lo: uint64(len(cuts))}, false)
		o.owner[f] = make([]piece, len(cuts))
	}
	return o
}

// pieces returns the first and the last piece of an interval.
func (o *overlaps) pieces(iv Interval) (first, last int) {
	cuts := o.cuts[slot(iv.Family())]
	find := func(a netip.Addr) int {
		i, ok := slices.BinarySearchFunc(cuts, keyOf(a), func(c, k key) int {
			return cmp.Or(cmp.Compare(c.hi, k.hi), cmp.Compare(c.lo, k.lo))
		})
		if !ok {
			i--
		}
		return i
	}
	return find(iv.From), find(iv.To)
}

// add books a pool's addresses, unless an older pool has some of them.
func (o *overlaps) add(p *Pool) *Error {
	for _, iv := range p.intervals {
		f := slot(iv.Family())
		first, last := o.pieces(iv)
		k, ok := o.owned[f].next(key{lo: uint64(first)}) //nolint:gosec // an index
		if !ok || k.lo > uint64(last) {                  //nolint:gosec // an index
			continue
		}
		older := o.owner[f][k.lo]
		return &Error{reason.Overlap, fmt.Sprintf(
			"%s overlaps %s of the older pool %q; take the common addresses out of one of them, no address of this pool is used until then", iv, older.iv, older.pool.name)}
	}
	for _, iv := range p.intervals {
		f := slot(iv.Family())
		first, last := o.pieces(iv)
		o.owned[f].free(key{lo: uint64(first)}, key{lo: uint64(last)}) //nolint:gosec // indices
		for i := first; i <= last; i++ {
			o.owner[f][i] = piece{iv, p}
		}
	}
	return nil
}
