// SPDX-License-Identifier: Apache-2.0

package pulse

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var alive, able atomic.Bool
		var asked, told atomic.Int64
		alive.Store(true)
		able.Store(true)
		var w *Watcher
		w = NewWatcher(byDefault, func(q Target) bool {
			asked.Add(1)
			if alive.Load() {
				go w.Heard(q.Link, q.Addr)
			}
			return able.Load()
		}, func() { told.Add(1) })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		wait := func(d time.Duration) {
			time.Sleep(d) //nolint:forbidigo // a bubble's clock
			synctest.Wait()
		}
		expect := func(want State, changes int64) {
			t.Helper()
			if got := w.State("b"); got != want {
				t.Errorf("state %s, want %s", got, want)
			}
			if got := told.Load(); got != changes {
				t.Errorf("%d changes told, want %d", got, changes)
			}
		}
		wait(time.Minute)
		if n := asked.Load(); n > 0 {
			t.Errorf("%d questions about nobody", n)
		}
		w.Watch([]Target{target("b")}, nil)
		wait(time.Second)
		expect(Alive, 1)
		w.Heard("eth9", target("b").Addr)
		w.Heard("eth0", target("z").Addr)
		able.Store(false)
		alive.Store(false)
		wait(time.Second)
		expect(Alive, 1)
		able.Store(true)
		wait(520 * time.Millisecond)
		expect(Dead, 2)
		alive.Store(true)
		wait(120 * time.Millisecond)
		expect(Alive, 3)
		w.Watch(nil, nil)
		wait(time.Second)
		before := asked.Load()
		wait(time.Hour)
		if asked.Load() != before {
			t.Error("asks on when nobody is watched")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
