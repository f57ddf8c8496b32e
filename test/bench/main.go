// SPDX-License-Identifier: Apache-2.0

// Command bench measures Fairlead on a lab cluster or control plane of its own and writes
// the figures as JSON, with the conditions that they were taken under. It owns the choice of benchmarks
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp"
	"github.com/fairlead-lb/fairlead/test/bench/failover"
	"github.com/fairlead-lb/fairlead/test/bench/ipvs"
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
const medianLimit = 700 * time.Millisecond

// result is the file that a run leaves behind.
type result struct {
	Benchmark string             `json:"benchmark"`
	Date      string             `json:"date"`
	Machine   harness.Machine    `json:"machine"`
	Scenario  string             `json:"scenario"`
	Profiles  []*failover.Result `json:"profiles"`
}

// options of one run, from the command line.
type options struct {
	bench    string
	runs     int
	sizes    string
	profiles string
	part     string
	services int
	stateDir string
	reuse    bool
	out      string
	round    time.Duration
	// stage of ipvs, plane and planeHost are what the program tells itself.
	stage, plane, planeHost string
	// metallb is the program of MetalLB's speaker.
	metallb string
}

// benchmarks by name.
func benchmarks() []string {
	return append([]string{"bgp", "failover", "ipam", "ipvs", "l2-all"}, layer2Names()...)
}

func parse() (*options, error) {
	o := &options{}
	flag.StringVar(&o.bench, "bench", "failover", "which benchmark: "+strings.Join(benchmarks(), ", "))
	flag.IntVar(&o.runs, "runs", 30, "bgp, failover, l2-failover, l2-gossip: how many deaths (with many addresses or nodes fewer)")
	flag.StringVar(&o.profiles, "profiles", "default,fast", "failover, l2-*: profiles of the agents, one after another")
	flag.StringVar(&o.sizes, "sizes", "", "ipam: numbers of Services to reach, one after another; l2-*: numbers of addresses or nodes; bgp: numbers of routes; ipvs: numbers of Services that kube-proxy is given too (default: those of the reports)")
	flag.StringVar(&o.part, "part", "all", "ipam: micro (the allocator alone), rollout (a control plane without nodes), all (both) or lab (with nodes and agents); ipvs: programming, traffic or all; bgp: routes, metallb, cuts or all")
	flag.IntVar(&o.services, "services", 0, "ipam -part lab: how many Services (default 200); ipvs: how many, with two virtual servers each (default 5000)")
	flag.DurationVar(&o.round, "round", 5*time.Second, "ipvs: how long clients ask each way in each of 3 rounds")
	flag.StringVar(&o.plane, "plane", "", "ipvs: the file that describes the control plane; the program tells itself so")
	flag.StringVar(&o.planeHost, "plane-host", "", "ipvs: where that plane's loopback is; the program tells itself so")
	flag.StringVar(&o.stage, "stage", "", "ipvs: what of it to do; the program runs itself so")
	flag.StringVar(&o.metallb, "metallb-speaker", "", "bgp: the program of MetalLB's speaker, to be measured in the same run (go install go.universe.tf/metallb/speaker@v0.15.2)")
	flag.StringVar(&o.stateDir, "state-dir", "", "the lab's state directory (default: a fresh one)")
	flag.BoolVar(&o.reuse, "reuse", false, "use the cluster that runs at --state-dir and leave it running")
	flag.StringVar(&o.out, "out", "", "directory of the result file (default: docs/results)")
	flag.Parse()
	if !slices.Contains(benchmarks(), o.bench) {
		return nil, fmt.Errorf("unknown benchmark %q; there are: %s", o.bench, strings.Join(benchmarks(), ", "))
	}
	if o.services == 0 {
		o.services = map[bool]int{true: 5000, false: 200}[o.bench == "ipvs"]
	}
	if parts := []string{"all", "micro", "rollout", "lab", ipvs.PartProgramming, ipvs.PartTraffic, bgp.PartRoutes, bgp.PartMetalLB, bgp.PartCuts}; !slices.Contains(parts, o.part) {
		return nil, fmt.Errorf("unknown part %q; there are: %s", o.part, strings.Join(parts, ", "))
	}
	if o.runs < 1 {
		return nil, errors.New("-runs must be at least 1")
	}
	return o, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	dir := os.TempDir()
	if o.bench == "failover" || o.part == "lab" { // the others need no lab
		if dir, err = harness.TempStateDir(o.stateDir, "bench"); err != nil {
			return err
		}
	}
	lab, err := harness.Open(harness.Options{StateDir: dir, Progress: os.Stdout})
	if err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(lab.Root(), "docs", "results")
	}
	if strings.HasPrefix(o.bench, "l2-") {
		return onRig(ctx, lab, o)
	}
	if o.bench == "bgp" {
		return routing(ctx, lab, o)
	}
	if o.bench == "ipvs" { // on a kernel that has it
		return dataPlane(ctx, lab, o)
	}
	if o.bench == "ipam" { // on a control plane of its own, without nodes
		return allocation(ctx, lab, o)
	}
	return harness.Session(ctx, lab, o.reuse, func(ctx context.Context) error { return powerCuts(ctx, lab, o) })
}

// powerCuts measures on a lab with one profile after another.
func powerCuts(ctx context.Context, lab *harness.Lab, o *options) error {
	var all []*failover.Result
	var errs []error
	for profile := range strings.SplitSeq(o.profiles, ",") {
		res, err := failover.Measure(ctx, lab, failover.Config{Runs: o.runs, Probe: 8 * time.Second, Profile: profile, Progress: os.Stdout})
		if err != nil {
			return fmt.Errorf("profile %s: %w", profile, err)
		}
		fmt.Printf("\n%s, %d power cuts: median %.0f ms, min %.0f ms, max %.0f ms\n", profile, len(res.Runs), res.MedianMs, res.MinMs, res.MaxMs)
		if res.MedianMs >= float64(medianLimit.Milliseconds()) {
			errs = append(errs, fmt.Errorf("profile %s: the median is %.0f ms, promised are less than %d ms", profile, res.MedianMs, medianLimit.Milliseconds()))
		}
		all = append(all, res)
	}
	return errors.Join(append(errs, write(ctx, lab, o.out, all))...)
}

// write stores the figures as bench-failover-DATE.json.
func write(ctx context.Context, lab *harness.Lab, dir string, res []*failover.Result) error {
	now := time.Now().UTC()
	b, err := json.MarshalIndent(result{
		Benchmark: "failover",
		Date:      now.Format(time.RFC3339),
		Machine:   harness.ThisMachine(ctx, lab),
		Scenario: "4 nodes and all of Kubernetes on one machine; one Service, its pods on a node that is not cut; prober on a client, " +
			"one new connection every " + harness.ProbeInterval.String() + "; power cut of the announcing node (all processes killed and link down at once) at a random moment; " +
			"blackout = longest time between two answers; forwarding by kube-proxy",
		Profiles: res,
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
