// SPDX-License-Identifier: Apache-2.0

// Command fairlead-lab runs a whole Kubernetes cluster in network namespaces of
// one Linux machine. This package owns the command's grammar and exit statuses
// and nothing else; package cluster does the work. Its users are people, the
// Makefile and the end-to-end tests.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses besides those that exec and kubectl pass through.
const (
	exitFailure = 1
	exitUsage   = 2
	// exitUnsupported says that this machine's kernel cannot do what was asked.
	exitUnsupported = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status) //nolint:forbidigo // this is main
}

// statusError carries an exit status. Without a message nothing is printed.
type statusError struct {
	status int
	msg    string
}

func (e *statusError) Error() string { return e.msg }

func usageError(format string, args ...any) error {
	return &statusError{status: exitUsage, msg: fmt.Sprintf(format, args...)}
}

func run(ctx context.Context, args []string) int {
	err := dispatch(ctx, args)
	if err == nil {
		return 0
	}
	status := exitFailure
	if se, ok := errors.AsType[*statusError](err); ok {
		status = se.status
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(os.Stderr, "fairlead-lab:", msg)
	}
	return status
}
