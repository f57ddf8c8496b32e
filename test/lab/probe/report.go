// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
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
	// LastFailure is when the last failing attempt started. Where only some
	// connections fail, as those that a router sends to one of several nodes,
	// it is the end of the blackout.
	LastFailure string `json:"lastFailure,omitempty"`
	// LatencyP50Ms and LatencyP99Ms are quantiles of how long the successful
	// attempts took, from connecting to the last byte.
	LatencyP50Ms float64 `json:"latencyP50Ms"`
	LatencyP99Ms float64 `json:"latencyP99Ms"`
	// LatestStartMs is the longest that an attempt started after its time: what
	// of a gap may be the prober's own.
	LatestStartMs float64 `json:"latestStartMs"`
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
		took         []time.Duration
		firstFailure time.Time
	)
	for i := range attempts {
		a := &attempts[i]
		r.LatestStartMs = max(r.LatestStartMs, milliseconds(a.late))
		if a.err != "" {
			r.Failed++
			r.Errors[a.err]++
			r.LastFailure = stamp(a.start)
			if firstFailure.IsZero() {
				firstFailure = a.start
				r.FirstFailure = stamp(a.start)
			}
			continue
		}
		r.OK++
		r.Hostnames[a.hostname]++
		r.RemoteAddrs[a.remote]++
		ends, took = append(ends, a.end), append(took, a.end.Sub(a.start))
		if !firstFailure.IsZero() && r.FirstSuccessAfter == "" {
			r.FirstSuccessAfter = stamp(a.end)
		}
	}
	r.gap(interval, attempts, ends)
	slices.Sort(took)
	r.LatencyP50Ms, r.LatencyP99Ms = quantile(took, 50), quantile(took, 99)
	return r
}

// quantile is the smallest value that so many percent do not exceed, in
// milliseconds; 0 if there are none.
func quantile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return milliseconds(sorted[(len(sorted)*percent+99)/100-1])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

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
		if ms := milliseconds(points[i].Sub(points[i-1]) - interval); ms > r.LongestGapMs {
			r.LongestGapMs, r.GapStart, r.GapEnd = ms, stamp(points[i-1]), stamp(points[i])
		}
	}
}

// errorKind drops the URL and ports from an error, so that equal failures
// count together.
func errorKind(err string) string {
	for _, kind := range []string{
		"connection refused", "no route to host", "connection reset", "network is unreachable", "broken pipe", "EOF", "status ",
	} {
		if strings.Contains(err, kind) {
			return strings.TrimSpace(kind)
		}
	}
	if strings.Contains(err, "timeout") || strings.Contains(err, "timed out") || strings.Contains(err, "deadline exceeded") {
		return "timed out"
	}
	return err
}

func stamp(t time.Time) string { return t.Format(time.RFC3339Nano) }

// String is the report for people.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d ok, %d failed; longest gap %.0f ms; latency p50 %.1f ms, p99 %.1f ms; latest start %.0f ms\n",
		r.Sent, r.OK, r.Failed, r.LongestGapMs, r.LatencyP50Ms, r.LatencyP99Ms, r.LatestStartMs)
	for _, m := range []map[string]int{r.Hostnames, r.RemoteAddrs, r.Errors} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "%6d  %s\n", m[k], k)
		}
	}
	return b.String()
}
