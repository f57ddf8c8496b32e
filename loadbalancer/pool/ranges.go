// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"slices"
)

// Ranges is a set of addresses kept as sorted, disjoint runs, so that finding the
// next free address does not walk the used ones. Addresses are handed out lowest
// first, so there are few runs. The zero value is empty and ready. Not safe for
// concurrent use.
type Ranges struct {
	runs []Interval
}

// find returns the index of the first run that ends at or after a.
func (r *Ranges) find(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(r.runs, a, func(run Interval, a netip.Addr) int {
		return run.To.Compare(a)
	})
	return i
}

// Contains reports whether a is in the set.
func (r *Ranges) Contains(a netip.Addr) bool {
	i := r.find(a)
	return i < len(r.runs) && r.runs[i].Contains(a)
}

// Add puts a into the set.
func (r *Ranges) Add(a netip.Addr) {
	i := r.find(a)
	if i < len(r.runs) && r.runs[i].Contains(a) {
		return
	}
	joinsLeft := i > 0 && r.runs[i-1].To.Next() == a
	joinsRight := i < len(r.runs) && a.Next() == r.runs[i].From
	switch {
	case joinsLeft && joinsRight:
		r.runs[i-1].To = r.runs[i].To
		r.runs = slices.Delete(r.runs, i, i+1)
	case joinsLeft:
		r.runs[i-1].To = a
	case joinsRight:
		r.runs[i].From = a
	default:
		r.runs = slices.Insert(r.runs, i, Interval{From: a, To: a})
	}
}

// Remove takes a out of the set.
func (r *Ranges) Remove(a netip.Addr) {
	i := r.find(a)
	if i == len(r.runs) || !r.runs[i].Contains(a) {
		return
	}
	run := r.runs[i]
	switch {
	case run.From == run.To:
		r.runs = slices.Delete(r.runs, i, i+1)
	case run.From == a:
		r.runs[i].From = a.Next()
	case run.To == a:
		r.runs[i].To = a.Prev()
	default:
		r.runs[i].To = a.Prev()
		r.runs = slices.Insert(r.runs, i+1, Interval{From: a.Next(), To: run.To})
	}
}

// FirstFree returns the lowest address of the interval that is not in the set.
func (r *Ranges) FirstFree(iv Interval) (netip.Addr, bool) {
	i := r.find(iv.From)
	if i == len(r.runs) || !r.runs[i].Contains(iv.From) {
		return iv.From, true
	}
	// Runs never touch, so the address after one is free.
	next := r.runs[i].To.Next()
	return next, next.IsValid() && iv.Contains(next)
}
