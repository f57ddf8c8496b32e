// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Micro is one line of a Go benchmark.
type Micro struct {
	Name        string  `json:"name"`
	Iterations  int     `json:"iterations"`
	NsPerOp     float64 `json:"nsPerOp"`
	BytesPerOp  int64   `json:"bytesPerOp"`
	AllocsPerOp int64   `json:"allocsPerOp"`
}

// suite is one package's benchmarks.
type suite struct {
	pkg, pattern, benchtime string
}

func suites() []suite {
	return []suite{
		{"./loadbalancer/pool", "^BenchmarkAllocateRelease$", "1s"},
		{"./provider/internal/store", "^BenchmarkColdStart", "3x"},
	}
}

// RunMicro runs the pure benchmarks of the work tree, one package after the other.
func RunMicro(ctx context.Context, root string, progress io.Writer) ([]Micro, error) {
	var out []Micro
	for _, s := range suites() {
		cmd := exec.CommandContext(ctx, "go", "test", "-trimpath", "-run", "^$", "-bench", s.pattern, "-benchmem", "-benchtime", s.benchtime, s.pkg) //nolint:gosec // constants
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
		out = append(out, found...)
	}
	return out, nil
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
		case strings.HasPrefix(m.Name, "AllocateRelease") && m.NsPerOp >= allocateLimitNs:
			out = append(out, fmt.Sprintf("%s takes %.0f ns, promised are less than %d", m.Name, m.NsPerOp, allocateLimitNs))
		case strings.HasPrefix(m.Name, "AllocateRelease") && m.AllocsPerOp != 0:
			out = append(out, fmt.Sprintf("%s allocates %d times per operation, promised is none", m.Name, m.AllocsPerOp))
		case strings.HasPrefix(m.Name, "ColdStart") && m.NsPerOp >= coldStartLimitNs:
			out = append(out, fmt.Sprintf("%s takes %.2f s, promised are less than 2", m.Name, m.NsPerOp/1e9))
		}
	}
	return out
}
