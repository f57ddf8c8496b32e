// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp"
	"github.com/fairlead-lb/fairlead/test/bench/l2"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// routing measures BGP on rigs of agents with real routers.
func routing(ctx context.Context, lab *harness.Lab, o *options) error {
	dir, err := os.MkdirTemp("", "fairlead-bench-bgp-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	c := bgp.Config{Root: lab.Root(), Dir: dir, Part: o.part, Runs: o.runs, MetalLB: o.metallb, Progress: os.Stdout}
	if o.sizes != "" {
		if c.Sizes, err = parseSizes(o.sizes); err != nil {
			return err
		}
	}
	res, err := bgp.Measure(ctx, c, l2.NewHead("bgp", harness.ThisMachine(ctx, lab)))
	text := res.Markdown()
	fmt.Print("\n", text, "\n")
	if err == nil {
		err = os.RemoveAll(dir)
	} else {
		fmt.Println("the logs are in", dir)
	}
	if len(res.Routes)+len(res.MetalLB)+len(res.Cuts) == 0 {
		return err
	}
	// What was measured counts, whatever failed beside it: the file says so.
	name := "bench-bgp-"
	if o.part != "all" {
		name += o.part + "-"
	}
	return errors.Join(err, writeBoth(o.out, name+time.Now().UTC().Format(time.DateOnly), res, text))
}
