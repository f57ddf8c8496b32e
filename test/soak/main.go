// SPDX-License-Identifier: Apache-2.0

// Command soak repeats what the e2e tests show once, with full counts, on a lab cluster
// or control plane of its own, and writes a result file with date, kernel and machine. It owns the choice
// of soaks, their limits and the file; load and measurement are in packages of their own.
// `make soak` calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/failover"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/bgp"
	"github.com/fairlead-lb/fairlead/test/soak/churn"
	"github.com/fairlead-lb/fairlead/test/soak/l2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// options of one run, from the command line.
type options struct {
	soak     string
	runs     int
	services int
	seed     uint64
	kinds    string
	parts    string
	apiPause time.Duration
	rate     int
	metallb  string
	stateDir string
	reuse    bool
	out      string
}

// defaults of -runs and -services by soak.
func defaults() map[string][2]int {
	return map[string][2]int{"bgp": {20, 0}, "controller": {50, 200}, "failover": {20, 0}, "ipam": {1000, 500}, "ipvs": {1, 0}, "l2": {30, 0}}
}

func parse() (options, error) {
	var o options
	flag.StringVar(&o.soak, "soak", "controller", "which soak: bgp, controller, failover, ipam, ipvs or l2")
	flag.IntVar(&o.runs, "runs", 0, "how many kills (default: 50 for controller, 20 for failover); ipam: how many Services (1000); l2: how many power cuts, and pulled cables (30); bgp: power cuts with each BFD profile (20)")
	flag.IntVar(&o.services, "services", 0, "how many Services at one time (default: 200 for controller, 500 for ipam)")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "controller, ipam: seed of the load") //nolint:gosec // a time after 1970
	flag.StringVar(&o.kinds, "kinds", "", "ipam: only these kinds of Services, separated by commas")
	flag.StringVar(&o.parts, "parts", "", "only these parts, separated by commas, of l2: "+strings.Join(l2.Parts(), ", ")+"; of bgp: "+strings.Join(bgp.Parts(), ", "))
	flag.DurationVar(&o.apiPause, "api-pause", 10*time.Minute, "l2: how long the API server is away")
	flag.IntVar(&o.rate, "rate", 1000, "bgp, l2: new connections a second that nothing may disturb; of l2 half by IPv4 and half by IPv6")
	flag.StringVar(&o.metallb, "metallb-speaker", "", "bgp: the program of MetalLB's speaker, of which Fairlead takes over (go install go.universe.tf/metallb/speaker@v0.15.2)")
	flag.StringVar(&o.stateDir, "state-dir", "", "the lab's state directory (default: a fresh one)")
	flag.BoolVar(&o.reuse, "reuse", false, "use the cluster that runs at --state-dir and leave it running")
	flag.StringVar(&o.out, "out", "", "directory of the result file (default: docs/results)")
	flag.Parse()
	d, known := defaults()[o.soak]
	if !known {
		return o, fmt.Errorf("unknown soak %q; there are: bgp, controller, failover, ipam, ipvs, l2", o.soak)
	}
	if o.runs == 0 {
		o.runs = d[0]
	}
	if o.services == 0 {
		o.services = d[1]
	}
	if o.runs < 1 {
		return o, errors.New("-runs must be at least 1")
	}
	return o, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	if o.soak == "ipam" || o.soak == "ipvs" || o.soak == "bgp" { // has no lab, but is somewhere in the repository and on a machine
		o.stateDir = os.TempDir()
	} else if o.stateDir, err = harness.TempStateDir(o.stateDir, "soak"); err != nil {
		return err
	}
	lab, err := harness.Open(harness.Options{StateDir: o.stateDir, Progress: os.Stdout})
	if err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(lab.Root(), "docs", "results")
	}
	var body string
	var soakErr error
	switch o.soak {
	case "ipam": // on a control plane of its own, without nodes
		body, soakErr = allocation(ctx, lab, &o)
	case "bgp": // on a rig of its own
		body, soakErr = routing(ctx, lab, &o)
	case "ipvs":
		body, soakErr = dataPlane(ctx, lab)
	default:
		return onLab(ctx, lab, o)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(soakErr, write(ctx, lab, o, body, soakErr))
}

// onLab runs those soaks that need a cluster.
func onLab(ctx context.Context, lab *harness.Lab, o options) error {
	return harness.Session(ctx, lab, o.reuse, func(ctx context.Context) error {
		var body string
		var soakErr error
		switch o.soak {
		case "controller":
			body, soakErr = controller(ctx, lab, o)
		case "l2":
			body, soakErr = layer2(ctx, lab, o)
		default:
			body, soakErr = failovers(ctx, lab, o)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errors.Join(soakErr, write(ctx, lab, o, body, soakErr))
	})
}

// controller kills the leading controller while Services come and go.
func controller(ctx context.Context, lab *harness.Lab, o options) (string, error) {
	rep, err := churn.Run(ctx, lab, churn.Config{Kills: o.runs, Services: o.services, Seed: o.seed, Progress: os.Stdout})
	if rep == nil {
		return "The run did not begin.", err
	}
	return fmt.Sprintf(`The leading cloud controller manager was killed with SIGKILL at random moments while Services of type
LoadBalancer were created and deleted, before, during and after each kill. After the last kill there
were %d Services; then all were deleted. Each time the books were compared: Services, claims, records
and the pool's counter.

| | |
|---|---|
| kills | %d of %d, leaders by node: %v |
| Services created, deleted | %d, %d |
| looks at the statuses for an address held twice | %d |
| books right after the last kill, full | %.1f s |
| books right after deleting all | %.1f s |
| elapsed | %.0f s |
| seed | %d |
`, rep.Services, rep.Kills, o.runs, rep.Leaders, rep.Created, rep.Deleted, rep.Audits, rep.Settled.Seconds(),
		rep.Emptied.Seconds(), rep.Elapsed.Seconds(), rep.Seed), err
}

// failovers cuts the power of the announcing node again and again.
func failovers(ctx context.Context, lab *harness.Lab, o options) (string, error) {
	res, err := failover.Measure(ctx, lab, failover.Config{Runs: o.runs, Probe: 8 * time.Second, Progress: os.Stdout})
	if res == nil {
		return "The run did not begin.", err
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "The power of the node that announces an address was cut at a random moment; a client probed every 10 ms.\n\n"+
		"Median **%.0f ms**, minimum %.0f ms, maximum %.0f ms of %d runs.\n\n"+
		"| run | cut | answers after | blackout ms | failed of sent | MACs afterwards |\n|---|---|---|---|---|---|\n",
		res.MedianMs, res.MinMs, res.MaxMs, len(res.Runs))
	for i, r := range res.Runs {
		_, _ = fmt.Fprintf(&b, "| %d | %s | %s | %.0f | %d of %d | %d |\n", i+1, r.From, r.To, r.BlackoutMs, r.Failed, r.Sent, r.MACs)
		if r.MACs != 1 {
			err = errors.Join(err, fmt.Errorf("run %d: %d MACs answered afterwards", i+1, r.MACs))
		}
	}
	return b.String(), err
}

// layer2 disturbs agents, nodes and networks in every way.
func layer2(ctx context.Context, lab *harness.Lab, o options) (string, error) {
	c := l2.Config{Losses: o.runs, APIPause: o.apiPause, Rate: o.rate, Progress: os.Stdout}
	if o.parts != "" {
		c.Parts = strings.Split(o.parts, ",")
	}
	rep, err := l2.Run(ctx, lab, c)
	for _, f := range rep.Faults() {
		err = errors.Join(err, errors.New(f))
	}
	return rep.Markdown(), err
}

// write stores the result as soak-NAME-DATE.md, also when the soak failed.
func write(ctx context.Context, lab *harness.Lab, o options, body string, soakErr error) error {
	now := time.Now().UTC()
	m := harness.ThisMachine(ctx, lab)
	verdict := "**Held.**"
	if soakErr != nil {
		verdict = "**Failed:**\n\n```\n" + soakErr.Error() + "\n```"
	}
	text := fmt.Sprintf("# Soak: %s, %s\n\n%s\n\n%s\n\n%s; Linux %s, %s, %d cores, %d MiB, %s, commit %s.\n"+
		"Every node, the control plane and the clients share that machine.\n",
		o.soak, now.Format(time.DateOnly), verdict, body, now.Format(time.RFC3339), m.Kernel, m.Arch, m.Cores, m.MemoryMiB, m.Go, m.Commit)
	path := filepath.Join(o.out, "soak-"+o.soak+"-"+now.Format(time.DateOnly)+".md")
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // a document for everybody
		return fmt.Errorf("write the result: %w", err)
	}
	fmt.Println("written:", path)
	return nil
}
