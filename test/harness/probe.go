// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Gap is one stretch between two successful requests that is longer than three intervals.
type Gap struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Milliseconds is the gap's length.
func (g Gap) Milliseconds() float64 { return float64(g.To.Sub(g.From)) / float64(time.Millisecond) }

// Report is what bin/fairlead-probe prints with -json: one request on a new connection
// per tick, never waiting for the one before.
type Report struct {
	Sent         int            `json:"sent"`
	OK           int            `json:"ok"`
	Failed       int            `json:"failed"`
	LongestGapMs float64        `json:"longestGapMs"`
	StartedAt    time.Time      `json:"startedAt,omitzero"`
	EndedAt      time.Time      `json:"endedAt,omitzero"`
	FirstFailure time.Time      `json:"firstFailure,omitzero"`
	LastFailure  time.Time      `json:"lastFailure,omitzero"`
	LastSuccess  time.Time      `json:"lastSuccess,omitzero"`
	Gaps         []Gap          `json:"gaps"`
	PerHostname  map[string]int `json:"perHostname"`
}

// Blackout is the longest time around or after the instant cut in which no request
// succeeded, in milliseconds: what a client sees until the address answers again.
func (r *Report) Blackout(cut time.Time) float64 {
	longest := 0.0
	for _, g := range r.Gaps {
		if g.To.After(cut) {
			longest = max(longest, g.Milliseconds())
		}
	}
	return longest
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
