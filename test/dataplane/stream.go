// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// askers of a stream: so many questions may hang without the others being late.
	askers = 8
	// patience with one question: two of TCP's first packets may be lost, sent again after
	// one and three seconds.
	patience = 6 * time.Second
)

// Failure of one question of a stream.
type Failure struct {
	At  time.Time
	Err error
}

// Stream asks without end, each time on a new connection.
type Stream struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	asked    int            // guarded by mu
	pods     map[string]int // guarded by mu
	slowest  time.Duration  // guarded by mu
	failures []Failure      // guarded by mu
	err      error          // guarded by mu
}

// NewStream asks by TCP every interval until [Stream.Stop].
func NewStream(ctx context.Context, from Place, to netip.AddrPort, interval time.Duration) *Stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &Stream{cancel: cancel, pods: map[string]int{}}
	for i := range askers {
		s.wg.Go(func() {
			err := from.Do(func() error {
				// Askers take turns.
				if harness.Pause(ctx, interval*time.Duration(i)) == nil {
					s.work(ctx, to, interval*askers)
				}
				return nil
			})
			s.mu.Lock()
			defer s.mu.Unlock()
			s.err = errors.Join(s.err, err)
		})
	}
	return s
}

// here is a place where the calling thread is already.
type here struct{}

// Do calls f.
func (here) Do(f func() error) error { return f() }

// work is called on a thread in the network from which it asks.
func (s *Stream) work(ctx context.Context, to netip.AddrPort, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		began := time.Now()
		// A question once asked is not given up because the stream is to end.
		a, err := askWithin(context.WithoutCancel(ctx), here{}, TCP, to, patience)
		took := time.Since(began)
		s.mu.Lock()
		s.asked++
		s.slowest = max(s.slowest, took)
		if err != nil {
			s.failures = append(s.failures, Failure{At: began, Err: err})
		} else {
			s.pods[a.Pod]++
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Result of a stream.
type Result struct {
	Asked    int
	Pods     map[string]int
	Slowest  time.Duration
	Failures []Failure
}

// String is one line.
func (r *Result) String() string {
	out := fmt.Sprintf("%d questions, %d failed, the slowest took %s, answers by %v", r.Asked, len(r.Failures), r.Slowest.Round(time.Millisecond), r.Pods)
	if len(r.Failures) > 0 {
		out += fmt.Sprintf(", the first failure: %v, over %s", r.Failures[0].Err, r.Span().Round(time.Millisecond))
	}
	return out
}

// Span is the time from the first failure to the last.
func (r *Result) Span() time.Duration {
	if len(r.Failures) == 0 {
		return 0
	}
	return r.Failures[len(r.Failures)-1].At.Sub(r.Failures[0].At)
}

// Stop ends the stream; what was asked is answered first.
func (s *Stream) Stop() (*Result, error) {
	s.cancel()
	s.wg.Wait()
	slices.SortFunc(s.failures, func(a, b Failure) int { return a.At.Compare(b.At) })
	return &Result{Asked: s.asked, Pods: s.pods, Slowest: s.slowest, Failures: s.failures}, s.err
}
