// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Report is what bin/fairlead-probe prints with -json: one request on a new connection
// per tick, never waiting for the one before.
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
	FirstFailure      time.Time      `json:"firstFailure,omitzero"`
	FirstSuccessAfter time.Time      `json:"firstSuccessAfter,omitzero"`
	Hostnames         Distribution   `json:"hostnames"`
	Errors            map[string]int `json:"errors"`
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

// String is one line for people.
func (r *Report) String() string {
	return fmt.Sprintf("%d requests, %d failed, longest gap between two successes %.0f ms", r.Sent, r.Failed, r.LongestGapMs)
}

// Probe is a running prober.
type Probe struct {
	done   chan struct{}
	report Report
	err    error
}

// ProbeInterval is the distance between two requests of every prober.
const ProbeInterval = 20 * time.Millisecond

// StartProbe starts bin/fairlead-probe on a client against an address for the given
// time. It returns once the prober runs, which it cannot see: it waits half a second.
func (l *Lab) StartProbe(ctx context.Context, client, url string, length time.Duration) (*Probe, error) {
	p := &Probe{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		res, err := l.Exec(ctx, client, l.probe, "-target", url, "-interval", ProbeInterval.String(),
			"-timeout", "500ms", "-for", length.String(), "-json")
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
func (p *Probe) Wait(ctx context.Context) (*Report, error) {
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
