// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/ipvs"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// dataPlane measures the data plane, or is one of the stages of doing so.
func dataPlane(ctx context.Context, lab *harness.Lab, o *options) error {
	c := ipvs.Config{Root: lab.Root(), Dir: o.stateDir, Part: o.part, Services: o.services, Round: o.round, Plane: o.plane, PlaneHost: o.planeHost, Progress: os.Stdout}
	if o.sizes != "" {
		var err error
		if c.Beside, err = parseSizes(o.sizes); err != nil {
			return err
		}
	}
	if o.stage != "" {
		return ipvs.Stage(ctx, o.stage, c) //nolint:wrapcheck // says what failed
	}
	dir, err := os.MkdirTemp("", "fairlead-bench-ipvs-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	c.Dir = dir
	res, failure := ipvs.Measure(ctx, c, harness.ThisMachine(ctx, lab))
	if res == nil || len(res.Programming)+len(res.Paths) == 0 {
		return failure //nolint:wrapcheck // says what failed
	}
	text := res.Markdown()
	fmt.Println("\n" + text)
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	base := filepath.Join(o.out, "bench-ipvs-"+time.Now().UTC().Format(time.DateOnly))
	for name, content := range map[string][]byte{base + ".json": append(b, '\n'), base + ".md": []byte(text)} {
		if err := os.WriteFile(name, content, 0o644); err != nil { //nolint:gosec // a document for everybody
			return fmt.Errorf("write the result: %w", err)
		}
		fmt.Println("written:", name)
	}
	return failure //nolint:wrapcheck // says what failed
}
