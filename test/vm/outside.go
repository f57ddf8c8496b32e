// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Environment of tests that have a part outside: the file that it has written, and the
// address that stands for its loopback.
const (
	envOutside     = "FAIRLEAD_OUTSIDE"
	envOutsideHost = "FAIRLEAD_OUTSIDE_HOST"
	// outsideTimeout bounds the start of such a part, on a busy machine.
	outsideTimeout = 4 * time.Minute
	// stopTimeout bounds its end.
	stopTimeout = 20 * time.Second
)

// startOutside starts, for each package that has a command "outside" below it, that
// command: the part of its tests that needs no special kernel and is better off at native
// speed. It is given the module's root and a file to write when it is ready, and ends with
// its standard input. stop ends all, also when this fails.
func (s *Suite) startOutside(ctx context.Context, dir string, jobs []Job, host string) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for i := range jobs {
		j := &jobs[i]
		if _, err := os.Stat(filepath.Join(j.Dir, "outside", "main.go")); err != nil {
			continue // most have none
		}
		root, err := s.root(ctx)
		if err != nil {
			return stop, err
		}
		program, file := filepath.Join(dir, fmt.Sprintf("%02d-outside", i)), filepath.Join(dir, fmt.Sprintf("%02d-outside.json", i))
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, j.Package+"/outside") //nolint:gosec // of this repository
		build.Dir, build.Env = s.dir, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return stop, fmt.Errorf("compile what runs outside of %s: %w\n%s", j.Package, err, out)
		}
		// It ends in order, by its input, also when this is interrupted.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), program, root, file) //nolint:gosec // of this repository
		cmd.Stdout, cmd.Stderr = s.Output, s.Output
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		in, err := cmd.StdinPipe()
		if err != nil {
			return stop, fmt.Errorf("start what runs outside of %s: %w", j.Package, err)
		}
		if err := cmd.Start(); err != nil {
			return stop, fmt.Errorf("start what runs outside of %s: %w", j.Package, err)
		}
		ended, gone := make(chan error, 1), make(chan struct{})
		go func() {
			ended <- cmd.Wait()
			close(gone)
		}()
		stops = append(stops, func() {
			_ = in.Close() // tells it to end
			select {
			case <-gone:
			case <-time.After(stopTimeout):
				_ = cmd.Process.Kill() // what it started dies with it
			}
		})
		began := time.Now()
		if err := waitForFile(ctx, file, ended); err != nil {
			return stop, fmt.Errorf("start what runs outside of %s: %w", j.Package, err)
		}
		s.say("what %s needs outside runs, after %.0f s", j.Package, time.Since(began).Seconds())
		j.Env = append(j.Env, envOutside+"="+file, envOutsideHost+"="+host)
	}
	return stop, nil
}

// root of the module.
func (s *Suite) root(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	cmd.Dir = s.dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return string(out[:max(0, len(out)-1)]), nil
}

func waitForFile(ctx context.Context, path string, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("it has ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
