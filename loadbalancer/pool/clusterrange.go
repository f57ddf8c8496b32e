// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// RangeKind says what a cluster gives addresses of a range to.
type RangeKind uint8

const (
	// PodRange holds the addresses of pods.
	PodRange RangeKind = iota
	// ServiceRange holds cluster IPs of Services.
	ServiceRange
)

// String returns the kind as messages say it.
func (k RangeKind) String() string {
	if k == ServiceRange {
		return "Service range"
	}
	return "pod range"
}

func (k RangeKind) reason() reason.Reason {
	if k == ServiceRange {
		return reason.OverlapsServiceRange
	}
	return reason.OverlapsPodRange
}

// ClusterRange is a range that the cluster gives addresses of by itself. Comparable.
type ClusterRange struct {
	Interval Interval
	Kind     RangeKind
	// Created is the age of the object that the range comes from; 0 is older than any pool.
	Created loadbalancer.Since
	// Object names it in messages: node "worker".
	Object string
}

// String writes the range for messages.
func (r ClusterRange) String() string {
	return fmt.Sprintf("the %s %s of %s", r.Kind, r.Interval, r.Object)
}

// RangeConflict is a pool that is older than a cluster range that overlaps it.
type RangeConflict struct {
	Range ClusterRange
	Pool  string
}

func compareRanges(a, b ClusterRange) int {
	return cmp.Or(a.Interval.From.Compare(b.Interval.From), a.Interval.To.Compare(b.Interval.To),
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Created, b.Created), cmp.Compare(a.Object, b.Object))
}

// rangeTable finds the ranges that overlap an interval.
type rangeTable struct {
	// ranges are sorted; reach has, for each, the highest end of it and those before it
	// of its family.
	ranges []ClusterRange
	reach  []Interval
}

func newRangeTable(ranges []ClusterRange) *rangeTable {
	t := &rangeTable{ranges: slices.SortedFunc(slices.Values(ranges), compareRanges)}
	t.ranges = slices.Compact(t.ranges)
	for i, r := range t.ranges {
		reach := r.Interval
		if i > 0 {
			if last := t.reach[i-1]; last.Family() == reach.Family() && reach.To.Less(last.To) {
				reach.To = last.To
			}
		}
		t.reach = append(t.reach, reach)
	}
	return t
}

// overlapping returns the ranges that overlap an interval, sorted.
func (t *rangeTable) overlapping(iv Interval) []ClusterRange {
	// end is behind the last range that begins before the interval ends. Addresses of
	// IPv4 sort before those of IPv6.
	end, _ := slices.BinarySearchFunc(t.ranges, iv, func(r ClusterRange, iv Interval) int {
		if iv.To.Less(r.Interval.From) {
			return 1
		}
		return -1
	})
	var out []ClusterRange
	for i := end - 1; i >= 0 && t.reach[i].Family() == iv.Family() && !t.reach[i].To.Less(iv.From); i-- {
		if t.ranges[i].Interval.Overlaps(iv) {
			out = append(out, t.ranges[i])
		}
	}
	slices.Reverse(out)
	return out
}

// check returns why a pool cannot be used, or else the younger ranges that overlap it,
// sorted, each once. A range wins over a pool of its own age: its addresses are in use
// without anybody asking.
func (t *rangeTable) check(p *Pool, created loadbalancer.Since) (*Error, []ClusterRange) {
	var younger []ClusterRange
	for _, iv := range p.intervals {
		for _, r := range t.overlapping(iv) {
			if r.Created == 0 || r.Created <= created {
				return &Error{r.Kind.reason(), fmt.Sprintf(
					"%s overlaps %s; take the common addresses out of the pool, no address of it is used until then", iv, r)}, nil
			}
			younger = append(younger, r)
		}
	}
	slices.SortFunc(younger, compareRanges)
	return nil, slices.Compact(younger)
}

// heldBack is the conflict of a pool with younger ranges, at least one.
func heldBack(ranges []ClusterRange) *Error {
	// One more than is written, to see that there are others.
	names := make([]string, 0, namesInMessage+1)
	for _, r := range ranges[:min(len(ranges), namesInMessage+1)] {
		names = append(names, r.String())
	}
	return &Error{ranges[0].Kind.reason(), "the pool overlaps " + abbreviate(names) +
		"; the common addresses are not handed out, Services keep what they hold; take them out of the pool or move the range"}
}

// namesInMessage bounds a list in a message.
const namesInMessage = 3

// abbreviate joins the first names of a list. It tells no numbers: a message that
// changes is a new event.
func abbreviate(names []string) string {
	if len(names) > namesInMessage {
		return strings.Join(names[:namesInMessage], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}
