// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Report is what bin/fairlead-probe prints with -json: requests at a fixed pace, each on a
// new connection, none waiting for the one before.
type Report struct {
	Sent   int `json:"sent"`
	OK     int `json:"ok"`
	Failed int `json:"failed"`
	// LongestGapMs is the longest stretch between two successful answers, less one
	// interval; GapStart and GapEnd are its ends.
	LongestGapMs float64   `json:"longestGapMs"`
	GapStart     time.Time `json:"gapStart,omitzero"`
	GapEnd       time.Time `json:"gapEnd,omitzero"`
	// FirstFailure is when the first failing request began, FirstSuccessAfter when a
	// later one succeeded, zero if none did.
	FirstFailure      time.Time `json:"firstFailure,omitzero"`
	FirstSuccessAfter time.Time `json:"firstSuccessAfter,omitzero"`
	// LastFailure is when the last failing request began.
	LastFailure time.Time `json:"lastFailure,omitzero"`
	// LatencyP50Ms and LatencyP99Ms are over the successful requests.
	LatencyP50Ms float64 `json:"latencyP50Ms"`
	LatencyP99Ms float64 `json:"latencyP99Ms"`
	// LatestStartMs is the longest that a request started after its time, because the
	// prober got no CPU: a gap of that length may be the prober's own.
	LatestStartMs float64        `json:"latestStartMs"`
	Hostnames     Distribution   `json:"hostnames"`
	Errors        map[string]int `json:"errors"`
}

// Blackout is how long the address was silent because of what happened at the instant
// cut, in milliseconds: the longest stretch without a success, if it ended after the cut.
// It is an error if no request failed, or none succeeded again.
func (r *Report) Blackout(cut time.Time) (float64, error) {
	switch {
	case r.Failed == 0:
		return 0, fmt.Errorf("no request failed, so the cut was not seen: %s", r)
	case r.FirstSuccessAfter.IsZero() || !r.FirstSuccessAfter.After(cut):
		return 0, fmt.Errorf("no request succeeded after the cut: %s", r)
	case !r.GapEnd.After(cut):
		return 0, fmt.Errorf("the longest gap ended before the cut: %s", r)
	}
	return r.LongestGapMs, nil
}

// Share is how long some of the requests failed because of what happened at the instant
// cut, in milliseconds, where others were answered all the time: those that a router sends
// to one of several nodes. It is 0 if none failed since.
func (r *Report) Share(cut time.Time) float64 {
	return max(0, float64(r.LastFailure.Sub(cut))/float64(time.Millisecond))
}

// String is one line for people.
func (r *Report) String() string {
	return fmt.Sprintf("%d requests, %d failed, longest gap between two successes %.0f ms", r.Sent, r.Failed, r.LongestGapMs)
}

// HoldReport is what bin/fairlead-probe prints with -hold and -json: what became of
// connections that were held open with a request on each every 100 ms.
type HoldReport struct {
	// Held connections are alive at the end, broken, or were never opened.
	Held      int `json:"held"`
	Alive     int `json:"alive"`
	Broken    int `json:"broken"`
	NotOpened int `json:"notOpened"`
	// Requests that were answered, on all connections; LongestAnswerMs is the longest
	// that one took.
	Requests        int     `json:"requests"`
	LongestAnswerMs float64 `json:"longestAnswerMs"`
	// Breaks are in the order of time.
	Breaks    []Break        `json:"breaks"`
	Hostnames Distribution   `json:"hostnames"`
	Errors    map[string]int `json:"errors"`
}

// Break is the end of a held connection.
type Break struct {
	// At is when the request began that failed.
	At       time.Time `json:"at"`
	Local    string    `json:"local"`
	Hostname string    `json:"hostname"`
	Error    string    `json:"error"`
}

// String is one line for people.
func (r *HoldReport) String() string {
	return fmt.Sprintf("%d connections held, %d alive, %d broken, %d not opened, longest answer %.0f ms",
		r.Held, r.Alive, r.Broken, r.NotOpened, r.LongestAnswerMs)
}

// Running is a prober at work; R is its report.
type Running[R any] struct {
	done   chan struct{}
	report R
	err    error
}

// Probe is a running prober of new connections.
type Probe = Running[Report]

// Hold is a running prober of connections that stay open.
type Hold = Running[HoldReport]

// ProbeInterval is the distance between two requests of [Lab.StartProbe].
const ProbeInterval = 10 * time.Millisecond

// StartProbe starts bin/fairlead-probe on a client against a URL for the given time. It
// returns once the prober runs, which it cannot see: it waits half a second.
func (l *Lab) StartProbe(ctx context.Context, client, url string, length time.Duration) (*Probe, error) {
	return start[Report](ctx, l, client, "-target", url, "-interval", ProbeInterval.String(), "-for", length.String())
}

// StartStream is [Lab.StartProbe] with so many new connections a second.
func (l *Lab) StartStream(ctx context.Context, client, url string, rate int, length time.Duration) (*Probe, error) {
	return start[Report](ctx, l, client, "-target", url, "-rate", strconv.Itoa(rate), "-for", length.String())
}

// StartHold starts a prober that holds so many connections open for the given time.
func (l *Lab) StartHold(ctx context.Context, client, url string, connections int, length time.Duration) (*Hold, error) {
	return start[HoldReport](ctx, l, client, "-target", url, "-hold", strconv.Itoa(connections), "-for", length.String())
}

// start runs a prober in the background and gives it time to begin.
func start[R any](ctx context.Context, l *Lab, client string, args ...string) (*Running[R], error) {
	p := &Running[R]{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		res, err := l.Exec(ctx, client, append([]string{l.probe, "-json"}, args...)...)
		if err != nil && !strings.HasPrefix(strings.TrimSpace(res.Stdout), "{") {
			p.err = err
			return
		}
		if err := json.Unmarshal([]byte(res.Stdout), &p.report); err != nil {
			p.err = fmt.Errorf("read the prober's report: %w", err)
		}
	}()
	return p, Pause(ctx, 500*time.Millisecond)
}

// Wait returns the prober's report when its time is over.
func (p *Running[R]) Wait(ctx context.Context) (*R, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		if p.err != nil {
			return nil, p.err
		}
		return &p.report, nil
	}
}
