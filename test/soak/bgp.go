// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/bgp"
)

// routing disturbs nodes, agents and routers that speak BGP, on a rig of its own.
func routing(ctx context.Context, lab *harness.Lab, o *options) (string, error) {
	dir, err := os.MkdirTemp("", "fairlead-soak-bgp-")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	c := bgp.Config{Root: lab.Root(), Dir: dir, Runs: o.runs, Rate: o.rate, MetalLB: o.metallb, Progress: os.Stdout}
	if o.parts != "" {
		c.Parts = strings.Split(o.parts, ",")
	}
	rep, err := bgp.Run(ctx, c)
	text := rep.Markdown(&c)
	fmt.Print("\n", text, "\n")
	for _, f := range rep.Faults() {
		err = errors.Join(err, errors.New(f))
	}
	if err != nil {
		fmt.Println("the logs are in", dir)
		return text, err
	}
	return text, os.RemoveAll(dir)
}
