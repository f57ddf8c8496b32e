// SPDX-License-Identifier: Apache-2.0

// Command kubectl-fairlead is a kubectl plugin: `kubectl fairlead` says why a Service has
// its addresses or why it has none, and carries addresses between clusters and over from
// MetalLB. It must not need more than the rights of whoever runs it; see package command.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/component-base/version"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/command"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	env := command.Env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Now: time.Now, Version: version.Get().GitVersion}
	return command.Run(ctx, env, os.Args[1:])
}
