// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// Config of a measurement.
type Config struct {
	// Root of the repository.
	Root string
	// Dir gets logs; it must exist and be empty.
	Dir string
	// Runs is how often the shortest measurement is repeated; longer ones less often.
	Runs int
	// Profiles of the agents to measure, one after another, where they matter.
	Profiles []string
	// Sizes overrides numbers of addresses or nodes; nil means those of the report.
	Sizes    []int
	Progress io.Writer
}

// sizes returns those asked for, or the usual ones.
func (c *Config) sizes(usual ...int) []int {
	if len(c.Sizes) > 0 {
		return c.Sizes
	}
	return usual
}

// dir makes a directory below the measurement's own.
func (c *Config) dir(name string) (string, error) {
	path := c.Dir + "/" + name
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	return path, nil
}

func (c *Config) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Progress, time.Now().UTC().Format("15:04:05 ")+format+"\n", args...)
}

// profileArgs sets a profile of the agents; the default one is what the manifests have.
func profileArgs(profile string) []string {
	if profile == "" || profile == "default" {
		return nil
	}
	return []string{"--profile=" + profile}
}

// Stat sums up values of one kind.
type Stat struct {
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func newStat(values []float64) Stat {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return Stat{}
	}
	return Stat{
		N: len(v), Min: round(v[0]), P50: round((v[(len(v)-1)/2] + v[len(v)/2]) / 2),
		P99: round(v[(len(v)*99+99)/100-1]), Max: round(v[len(v)-1]),
	}
}

// round to a thousandth.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// String is "median (min–max)".
func (s Stat) String() string {
	return fmt.Sprintf("%s (%s–%s)", short(s.P50), short(s.Min), short(s.Max))
}

// short has three figures.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a == 0:
		return "0"
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Head is what every result begins with.
type Head struct {
	Benchmark string          `json:"benchmark"`
	Date      string          `json:"date"`
	Machine   harness.Machine `json:"machine"`
	// Load is the machine's load average before the first measurement.
	Load string `json:"load"`
}

// NewHead describes a measurement that begins now.
func NewHead(name string, m harness.Machine) Head {
	h := Head{Benchmark: name, Date: time.Now().UTC().Format(time.RFC3339), Machine: m, Load: "unknown"}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		var one, five, fifteen float64
		if n, err := fmt.Sscan(string(b), &one, &five, &fifteen); n == 3 && err == nil {
			h.Load = fmt.Sprintf("%.2f %.2f %.2f", one, five, fifteen)
		}
	}
	return h
}

func (h *Head) markdown(title string) string {
	m := h.Machine
	return fmt.Sprintf("# Benchmark: %s, %.10s\n\n%s; Linux %s, %s, %d cores, %d MiB, %s, commit %s; load before it %s.\n",
		title, h.Date, h.Date, m.Kernel, m.Arch, m.Cores, m.MemoryMiB, m.Go, m.Commit, h.Load)
}

// sortedAddrs sorts addresses.
func sortedAddrs(in []netip.Addr) []netip.Addr {
	slices.SortFunc(in, netip.Addr.Compare)
	return in
}
