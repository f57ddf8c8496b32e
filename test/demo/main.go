// SPDX-License-Identifier: Apache-2.0

// Command demo re-enacts the tutorial: its layer-2, ExternalIP and BGP parts on a lab cluster of
// its own, which it starts and installs Fairlead in, then its IPVS part, on a kernel that
// has ip_vs. It types each step as a person would and prints what was expected beside what
// was observed. It owns the story and its expectations, nothing else: the commands come
// from test/harness, the IPVS part is package ipvs. `make demo` and people call it.
//
// It ends with status 0 only if every step held. With KEEP=1 the cluster stays.
package main

import (
	"context"
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

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/vm"
)

func main() {
	vm.Guest() // in the machine of the IPVS part this is the first process
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// downTimeout bounds the clean-up, which must also work after an interrupt.
const downTimeout = 2 * time.Minute

// Parts of the story.
const (
	partAll  = "all"
	partLab  = "lab"
	partBGP  = "bgp"
	partIPVS = "ipvs"
)

func run(ctx context.Context) error {
	part := flag.String("part", partAll, "what is told: lab (a cluster), bgp (of that only the section on BGP), ipvs (what needs a kernel with ip_vs) or all")
	here := flag.String("here", "", "in the machine of the IPVS part: tell it, with the control plane that this file describes")
	stateDir := flag.String("state-dir", "", "the lab's state directory (default: a fresh one below the temporary directory)")
	reuse := flag.Bool("reuse", false, "use the cluster that runs at --state-dir already, and leave it running")
	flag.Parse()
	if !slices.Contains([]string{partAll, partLab, partBGP, partIPVS}, *part) {
		return fmt.Errorf("-part %s: want %s, %s, %s or %s", *part, partAll, partLab, partBGP, partIPVS)
	}
	if *here != "" {
		root, err := harness.Root()
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		return tellIPVS(ctx, root, *here, vm.Outside)
	}
	var errs []error
	if *part != partIPVS {
		errs = append(errs, labPart(ctx, *stateDir, *reuse, *part == partBGP))
	}
	if (*part == partAll || *part == partIPVS) && ctx.Err() == nil {
		root, err := harness.Root()
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		errs = append(errs, ipvsPart(ctx, root))
	}
	return errors.Join(errs...)
}

// labPart tells what a cluster can show on any kernel.
func labPart(ctx context.Context, stateDir string, reuse, onlyBGP bool) (err error) {
	keep := os.Getenv("KEEP") == "1" || reuse
	if stateDir == "" {
		dir, err := os.MkdirTemp("", "fairlead-demo-")
		if err != nil {
			return fmt.Errorf("make a state directory: %w", err)
		}
		stateDir = dir
	}
	lab, err := harness.Open(harness.Options{StateDir: stateDir, Progress: os.Stdout})
	if err != nil {
		return err
	}
	d := &demo{lab: lab, t: harness.NewTranscript(os.Stdout, time.Now()), owners: map[string]string{}}
	if !reuse {
		if err := lab.Build(ctx); err != nil {
			return err
		}
	}
	if err := lab.BuildPlugin(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.finish(context.WithoutCancel(ctx), keep)) }()
	chapters := []func(context.Context){
		d.cluster, d.configure, d.services, d.announcers, d.traffic, d.failover, d.planned, d.local, d.addresses, d.externalIPs, d.bgp, d.remove, d.uninstall,
	}
	if onlyBGP {
		chapters = []func(context.Context){d.cluster, d.configure, d.bgp}
	}
	return d.play(ctx, reuse, chapters)
}

// finish removes the cluster, or says how to go on with it.
func (d *demo) finish(ctx context.Context, keep bool) error {
	lab := d.lab
	if keep {
		fmt.Printf("\nThe cluster is still there. Go on with:\n"+
			"  bin/fairlead-lab kubectl --state-dir %[1]s -- get loadbalancers,ipclaims -A\n"+
			"  bin/fairlead-lab exec --state-dir %[1]s mypc -- curl -s http://172.20.255.200\n"+
			"and remove it with:\n  bin/fairlead-lab down --state-dir %[1]s\n", lab.StateDir())
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	if err := lab.Down(ctx); err != nil {
		return err
	}
	for _, path := range d.made {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what the demo wrote: %w", err)
		}
	}
	if err := os.Remove(lab.StateDir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the state directory: %w", err)
	}
	return nil
}

// demo is one run of the story.
type demo struct {
	lab *harness.Lab
	t   *harness.Transcript
	// macs maps the nodes' hardware addresses to their names.
	macs map[string]string
	// owners maps the Services' addresses to the nodes that announce them, as last seen.
	owners map[string]string
	// made are the files that the demo wrote into the state directory.
	made []string
	// killed is the node whose power was cut, at cut.
	killed string
	cut    time.Time
}

// play runs the chapters. A step that does not hold does not end the story; a cluster
// that does not come up does.
func (d *demo) play(ctx context.Context, reuse bool, chapters []func(context.Context)) error {
	if !reuse {
		d.t.Heading("The cluster")
		up := d.t.Step(ctx, "Start a Kubernetes cluster with Fairlead in it", func(ctx context.Context) (harness.Observation, error) {
			d.t.Command("", "fairlead-lab up --state-dir %s", d.lab.StateDir())
			err := d.lab.Up(ctx)
			return harness.Observation{Expected: "the cluster is up", Observed: "up", Held: err == nil}, err
		})
		if !up {
			return d.t.Summary()
		}
	}
	d.t.Note("kubectl stands for: bin/fairlead-lab kubectl --state-dir %[1]s --\n"+
		"mypc$ CMD stands for: bin/fairlead-lab exec --state-dir %[1]s mypc -- CMD\n"+
		"kubectl fairlead is the plugin bin/kubectl-fairlead", d.lab.StateDir())
	for _, chapter := range chapters {
		if ctx.Err() != nil {
			return errors.Join(d.t.Summary(), ctx.Err())
		}
		chapter(ctx)
	}
	return d.t.Summary()
}

// typed shows and runs one kubectl command.
func (d *demo) typed(ctx context.Context, args ...string) (harness.Result, error) {
	d.t.Command("", "kubectl %s", shellJoin(args))
	res, err := d.lab.Kubectl(ctx, args...)
	d.t.Output(res.Stdout+res.Stderr, 0)
	return res, err
}

// applied shows and runs one kubectl apply with a manifest on its standard input.
func (d *demo) applied(ctx context.Context, manifest string) (harness.Result, error) {
	d.t.Command("", "cat <<EOF | kubectl apply -f -\n%sEOF", manifest)
	res, err := d.lab.Apply(ctx, manifest)
	d.t.Output(res.Stdout+res.Stderr, 0)
	return res, err
}

// onHost shows and runs one command on a client or node.
func (d *demo) onHost(ctx context.Context, host string, limit int, argv ...string) (harness.Result, error) {
	d.t.Command(host, "%s", shellJoin(argv))
	res, err := d.lab.Exec(ctx, host, argv...)
	d.t.Output(res.Stdout+res.Stderr, limit)
	return res, err
}

// scratch is the path of a file that hosts of the lab can read and write. It goes with the
// cluster.
func (d *demo) scratch(name string) string {
	path := filepath.Join(d.lab.StateDir(), name)
	if !slices.Contains(d.made, path) {
		d.made = append(d.made, path)
	}
	return path
}

// shellJoin quotes what a shell would split or expand.
func shellJoin(args []string) string {
	quoted := make([]string, 0, len(args))
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \"'{}[]()$|;&*?<>`\\") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted = append(quoted, a)
	}
	return strings.Join(quoted, " ")
}
