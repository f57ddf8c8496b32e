// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// holdReport is what became of connections that were held open.
type holdReport struct {
	// Held is how many were asked for: alive until the end, broken, or never opened.
	Held      int `json:"held"`
	Alive     int `json:"alive"`
	Broken    int `json:"broken"`
	NotOpened int `json:"notOpened"`
	// Requests counts the complete answers on all connections.
	Requests int `json:"requests"`
	// LongestAnswerMs is the longest that an answer took that came: what TCP's
	// repetitions bridged.
	LongestAnswerMs float64 `json:"longestAnswerMs"`
	// Breaks are the connections that broke, in the order of time.
	Breaks []connBreak `json:"breaks"`
	// Hostnames counts connections by the pod that answered first.
	Hostnames map[string]int `json:"hostnames"`
	// Errors counts the connections that broke or were not opened by the kind of error.
	Errors map[string]int `json:"errors"`
}

// connBreak is the end of one connection.
type connBreak struct {
	// At is when the failing request began.
	At       string `json:"at"`
	Local    string `json:"local"`
	Hostname string `json:"hostname"`
	Error    string `json:"error"`

	at time.Time
}

// held is one connection's story.
type held struct {
	opened   bool
	requests int
	longest  time.Duration
	hostname string
	broken   *connBreak
	err      string
}

// holdOpen keeps o.hold connections open for o.duration. A connection that
// breaks is not replaced. They start spread over one interval.
func holdOpen(ctx context.Context, o options) *holdReport {
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	conns, begin := make([]held, o.hold), time.Now()
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			if waitUntil(ctx, begin.Add(o.interval*time.Duration(i)/time.Duration(o.hold))) {
				conns[i] = holdOne(ctx, o)
			}
		})
	}
	wg.Wait()
	return newHoldReport(conns)
}

func holdOne(ctx context.Context, o options) (h held) {
	conn, err := (&net.Dialer{Timeout: o.timeout}).DialContext(ctx, "tcp", o.target.address)
	if err != nil {
		h.err = errorKind(err.Error())
		return h
	}
	h.opened = true
	defer func() { _ = conn.Close() }() // it has served
	r := bufio.NewReader(conn)
	for due := time.Now(); waitUntil(ctx, due); due = due.Add(o.interval) {
		start := time.Now()
		a, err := ask(conn, r, o.target.again, start.Add(o.timeout))
		if err != nil {
			h.err = errorKind(err.Error())
			h.broken = &connBreak{At: stamp(start), Local: conn.LocalAddr().String(), Hostname: h.hostname, Error: h.err, at: start}
			return h
		}
		if h.requests++; h.hostname == "" {
			h.hostname = a.hostname
		}
		h.longest = max(h.longest, time.Since(start))
	}
	return h
}

func newHoldReport(conns []held) *holdReport {
	r := &holdReport{Held: len(conns), Breaks: []connBreak{}, Hostnames: map[string]int{}, Errors: map[string]int{}}
	for i := range conns {
		h := &conns[i]
		r.Requests += h.requests
		r.LongestAnswerMs = max(r.LongestAnswerMs, milliseconds(h.longest))
		if h.requests > 0 {
			r.Hostnames[h.hostname]++
		}
		switch {
		case !h.opened:
			r.NotOpened++
		case h.broken != nil:
			r.Broken++
			r.Breaks = append(r.Breaks, *h.broken)
		default:
			r.Alive++
		}
		if h.err != "" {
			r.Errors[h.err]++
		}
	}
	slices.SortFunc(r.Breaks, func(a, b connBreak) int { return a.at.Compare(b.at) })
	return r
}

// String is the report for people.
func (r *holdReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d held, %d alive, %d broken, %d not opened; %d requests, longest answer %.0f ms\n",
		r.Held, r.Alive, r.Broken, r.NotOpened, r.Requests, r.LongestAnswerMs)
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, "%6d  %s\n", r.Errors[k], k)
	}
	for _, c := range r.Breaks {
		fmt.Fprintf(&b, "        %s  %s to %s: %s\n", c.At, c.Local, c.Hostname, c.Error)
	}
	return b.String()
}
