// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// errFailed says that the tests ran and some failed.
var errFailed = errors.New("tests failed")

// withLab runs tests on a cluster and returns what went wrong outside of them, or
// errFailed. set gets the lab before the tests start.
func withLab(set func(*harness.Lab), tests func() int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	given := os.Getenv("FAIRLEAD_LAB_STATE_DIR")
	dir, err := harness.TempStateDir(given, "e2e")
	if err != nil {
		return err
	}
	lab, err := harness.Open(harness.Options{StateDir: dir, Progress: os.Stdout})
	if err != nil {
		return err
	}
	set(lab)
	err = harness.Session(ctx, lab, given != "", func(context.Context) error {
		if tests() != 0 {
			return errFailed
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("e2e: %w", err)
	}
	return nil
}
