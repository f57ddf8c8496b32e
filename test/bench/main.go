// SPDX-License-Identifier: Apache-2.0

// Command bench measures Fairlead on a lab cluster of its own and writes the figures as
// JSON, with the conditions that they were taken under. It owns the choice of benchmarks
// and the result file; the measurements are in packages below it. `make bench` calls it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/failover"
	"github.com/fairlead-lb/fairlead/test/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// medianLimit is what the project promises for a power cut.
const medianLimit = 2 * time.Second

// result is the file that a run leaves behind.
type result struct {
	Benchmark string           `json:"benchmark"`
	Date      string           `json:"date"`
	Machine   harness.Machine  `json:"machine"`
	Scenario  string           `json:"scenario"`
	Failover  *failover.Result `json:"failover"`
}

func run(ctx context.Context) error {
	name := flag.String("bench", "failover", "which benchmark: failover")
	runs := flag.Int("runs", 20, "how many power cuts")
	stateDir := flag.String("state-dir", "", "the lab's state directory (default: a fresh one)")
	reuse := flag.Bool("reuse", false, "use the cluster that runs at --state-dir and leave it running")
	out := flag.String("out", "", "directory of the result file (default: docs/results)")
	flag.Parse()
	if *name != "failover" {
		return fmt.Errorf("unknown benchmark %q; there is: failover", *name)
	}
	if *runs < 1 {
		return errors.New("-runs must be at least 1")
	}
	dir, err := harness.TempStateDir(*stateDir, "bench")
	if err != nil {
		return err
	}
	lab, err := harness.Open(harness.Options{StateDir: dir, Progress: os.Stdout})
	if err != nil {
		return err
	}
	if *out == "" {
		*out = filepath.Join(lab.Root(), "docs", "results")
	}
	return harness.Session(ctx, lab, *reuse, func(ctx context.Context) error {
		res, err := failover.Measure(ctx, lab, failover.Config{Runs: *runs, Probe: 8 * time.Second, Progress: os.Stdout})
		if err != nil {
			return err
		}
		fmt.Printf("\n%d power cuts: median %.0f ms, min %.0f ms, max %.0f ms\n", len(res.Runs), res.MedianMs, res.MinMs, res.MaxMs)
		if err := write(ctx, lab, *out, res); err != nil {
			return err
		}
		if res.MedianMs >= float64(medianLimit.Milliseconds()) {
			return fmt.Errorf("the median is %.0f ms, promised are less than %d ms", res.MedianMs, medianLimit.Milliseconds())
		}
		return nil
	})
}

// write stores the figures as bench-failover-DATE.json.
func write(ctx context.Context, lab *harness.Lab, dir string, res *failover.Result) error {
	now := time.Now().UTC()
	b, err := json.MarshalIndent(result{
		Benchmark: "failover",
		Date:      now.Format(time.RFC3339),
		Machine:   harness.ThisMachine(ctx, lab),
		Scenario: "4 nodes and all of Kubernetes on one machine; one Service, its pods on a node that is not cut; prober on a client, " +
			"one new connection every 20 ms; power cut of the announcing node (all processes killed and link down at once) at a random moment; " +
			"blackout = longest time between two answers; forwarding by kube-proxy",
		Failover: res,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	path := filepath.Join(dir, "bench-failover-"+now.Format(time.DateOnly)+".json")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil { //nolint:gosec // a document for everybody
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Println("written:", path)
	return nil
}
