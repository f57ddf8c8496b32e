// SPDX-License-Identifier: Apache-2.0

package worker_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

// wait lets the bubble's time pass.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
	synctest.Wait()
}

// run starts a queue and returns when it has ended with the test.
func run(t *testing.T, q *worker.Queue[string], workers int, synced []cache.InformerSynced, step worker.Step[string]) {
	t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	var wg sync.WaitGroup
	wg.Go(func() { q.Run(ctx, workers, synced, step) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestStepsAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		// step answers the n-th call, from 1.
		step func(n int64) (time.Duration, error)
		in   time.Duration
		want int64
	}{
		{"done", func(int64) (time.Duration, error) { return 0, nil }, time.Hour, 1},
		{"again each 10 s", func(int64) (time.Duration, error) { return 10 * time.Second, nil }, 35 * time.Second, 4},
		{"fails three times", func(n int64) (time.Duration, error) {
			if n <= 3 {
				return 0, errors.New("injected")
			}
			return 0, nil
		}, time.Hour, 4},
		{"fails for ever, pausing 30 s at most", func(int64) (time.Duration, error) { return 0, errors.New("injected") }, 2 * time.Minute, 13},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := worker.New[string]("test")
				var calls atomic.Int64
				run(t, q, 2, nil, func(context.Context, string) (time.Duration, error) { return tc.step(calls.Add(1)) })
				q.Add("a")
				wait(t, tc.in)
				if got := calls.Load(); got != tc.want {
					t.Errorf("%d steps in %s, want %d", got, tc.in, tc.want)
				}
			})
		})
	}
}

// Nothing is looked at before the caches are there, and an item is never in two steps.
func TestWaitsForCachesAndKeepsItemsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := worker.New[string]("test")
		var synced, busy atomic.Bool
		var calls atomic.Int64
		run(t, q, 4, []cache.InformerSynced{synced.Load}, func(ctx context.Context, _ string) (time.Duration, error) {
			calls.Add(1)
			if !busy.CompareAndSwap(false, true) {
				t.Error("one item is in two steps")
			}
			defer busy.Store(false)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			return 0, nil
		})
		q.Add("a")
		wait(t, time.Minute)
		if calls.Load() != 0 {
			t.Error("a step before the caches were there")
		}
		synced.Store(true)
		wait(t, 500*time.Millisecond)
		q.Add("a") // while it is in its step
		wait(t, 3*time.Second)
		if got := calls.Load(); got != 2 {
			t.Errorf("%d steps, want 2", got)
		}
	})
}
