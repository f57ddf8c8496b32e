// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/ipam"
)

// pace is the mean time between two steps of the load: some 30 changes a second.
const pace = 30 * time.Millisecond

// allocation lets two controllers that both believe they lead allocate at once.
func allocation(ctx context.Context, lab *harness.Lab, o *options) (string, error) {
	dir, err := ipam.TempDir()
	if err != nil {
		return "The run did not begin.", err
	}
	c := ipam.Config{
		Root: lab.Root(), Dir: dir, Services: o.runs, AtOnce: o.services, Pace: pace, Seed: o.seed, Progress: os.Stdout,
	}
	if o.kinds != "" {
		c.Kinds = strings.Split(o.kinds, ",")
	}
	start := time.Now()
	rep, err := ipam.Run(ctx, c)
	if err == nil {
		err = os.RemoveAll(dir)
	} else {
		fmt.Println("the logs of this run are in", dir)
	}
	if rep == nil {
		return "The run did not begin.", err
	}
	return describe(rep, time.Since(start)), err
}

// describe shows a report as Markdown.
func describe(rep *ipam.Report, elapsed time.Duration) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, `Two cloud controller managers that both believed they led (--leader-elect=false) allocated addresses at
once, each behind a proxy that injected faults, on a real etcd and kube-apiserver without nodes. Services
of every kind were created, changed and deleted at random. A checker that reads only the API replayed every
revision of every Service, claim and record: no address with one (protocol, port) may ever be two Services',
neither in their status nor in a claim. After each load the books had to be right, and after all Services were
deleted there had to be nothing left.

- revisions checked: %d (%d times a list had to be repeated); double allocations: **%d**
- Services of the pool with reclaimPolicy Retain that came back within its 15 s and got their address again: %d; another one: %d
- seed %d; elapsed %.0f s
- kinds: %s

| phase | created | changed | deleted | came back | live at the end | disturbances | all right after s | all gone after s | elapsed s |
|---|---|---|---|---|---|---|---|---|---|
`, rep.Events, rep.Relists, len(rep.Verdict.Faults), rep.Verdict.Back, rep.Verdict.Elsewhere, rep.Seed, elapsed.Seconds(), kinds(rep.ByKind))
	for _, p := range rep.Phases {
		_, _ = fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %.1f | %.1f | %.0f |\n", p.Name, p.Created, p.Changed, p.Deleted, p.Returned,
			p.AtEnd, p.Disturbances, p.Settled.Seconds(), p.Emptied.Seconds(), p.Elapsed.Seconds())
	}
	b.WriteString("\n| injected | " + "controller 1 | controller 2 |\n|---|---|---|\n")
	if len(rep.Proxies) == 2 {
		one, two := rep.Proxies[0], rep.Proxies[1]
		for _, row := range []struct {
			name     string
			one, two int64
		}{
			{"requests without watches", one.Requests, two.Requests},
			{"of these writes", one.Writes, two.Writes},
			{"409 Conflict instead of the request", one.Conflicts, two.Conflicts},
			{"504 instead of the request", one.Timeouts, two.Timeouts},
			{"answer dropped after the request", one.Drops, two.Drops},
			{"… of these writes that were done", one.DroppedWrites, two.DroppedWrites},
			{"connection reset", one.Resets, two.Resets},
			{"request delayed (up to 0.4 s)", one.Delays, two.Delays},
			{"watch delayed (up to 1 s)", one.Stalls, two.Stalls},
			{"API server away", one.Unreachable, two.Unreachable},
		} {
			_, _ = fmt.Fprintf(&b, "| %s | %d | %d |\n", row.name, row.one, row.two)
		}
	}
	return b.String()
}

func kinds(byKind map[string]int) string {
	var out []string
	for _, name := range ipam.Kinds() {
		if n := byKind[name]; n > 0 {
			out = append(out, fmt.Sprintf("%s %d", name, n))
		}
	}
	return strings.Join(out, ", ")
}
