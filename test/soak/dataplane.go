// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// dataPlane runs the tests of package dataplane with every combination, where a kernel has
// ip_vs: here or in the small virtual machine, whose files are thrown away, so that the
// report is made of what the tests print.
func dataPlane(ctx context.Context, lab *harness.Lab) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(lab.Root(), "bin", "fairlead-vm"), "test", "-t", "90m", "./test/dataplane") //nolint:gosec // our own
	cmd.Dir, cmd.Env, cmd.Stderr = lab.Root(), append(os.Environ(), "FAIRLEAD_DATAPLANE=full"), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", fmt.Errorf("run the tests: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run the tests: %w", err)
	}
	var r forwardingReport
	err = r.read(io.TeeReader(out, os.Stdout))
	if waitErr := cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("the tests failed: %w", waitErr), errors.New(strings.Join(r.faults, "\n")))
	}
	return r.markdown(), err
}

// forwardingReport is what the tests print that is worth keeping.
type forwardingReport struct {
	// passed and failed rows by mode of kube-proxy.
	passed, failed map[string]int
	// parts are the other tests in the order in which they end, results theirs by mode.
	parts   []string
	results map[string]map[string]string
	// said are the lines of measurements, faults those of failures.
	said, faults []string
	where        string
}

var (
	rowLine   = regexp.MustCompile(`^ *--- (PASS|FAIL): TestDataPlane/([a-z]+)/matrix/rows/[^/ ]+/[^/ ]+ `)
	partLine  = regexp.MustCompile(`^ *--- (PASS|FAIL): TestDataPlane/([a-z]+)/((?:features/)?[A-Za-z0-9-]+) `)
	sayLine   = regexp.MustCompile(`^\[ *[0-9.]+ s\] (.*(?:NOT TESTED|questions|requests went|flows went|was found to have noticed|all of it took).*)$`)
	faultLine = regexp.MustCompile(`^ +[a-z0-9_]+_test\.go:[0-9]+: (.*)$`)
	whereLine = regexp.MustCompile(`^==> fairlead-vm: (this machine's kernel.*)$`)
)

func (r *forwardingReport) read(out io.Reader) error {
	r.passed, r.failed, r.results = make(map[string]int), make(map[string]int), make(map[string]map[string]string)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case rowLine.MatchString(line):
			m := rowLine.FindStringSubmatch(line)
			if m[1] == "PASS" {
				r.passed[m[2]]++
			} else {
				r.failed[m[2]]++
			}
		case partLine.MatchString(line):
			m := partLine.FindStringSubmatch(line)
			r.note(m[3], m[2], map[string]string{"PASS": "passed", "FAIL": "FAILED"}[m[1]])
		case sayLine.MatchString(line):
			r.said = append(r.said, sayLine.FindStringSubmatch(line)[1])
		case faultLine.MatchString(line) && !strings.Contains(line, "the end of "):
			r.faults = append(r.faults, faultLine.FindStringSubmatch(line)[1])
		case whereLine.MatchString(line):
			r.where = whereLine.FindStringSubmatch(line)[1]
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read what the tests print: %w", err)
	}
	return nil
}

// note takes the result of a part; the matrix, and what only holds parts, have none of their own.
func (r *forwardingReport) note(part, mode, result string) {
	if part == "matrix" || part == "features" {
		return
	}
	part = strings.TrimPrefix(part, "features/")
	if r.results[part] == nil {
		r.parts, r.results[part] = append(r.parts, part), make(map[string]string)
	}
	r.results[part][mode] = result
}

func (r *forwardingReport) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Three nodes with the real agent and the real kube-proxy, pods and clients, as network namespaces. %s\n\n", r.where)
	b.WriteString("A row is one Service of {Cluster, Local} × {pod, node-port, left to kube-proxy} × {IPv4, IPv6} by TCP or UDP, asked from outside, from pods and\n" +
		"from the nodes: who answers, and which client's address the pod sees.\n\n| kube-proxy | rows passed | rows failed |\n|---|---|---|\n")
	var modes []string
	for _, of := range []map[string]int{r.passed, r.failed} {
		for mode := range of {
			if !slices.Contains(modes, mode) {
				modes = append(modes, mode)
			}
		}
	}
	slices.Sort(modes)
	for _, mode := range modes {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", mode, r.passed[mode], r.failed[mode])
	}
	fmt.Fprintf(&b, "\n| beside rows | %s |\n|---%s|\n", strings.Join(modes, " | "), strings.Repeat("|---", len(modes)))
	for _, part := range r.parts {
		b.WriteString("| " + part)
		for _, mode := range modes {
			b.WriteString(" | " + cmp.Or(r.results[part][mode], "-"))
		}
		b.WriteString(" |\n")
	}
	b.WriteString("\nA question is a new connection, every 20 ms while something is broken on the node that has the address, every 10 ms else. When something was\n" +
		"put back is what the agent's log says; what breaks it takes its time before it does. When it was found whole holds the time of the measuring\n" +
		"programs, some seconds under emulation.\n\n")
	for _, line := range r.said {
		b.WriteString("- " + line + "\n")
	}
	return b.String()
}
