// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/l2"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// report is a result of layer 2.
type report interface{ Markdown() string }

// measurement is a benchmark on a rig.
type measurement func(context.Context, l2.Config, l2.Head) (report, error)

// as makes a measurement of a function that returns its own kind of result.
func as[R report](measure func(context.Context, l2.Config, l2.Head) (R, error)) measurement {
	return func(ctx context.Context, c l2.Config, h l2.Head) (report, error) { return measure(ctx, c, h) }
}

// layer2 returns the benchmarks on a rig by name.
func layer2() map[string]measurement {
	return map[string]measurement{
		"l2-failover": as(l2.MeasureFailover), "l2-rollout": as(l2.MeasureRollout), "l2-arp": as(l2.MeasureARP), "l2-gossip": as(l2.MeasureGossip),
	}
}

// layer2Names in the order in which l2-all runs them.
func layer2Names() []string { return []string{"l2-failover", "l2-rollout", "l2-arp", "l2-gossip"} }

// onRig runs one benchmark of layer 2, or all of them.
func onRig(ctx context.Context, lab *harness.Lab, o *options) error {
	names := []string{o.bench}
	if o.bench == "l2-all" {
		names = layer2Names()
	}
	var errs []error
	for _, name := range names {
		if err := oneOnRig(ctx, lab, o, name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func oneOnRig(ctx context.Context, lab *harness.Lab, o *options, name string) error {
	var sizes []int
	if o.sizes != "" {
		var err error
		if sizes, err = parseSizes(o.sizes); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "fairlead-bench-"+name+"-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	res, err := layer2()[name](ctx, l2.Config{
		Root: lab.Root(), Dir: dir, Runs: o.runs, Profiles: strings.Split(o.profiles, ","), Sizes: sizes, Progress: os.Stdout,
	}, l2.NewHead(name, harness.ThisMachine(ctx, lab)))
	// What was measured before a fault counts.
	text := res.Markdown()
	fmt.Print("\n", text, "\n")
	if err != nil {
		return fmt.Errorf("%w; the logs are in %s", err, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the rig's files: %w", err)
	}
	return writeBoth(o.out, "bench-"+name+"-"+time.Now().UTC().Format(time.DateOnly), res, text)
}
