// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/bench/l2"
)

// Parts of the benchmark.
const (
	PartRoutes  = "routes"
	PartCuts    = "cuts"
	PartMetalLB = "metallb"
)

// Config of a measurement.
type Config struct {
	// Root of the repository; Dir gets logs and must be empty.
	Root, Dir string
	// Part is one of them, or "all".
	Part string
	// Runs is how many power cuts there are with BFD; without it a third.
	Runs int
	// Sizes are numbers of routes, ascending.
	Sizes []int
	// MetalLB is the program of MetalLB's speaker, "" for none.
	MetalLB  string
	Progress io.Writer
}

func (c *Config) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Progress, time.Now().UTC().Format("15:04:05 ")+format+"\n", args...)
}

func (c *Config) wants(part string) bool { return c.Part == "all" || c.Part == part }

// Result of a run.
type Result struct {
	l2.Head

	Routes  []Routes `json:"routes"`
	Cuts    []Cuts   `json:"cuts"`
	MetalLB []Routes `json:"metallb"`
	// MetalLBVersion is what the speaker says it is.
	MetalLBVersion string `json:"metallbVersion,omitempty"`
	// Faults are what could not be measured, by part.
	Faults []string `json:"faults,omitempty"`
}

// Cuts are power cuts that were noticed in one way.
type Cuts struct {
	How      string      `json:"how"`
	Cuts     []field.Cut `json:"cuts"`
	Blackout field.Stat  `json:"blackoutMs"`
	Noticed  field.Stat  `json:"noticedMs"`
}

// Measure runs the parts that are wanted. What was measured before a fault is in the result.
func Measure(ctx context.Context, c Config, h l2.Head) (*Result, error) {
	res := &Result{Head: h}
	if len(c.Sizes) == 0 {
		c.Sizes = []int{100, 1000, 10000}
	}
	var errs []error
	if c.wants(PartRoutes) {
		errs = append(errs, c.on(ctx, "routes", 1, func(f *field.Field) (err error) {
			res.Routes, err = measureRoutes(ctx, &c, f, agent{f})
			return err
		}))
	}
	if c.wants(PartMetalLB) && c.MetalLB != "" {
		errs = append(errs, c.on(ctx, "metallb", 1, func(f *field.Field) (err error) {
			res.MetalLB, res.MetalLBVersion, err = measureMetalLB(ctx, &c, f)
			return err
		}))
	}
	if c.wants(PartCuts) {
		errs = append(errs, c.on(ctx, "cuts", 3, func(f *field.Field) (err error) {
			res.Cuts, err = measureCuts(ctx, &c, f)
			return err
		}))
	}
	for _, err := range errs {
		if err != nil {
			res.Faults = append(res.Faults, err.Error())
		}
	}
	return res, errors.Join(errs...)
}

// on starts a field of so many nodes for one part.
func (c *Config) on(ctx context.Context, part string, nodes int, measure func(f *field.Field) error) error {
	dir := filepath.Join(c.Dir, part)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	f, err := field.Start(ctx, field.Options{Root: c.Root, Dir: dir, Nodes: nodes, Progress: c.Progress})
	if err == nil {
		err = measure(f)
	}
	if err = errors.Join(err, f.Stop()); err != nil {
		return fmt.Errorf("part %s: %w", part, err)
	}
	return nil
}

// shortHold is the hold time of power cuts without BFD: the default of 90 s would take
// longer than everything else.
const shortHold = 9 * time.Second

func measureCuts(ctx context.Context, c *Config, f *field.Field) ([]Cuts, error) {
	var out []Cuts
	for _, how := range []struct {
		name  string
		watch field.BFD
		hold  time.Duration
		runs  int
	}{
		{"BFD 50 ms × 3", field.FastBFD, field.Hold, c.Runs},
		{"BFD 300 ms × 3 (default profile)", field.DefaultBFD, field.Hold, c.Runs},
		{"no BFD, hold time 9 s", field.NoBFD, shortHold, max(3, c.Runs/5)},
	} {
		if err := f.Watch(ctx, how.watch, how.hold, false); err != nil {
			return out, fmt.Errorf("%s: %w", how.name, err)
		}
		row := Cuts{How: how.name}
		var black, noticed []float64
		for i := range how.runs {
			nodes := f.Nodes()
			cut, err := f.PowerCutAgain(ctx, nodes[i%len(nodes)], how.hold+10*time.Second)
			if err != nil {
				return append(out, row), fmt.Errorf("%s, cut %d: %w", how.name, i+1, err)
			}
			c.say("%s: %s, blackout %.0f ms of %d flows, noticed after %.0f ms, %d other flows disturbed", how.name, cut.Node, cut.BlackoutMs, cut.Flows, cut.NoticedMs, cut.Others)
			row.Cuts = append(row.Cuts, cut)
			black, noticed = append(black, cut.BlackoutMs), append(noticed, cut.NoticedMs)
			row.Blackout, row.Noticed = field.NewStat(black), field.NewStat(noticed)
		}
		out = append(out, row)
	}
	return out, nil
}

// Blackouts of all cuts, ascending, in milliseconds.
func (c *Cuts) Blackouts() []float64 {
	var out []float64
	for i := range c.Cuts {
		out = append(out, c.Cuts[i].BlackoutMs)
	}
	slices.Sort(out)
	return out
}
