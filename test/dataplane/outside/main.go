// SPDX-License-Identifier: Apache-2.0

// Command outside is the part of the data plane's tests that needs no special kernel: a
// control plane and Fairlead's controller, on loopback, at native speed. It owns them until
// its standard input ends. fairlead-vm starts it beside the tests, which find it by the
// file that it writes; see package vm.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/fairlead-lb/fairlead/test/dataplane"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "outside:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// run takes the repository's root and the file to write.
func run(ctx context.Context, args []string) (err error) {
	if len(args) != 2 {
		return fmt.Errorf("want the repository's root and a file to write, got %q", args)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with whoever started this
		cancel()
	}()
	root, file := args[0], args[1]
	dir, err := os.MkdirTemp(filepath.Dir(file), "plane-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	p, err := plane.Start(ctx, plane.Options{
		Root: root, Dir: dir, Alone: true, Progress: os.Stdout,
		ControllerProgram: filepath.Join(root, "bin", harness.ControllerProgram),
	})
	defer func() {
		if serr := p.Stop(); err == nil {
			err = serr
		}
	}()
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if _, err := p.StartController(ctx, plane.ControllerOptions{Name: "controller", Args: []string{"--v=2"}}); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	programs, err := dataplane.Programs(ctx, os.Stdout)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if err := p.Describe(file, programs); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	<-ctx.Done()
	return nil
}
