// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"testing/synctest"
	"time"
)

// A round of a millisecond is followed by nine of rest, a long one by little more.
func TestPace(t *testing.T) {
	t.Parallel()
	start := time.Unix(0, 0)
	for work, want := range map[time.Duration]time.Duration{
		0: 0, 100 * time.Microsecond: 900 * time.Microsecond, time.Millisecond: 9 * time.Millisecond,
		time.Second: maxRest,
	} {
		var p pace
		end := start.Add(work)
		p.worked(start, end)
		if got := p.rest(end); got != want {
			t.Errorf("rest after %s: %s, want %s", work, got, want)
		}
		if got := p.rest(end.Add(time.Hour)); got != 0 {
			t.Errorf("rest an hour after %s: %s, want none", work, got)
		}
	}
}

// What may wait waits for the end of the rest, what may not does not.
func TestWaitRests(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mark func(a *Agent)
		want time.Duration
	}{
		"objects":       {func(a *Agent) { mark(a.calm) }, 30 * time.Millisecond},
		"death":         {func(a *Agent) { mark(a.calm); mark(a.dirty) }, 0},
		"link":          {func(a *Agent) { mark(a.linksDirty) }, 0},
		"objects, late": {func(a *Agent) { time.AfterFunc(40*time.Millisecond, func() { mark(a.calm) }) }, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := &Agent{dirty: make(chan struct{}, 1), linksDirty: make(chan struct{}, 1), calm: make(chan struct{}, 1), speaker: newSimSpeaker(&simRouter{})}
				begin := time.Now()
				l := &loop{a: a, pace: pace{until: begin.Add(30 * time.Millisecond)}}
				ticker := time.NewTicker(time.Hour)
				defer ticker.Stop()
				tt.mark(a)
				l.wait(t.Context(), ticker)
				if got := time.Since(begin); got != tt.want {
					t.Errorf("the next round came after %s, want %s", got, tt.want)
				}
			})
		})
	}
}
