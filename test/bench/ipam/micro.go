// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Micro is one line of a Go benchmark.
type Micro struct {
	Name       string  `json:"name"`
	Iterations int     `json:"iterations"`
	NsPerOp    float64 `json:"nsPerOp"`
	// CPUNsPerOp is the processor time, where the benchmark reports it ("cpu-ns/op"): on
	// a busy machine the truer figure.
	CPUNsPerOp  float64 `json:"cpuNsPerOp,omitempty"`
	BytesPerOp  int64   `json:"bytesPerOp"`
	AllocsPerOp int64   `json:"allocsPerOp"`
}

// suite is one package's benchmarks.
type suite struct {
	pkg, pattern, benchtime, count string
}

func suites() []suite {
	return []suite{
		{"./loadbalancer/pool", "^BenchmarkAllocateRelease$", "300ms", "5"},
		{"./provider/internal/store", "^BenchmarkColdStart", "1x", "3"},
	}
}

// RunMicro runs the pure benchmarks of the work tree, one package after the other.
func RunMicro(ctx context.Context, root string, progress io.Writer) ([]Micro, error) {
	var out []Micro
	for _, s := range suites() {
		cmd := exec.CommandContext(ctx, "go", "test", "-trimpath", "-run", "^$", "-bench", s.pattern, "-benchmem", //nolint:gosec // constants
			"-benchtime", s.benchtime, "-count", s.count, "-cpu", "1", s.pkg)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&text, progress), progress
		if err := cmd.Run(); err != nil {
			return out, fmt.Errorf("benchmarks of %s: %w", s.pkg, err)
		}
		found := ParseBenchmarks(text.String())
		if len(found) == 0 {
			return out, fmt.Errorf("benchmarks of %s: none matches %s", s.pkg, s.pattern)
		}
		out = append(out, fastest(found)...)
	}
	return out, nil
}

// fastest keeps the fastest of the repetitions of each benchmark: the others say what
// else the machine did. Allocations count at their worst.
func fastest(all []Micro) []Micro {
	var out []Micro
	for _, m := range all {
		i := slices.IndexFunc(out, func(o Micro) bool { return o.Name == m.Name })
		if i < 0 {
			out = append(out, m)
			continue
		}
		allocs, size := max(m.AllocsPerOp, out[i].AllocsPerOp), max(m.BytesPerOp, out[i].BytesPerOp)
		if m.cost() < out[i].cost() {
			out[i] = m
		}
		out[i].AllocsPerOp, out[i].BytesPerOp = allocs, size
	}
	return out
}

// ParseBenchmarks reads what `go test -bench` prints, as
// "BenchmarkName/case-2   1000   12.5 ns/op   0 B/op   0 allocs/op".
func ParseBenchmarks(text string) []Micro {
	var out []Micro
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		m := Micro{Name: benchName(f[0]), Iterations: n}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				break
			}
			switch f[i+1] {
			case "ns/op":
				m.NsPerOp = v
			case "cpu-ns/op":
				m.CPUNsPerOp = v
			case "B/op":
				m.BytesPerOp = int64(v)
			case "allocs/op":
				m.AllocsPerOp = int64(v)
			}
		}
		out = append(out, m)
	}
	return out
}

// cost is the processor time of one operation, or the time if that is not known.
func (m *Micro) cost() float64 {
	if m.CPUNsPerOp > 0 {
		return min(m.CPUNsPerOp, m.NsPerOp)
	}
	return m.NsPerOp
}

// benchName drops "Benchmark" and the number of processors.
func benchName(s string) string {
	s = strings.TrimPrefix(s, "Benchmark")
	if i := strings.LastIndexByte(s, '-'); i > 0 {
		if _, err := strconv.Atoi(s[i+1:]); err == nil {
			s = s[:i]
		}
	}
	return s
}

// What the project promises of these.
const (
	allocateLimitNs  = 1000
	coldStartLimitNs = 2e9
)

// MicroFaults lists what is slower than promised.
func MicroFaults(results []Micro) []string {
	var out []string
	for _, m := range results {
		switch {
		case strings.HasPrefix(m.Name, "AllocateRelease") && m.cost() >= allocateLimitNs:
			out = append(out, fmt.Sprintf("%s takes %.0f ns, promised are less than %d", m.Name, m.cost(), allocateLimitNs))
		case strings.HasPrefix(m.Name, "AllocateRelease") && m.AllocsPerOp != 0:
			out = append(out, fmt.Sprintf("%s allocates %d times per operation, promised is none", m.Name, m.AllocsPerOp))
		case strings.HasPrefix(m.Name, "ColdStart") && m.cost() >= coldStartLimitNs:
			out = append(out, fmt.Sprintf("%s takes %.2f s, promised are less than 2", m.Name, m.cost()/1e9))
		}
	}
	return out
}
