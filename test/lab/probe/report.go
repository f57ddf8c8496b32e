// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// report is what a run found out. Times are milliseconds or RFC 3339 with
// nanoseconds, so that they can be held against the "cut at" of fairlead-lab.
type report struct {
	Sent   int `json:"sent"`
	OK     int `json:"ok"`
	Failed int `json:"failed"`
	// LongestGapMs is the blackout: the longest stretch between the ends of two
	// successful attempts that follow each other in time, less one interval,
	// which would lie between them anyway. A run that begins or ends with
	// failures counts from its first attempt's start, or to its last one's end.
	LongestGapMs float64 `json:"longestGapMs"`
	// GapStart and GapEnd are the two ends of that stretch.
	GapStart string `json:"gapStart,omitempty"`
	GapEnd   string `json:"gapEnd,omitempty"`
	// FirstFailure is when the first failing attempt started.
	FirstFailure string `json:"firstFailure,omitempty"`
	// FirstSuccessAfter is when the first attempt succeeded that started after
	// FirstFailure.
	FirstSuccessAfter string `json:"firstSuccessAfter,omitempty"`
	// Hostnames counts answers by the pod that gave them.
	Hostnames map[string]int `json:"hostnames"`
	// RemoteAddrs counts answers by the client address that the pod saw,
	// without the port.
	RemoteAddrs map[string]int `json:"remoteAddrs"`
	// Errors counts failures by their text.
	Errors map[string]int `json:"errors"`
}

// newReport sums up attempts that are in starting order.
func newReport(interval time.Duration, attempts []attempt) *report {
	r := &report{Sent: len(attempts), Hostnames: map[string]int{}, RemoteAddrs: map[string]int{}, Errors: map[string]int{}}
	var (
		ends         []time.Time
		firstFailure time.Time
	)
	for i := range attempts {
		a := &attempts[i]
		if a.err != "" {
			r.Failed++
			r.Errors[errorKind(a.err)]++
			if firstFailure.IsZero() {
				firstFailure = a.start
				r.FirstFailure = stamp(a.start)
			}
			continue
		}
		r.OK++
		r.Hostnames[a.hostname]++
		r.RemoteAddrs[address(a.remoteAddr)]++
		ends = append(ends, a.end)
		if !firstFailure.IsZero() && r.FirstSuccessAfter == "" {
			r.FirstSuccessAfter = stamp(a.end)
		}
	}
	r.gap(interval, attempts, ends)
	return r
}

func (r *report) gap(interval time.Duration, attempts []attempt, ends []time.Time) {
	if len(attempts) == 0 {
		return
	}
	slices.SortFunc(ends, time.Time.Compare)
	points := ends
	if attempts[0].err != "" {
		points = append([]time.Time{attempts[0].start}, points...)
	}
	if last := attempts[len(attempts)-1]; last.err != "" {
		points = append(points, last.end)
	}
	for i := 1; i < len(points); i++ {
		if ms := float64(points[i].Sub(points[i-1])-interval) / float64(time.Millisecond); ms > r.LongestGapMs {
			r.LongestGapMs, r.GapStart, r.GapEnd = ms, stamp(points[i-1]), stamp(points[i])
		}
	}
}

// errorKind drops the URL and ports from an error, so that equal failures
// count together.
func errorKind(err string) string {
	for _, kind := range []string{
		"connection refused", "no route to host", "connection reset", "context deadline exceeded", "network is unreachable", "EOF", "status ",
	} {
		if strings.Contains(err, kind) {
			return strings.TrimSpace(kind)
		}
	}
	return err
}

func address(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	return ap.Addr().Unmap().String()
}

func stamp(t time.Time) string { return t.Format(time.RFC3339Nano) }

// String is the report for people.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d ok, %d failed; longest gap %.0f ms\n", r.Sent, r.OK, r.Failed, r.LongestGapMs)
	for _, m := range []map[string]int{r.Hostnames, r.RemoteAddrs, r.Errors} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "%6d  %s\n", m[k], k)
		}
	}
	return b.String()
}
