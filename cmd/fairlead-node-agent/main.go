// SPDX-License-Identifier: Apache-2.0

// Command fairlead-node-agent announces the addresses of Services of type LoadBalancer
// from one node. It runs as a DaemonSet on the host network; see package nodeagent.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/nodeagent"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	o := nodeagent.Defaults(os.Getenv)
	logs := logsapi.NewLoggingConfiguration()
	fs := pflag.NewFlagSet("fairlead-node-agent", pflag.ContinueOnError)
	fs.SortFlags = false
	o.AddFlags(fs)
	logsapi.AddFlags(logs, fs)
	showVersion := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		return fail(err)
	}
	if *showVersion {
		fmt.Println(version.Get().GitVersion)
		return 0
	}
	if fs.NArg() > 0 {
		return fail(fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if err := logsapi.ValidateAndApply(logs, nil); err != nil {
		return fail(err)
	}
	defer klog.Flush()
	if err := o.Validate(); err != nil {
		return fail(err)
	}
	// One signal stops the agent in its own time, more of them change nothing: what an agent
	// does at its end is over within seconds and should not be cut short.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	agent, err := nodeagent.New(o, version.Get().GitVersion, prometheus.NewRegistry())
	if err != nil {
		return fail(err)
	}
	if err := agent.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	if err == pflag.ErrHelp { //nolint:errorlint // pflag returns it bare
		return 0
	}
	fmt.Fprintln(os.Stderr, "fairlead-node-agent:", err)
	return 1
}
