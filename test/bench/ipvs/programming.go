// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/test/bench/ipvs/nlmeter"
)

// Name of what is measured, in the results.
const Name = "Fairlead"

// Costs of one thing done to the kernel.
type Costs struct {
	nlmeter.Counts

	// WorkMs is the time of the work itself, WallMs with what was waited for.
	WorkMs float64 `json:"workMs"`
	WallMs float64 `json:"wallMs"`
	// CPUMs is the processor time of the program and of those that it ran.
	CPUMs float64 `json:"cpuMs"`
	// RSSMiB and PeakMiB are the program's memory afterwards, and the most so far.
	RSSMiB  float64 `json:"rssMiB"`
	PeakMiB float64 `json:"peakMiB"`
}

// Programming is what one program does with the same Services.
type Programming struct {
	Name           string `json:"name"`
	Services       int    `json:"services"`
	VirtualServers int    `json:"virtualServers"`
	RealServers    int    `json:"realServers"`
	// Full is from nothing, Change one endpoint replaced.
	Full   Costs `json:"full"`
	Change Costs `json:"change"`
	// Look is a look each second, Flushed the repair of an emptied table, Restart a new
	// program that finds everything: Fairlead only.
	Look    *Costs `json:"look,omitempty"`
	Flushed *Costs `json:"flushed,omitempty"`
	Restart *Costs `json:"restart,omitempty"`

	changes []Costs
}

// median is the one of the median work.
func median(all []Costs) Costs {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b Costs) int { return cmp.Compare(a.WorkMs, b.WorkMs) })
	return sorted[len(sorted)/2]
}

// MeasureFairlead runs the node agent's benchmark, compiled before, which has a network
// namespace of its own.
func MeasureFairlead(ctx context.Context, binary string, services int, progress io.Writer) (*Programming, error) {
	out := &Programming{Name: Name, Services: services, VirtualServers: 2 * services, RealServers: 2 * services * endpoints}
	cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.bench=^BenchmarkIPVS$", "-test.benchtime=1x", "-test.timeout=40m")
	cmd.Env = append(os.Environ(), "FAIRLEAD_BENCH_SERVICES="+strconv.Itoa(services))
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&text, progress), progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the node agent's benchmark: %w", err)
	}
	found := parseBenchmark(text.String())
	var errs []error
	take := func(name string) Costs {
		c, ok := found[name]
		if !ok {
			errs = append(errs, fmt.Errorf("the node agent's benchmark printed nothing of %s", name))
		}
		return c
	}
	look, flushed, restart := take("look"), take("flushed"), take("restart")
	out.Full, out.Change = take("full"), take("one-endpoint")
	out.Look, out.Flushed, out.Restart = &look, &flushed, &restart
	return out, errors.Join(errs...)
}

// parseBenchmark reads lines such as "BenchmarkIPVS/full-2  1  5 ns/op  12 ms  3 requests".
func parseBenchmark(text string) map[string]Costs {
	out := make(map[string]Costs)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkIPVS/") {
			continue
		}
		name := strings.TrimPrefix(f[0], "BenchmarkIPVS/")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		var c Costs
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				break
			}
			c.set(f[i+1], v)
		}
		out[name] = c
	}
	return out
}

func (c *Costs) set(unit string, v float64) {
	switch unit {
	case "requests":
		c.Requests = uint64(v)
	case "generic":
		c.Generic = uint64(v)
	case "netfilter":
		c.Netfilter = uint64(v)
	case "netlink-B":
		c.Bytes = uint64(v)
	case "ms":
		c.WorkMs, c.WallMs = v, v
	case "cpu-ms":
		c.CPUMs = v
	case "rss-MiB":
		c.RSSMiB = v
	case "peak-MiB":
		c.PeakMiB = v
	}
}
