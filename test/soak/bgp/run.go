// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
)

// Config of a soak.
type Config struct {
	// Root of the repository; Dir gets logs and must be empty.
	Root, Dir string
	// Runs is how many power cuts there are with each BFD profile; other counts follow.
	Runs int
	// Rate is how many new connections a second nothing may disturb.
	Rate int
	// Parts to run, none: all.
	Parts []string
	// MetalLB is the program of MetalLB's speaker, "" for none.
	MetalLB  string
	Progress io.Writer
}

// Row is one thing that was done a number of times.
type Row struct {
	Name string
	// Times it was done, Wanted how many were meant.
	Times, Wanted int
	// Values in the unit that the row's limit has, in the order of time.
	Values []float64
	Unit   string
	// Want is the limit in words; Said is what else is worth knowing.
	Want, Said string
	// Faults are what did not hold.
	Faults []string
	Took   time.Duration
}

func (r *Row) fault(format string, args ...any) {
	r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
}

func (r *Row) add(v float64) { r.Times, r.Values = r.Times+1, append(r.Values, v) }

// limit fails the row unless the median is within one limit and the maximum within another.
func (r *Row) limit(median, most float64) {
	s := field.NewStat(r.Values)
	if s.N == 0 || s.P50 > median || s.Max > most {
		r.fault("%s %s, want a median of at most %.0f and a maximum of at most %.0f", s, r.Unit, median, most)
	}
}

// soak is a run.
type soak struct {
	*field.Field

	c    *Config
	rows []*Row
}

// part of a soak.
type part struct {
	name string
	run  func(ctx context.Context, s *soak) error
}

// parts in their order: those that share a configuration of the sessions follow each other.
func parts() []part {
	return []part{
		{"weights", weights},
		{"cuts", cuts},
		{"expiries", expiries},
		{"restarts", restarts},
		{"drains", drains},
		{"leaves", leaves},
		{"routers", routerRestarts},
		{"password", passwords},
		{"metallb", migrations},
	}
}

// Parts by name.
func Parts() []string {
	var out []string
	for _, p := range parts() {
		out = append(out, p.name)
	}
	return out
}

// Report of a run.
type Report struct {
	Rows    []*Row
	Elapsed time.Duration
}

// drain of the agents.
const drain = 5 * time.Second

// Run goes through the parts. A part that cannot go on does not keep others from running; the
// report has what was measured.
func Run(ctx context.Context, c Config) (*Report, error) {
	began := time.Now()
	f, err := field.Start(ctx, field.Options{
		Root: c.Root, Dir: c.Dir, Nodes: 3, AgentArgs: []string{"--v=2", "--bgp-drain=" + drain.String()}, Progress: c.Progress,
	})
	s := &soak{Field: f, c: &c}
	errs := []error{err}
	for _, p := range parts() {
		if err != nil || len(c.Parts) > 0 && !slices.Contains(c.Parts, p.name) {
			continue
		}
		if perr := p.run(ctx, s); perr != nil {
			errs = append(errs, fmt.Errorf("part %s: %w", p.name, perr))
			if ctx.Err() != nil {
				break
			}
		}
	}
	rep := &Report{Rows: s.rows, Elapsed: time.Since(began)}
	return rep, errors.Join(append(errs, f.Stop())...)
}

// row begins one, which ends with the function that it returns.
func (s *soak) row(name string, wanted int, unit, want string) (r *Row, end func()) {
	r = &Row{Name: name, Wanted: wanted, Unit: unit, Want: want}
	s.rows = append(s.rows, r)
	began := time.Now()
	s.say("%s, %d times", name, wanted)
	return r, func() {
		r.Took = time.Since(began)
		if r.Times < r.Wanted {
			r.fault("done %d of %d times", r.Times, r.Wanted)
		}
		s.say("%s: %d times, %s %s; %s %v (%s)", name, r.Times, field.NewStat(r.Values), unit, r.Said, r.Faults, r.Took.Round(time.Second))
	}
}

func (s *soak) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.c.Progress, time.Now().UTC().Format("15:04:05 ")+format+"\n", args...)
}
