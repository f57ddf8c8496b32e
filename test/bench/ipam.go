// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/ipam"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// allocation measures the allocator alone and Services from apply to status.
func allocation(ctx context.Context, lab *harness.Lab, o *options) error {
	if o.sizes == "" {
		o.sizes = "1000,2000,5000,10000"
	}
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	res := &ipam.Result{
		Benchmark: "ipam", Date: time.Now().UTC().Format(time.RFC3339), Machine: harness.ThisMachine(ctx, lab),
	}
	var faults []error
	if o.part == "all" || o.part == "micro" {
		if res.Micro, err = ipam.RunMicro(ctx, lab.Root(), os.Stdout); err != nil {
			return err
		}
		for _, f := range ipam.MicroFaults(res.Micro) {
			faults = append(faults, errors.New(f))
		}
	}
	if o.part == "all" || o.part == "rollout" {
		dir, err := os.MkdirTemp("", "fairlead-bench-ipam-")
		if err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		rollout, err := ipam.MeasureRollout(ctx, ipam.RolloutConfig{Root: lab.Root(), Dir: dir, Sizes: sizes, Progress: os.Stdout})
		// Steps that were finished count, whatever came then.
		if res.Rollout = rollout; err != nil {
			faults = append(faults, fmt.Errorf("%w; the logs are in %s", err, dir))
		} else if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the control plane's files: %w", err)
		}
		for _, f := range ipam.RolloutFaults(rollout) {
			faults = append(faults, errors.New(f))
		}
	}
	if o.part == "lab" {
		err := harness.Session(ctx, lab, o.reuse, func(ctx context.Context) (err error) {
			res.Lab, err = ipam.MeasureLab(ctx, lab, o.services, os.Stdout)
			return err
		})
		if err != nil {
			return err
		}
	}
	text := res.Markdown()
	fmt.Print("\n", text)
	name := "bench-ipam-"
	if o.part != "all" {
		name += o.part + "-"
	}
	if err := writeBoth(o.out, name+time.Now().UTC().Format(time.DateOnly), res, text); err != nil {
		return err
	}
	return errors.Join(faults...)
}

func parseSizes(text string) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("-sizes: %w", err)
		}
		out = append(out, n)
	}
	return out, nil
}

// writeBoth stores the figures for programs and for people.
func writeBoth(dir, name string, res any, text string) error {
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	for ext, content := range map[string][]byte{".json": append(b, '\n'), ".md": []byte(text)} {
		path := filepath.Join(dir, name+ext)
		if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // a document for everybody
			return fmt.Errorf("write the result: %w", err)
		}
		fmt.Println("written:", path)
	}
	return nil
}
