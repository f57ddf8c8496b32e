// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"time"
)

// pollInterval is how often a condition is looked at while waiting.
const pollInterval = 100 * time.Millisecond

// Eventually calls check until it returns nil, and returns how long that took. After
// timeout it returns check's last error. One call of check is never interrupted by the
// timeout, so that the error names the cause and not the clock.
func Eventually(ctx context.Context, timeout time.Duration, check func(context.Context) error) (time.Duration, error) {
	start := time.Now()
	for {
		err := check(ctx)
		elapsed := time.Since(start)
		if err == nil {
			return elapsed, nil
		}
		if elapsed >= timeout {
			return elapsed, fmt.Errorf("still not after %s: %w", elapsed.Round(10*time.Millisecond), err)
		}
		if werr := Pause(ctx, pollInterval); werr != nil {
			return elapsed, fmt.Errorf("%w (last seen: %w)", werr, err)
		}
	}
}

// Always calls check until d has passed and returns its first error.
func Always(ctx context.Context, d time.Duration, check func(context.Context) error) error {
	start := time.Now()
	for {
		if err := check(ctx); err != nil {
			return fmt.Errorf("after %s: %w", time.Since(start).Round(10*time.Millisecond), err)
		}
		if time.Since(start) >= d {
			return nil
		}
		if err := Pause(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// Pause waits for d or for the end of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
