// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// changes of one address each, half of them going and half of them coming back.
	changes = 20
	// installTimeout bounds the time until all routes are installed.
	installTimeout = 3 * time.Minute
	// kernelLook is how often a kernel's table is read: at 10,000 routes that takes some 30 ms.
	kernelLook = 50 * time.Millisecond
)

// Routes is what one node with two peers does with so many routes.
type Routes struct {
	Routes int `json:"routes"`
	// Told and Withdrawn are all at once.
	Told      Wave `json:"told"`
	Withdrawn Wave `json:"withdrawn"`
	// One is the change of one address while the others are told.
	One One `json:"one"`
	// IdleMiB is the speaker's resident memory before, ToldMiB with all told, PeakMiB the most
	// that it ever had.
	IdleMiB float64 `json:"idleMiB"`
	ToldMiB float64 `json:"toldMiB"`
	PeakMiB float64 `json:"peakMiB"`
}

// Wave is what happened when all routes came or went.
type Wave struct {
	// FRRMs and BIRDMs until the last was in the router's kernel, or out of it.
	FRRMs  float64 `json:"frrMs"`
	BIRDMs float64 `json:"birdMs"`
	// CPUMs of the speaker until both had it.
	CPUMs float64 `json:"cpuMs"`
	// Updates that FRR received, Octets that BIRD received (IP packets with headers): both are
	// told the same.
	Updates int `json:"updates"`
	Octets  int `json:"octets"`
}

// One change, of many.
type One struct {
	// Ms from the write to the API server until it was in FRR's kernel, or out of it.
	Ms field.Stat `json:"ms"`
	// CPUMs of the speaker per change, less what it takes while nothing happens; for both
	// peers together.
	CPUMs   float64 `json:"cpuMs"`
	Updates float64 `json:"updates"`
	Octets  float64 `json:"octets"`
}

// speaker is what tells the routes: the node's agent, or another program beside it.
type speaker interface {
	process() *plane.Process
	// grow makes addresses until there are n, which nobody tells before tell, which returns the
	// instant before.
	grow(ctx context.Context, n int) error
	tell(ctx context.Context, yes bool) (time.Time, error)
	addresses() []netip.Addr
	// come and leave are one address.
	come(ctx context.Context, a netip.Addr) error
	leave(ctx context.Context, a netip.Addr) error
}

// agent is ours.
type agent struct{ f *field.Field }

func (a agent) process() *plane.Process                               { return a.f.Nodes()[0].Agent() }
func (a agent) grow(ctx context.Context, n int) error                 { return a.f.Grow(ctx, n) }
func (a agent) come(ctx context.Context, addr netip.Addr) error       { return a.f.Come(ctx, addr) }
func (a agent) leave(ctx context.Context, addr netip.Addr) error      { return a.f.Go(ctx, addr) }
func (a agent) addresses() []netip.Addr                               { return a.f.Addresses() }
func (a agent) tell(ctx context.Context, yes bool) (time.Time, error) { return a.f.Tell(ctx, yes) }

// measureRoutes goes through all sizes.
func measureRoutes(ctx context.Context, c *Config, f *field.Field, s speaker) ([]Routes, error) {
	var out []Routes
	for _, n := range c.Sizes {
		start := time.Now()
		if err := s.grow(ctx, n); err != nil {
			return out, err
		}
		c.say("%d addresses were made within %s", n, time.Since(start).Round(100*time.Millisecond))
		m := &meter{f: f, s: s}
		r, err := m.measure(ctx, n)
		if r != nil {
			out = append(out, *r)
			c.say("%d routes: told %+v, one change %+v, withdrawn %+v", n, r.Told, r.One, r.Withdrawn)
		}
		if err != nil {
			return out, fmt.Errorf("%d routes: %w", n, err)
		}
	}
	return out, nil
}

// meter measures one size.
type meter struct {
	f *field.Field
	s speaker
}

func (m *meter) measure(ctx context.Context, n int) (*Routes, error) {
	r := &Routes{Routes: n}
	if err := m.quiet(ctx); err != nil {
		return nil, err
	}
	var err error
	if r.IdleMiB, _, err = memory(m.s.process()); err != nil {
		return nil, err
	}
	if r.Told, err = m.wave(ctx, true, n); err != nil {
		return r, err
	}
	if err := m.quiet(ctx); err != nil {
		return r, err
	}
	if r.ToldMiB, r.PeakMiB, err = memory(m.s.process()); err != nil {
		return r, err
	}
	if r.One, err = m.one(ctx); err != nil {
		return r, err
	}
	r.Withdrawn, err = m.wave(ctx, false, 0)
	return r, err
}

// quiet waits until the speaker has done what it had to.
func (m *meter) quiet(ctx context.Context) error {
	_, err := harness.Eventually(ctx, installTimeout, func(ctx context.Context) error {
		before, err := cpu(m.s.process())
		if err != nil {
			return err
		}
		if err := harness.Pause(ctx, 2*time.Second); err != nil {
			return err //nolint:wrapcheck // the end of ctx
		}
		after, err := cpu(m.s.process())
		if used := after - before; err == nil && used > 150*time.Millisecond {
			err = fmt.Errorf("the speaker used %s in 2 s", used)
		}
		return err
	})
	return err //nolint:wrapcheck // says what it is
}

// counts are counters at one time.
type counts struct {
	cpu             time.Duration
	updates, octets int
}

func (m *meter) counts(ctx context.Context) (c counts, err error) {
	told, err := m.f.Told(ctx)
	if err != nil {
		return c, err //nolint:wrapcheck // says what it is
	}
	c.updates = told[m.f.Nodes()[0].IPv4()].Updates
	if c.octets, err = received(m.f.BIRDHost); err != nil {
		return c, err
	}
	c.cpu, err = cpu(m.s.process())
	return c, err
}

// wave has all routes told or withdrawn and waits until both kernels have n.
func (m *meter) wave(ctx context.Context, yes bool, n int) (w Wave, err error) {
	before, err := m.counts(ctx)
	if err != nil {
		return w, err
	}
	start, err := m.s.tell(ctx, yes)
	if err != nil {
		return w, err
	}
	todo := map[*rig.Host]*float64{m.f.FRRHost: &w.FRRMs, m.f.BIRDHost: &w.BIRDMs}
	_, err = field.Until(ctx, kernelLook, installTimeout, func() error {
		var errs []error
		for host, ms := range todo {
			have, err := field.Many(host)
			if err == nil && have == n {
				*ms = field.Ms(time.Since(start))
				delete(todo, host)
				continue
			}
			errs = append(errs, err, fmt.Errorf("%d of %d routes", have, n))
		}
		return errors.Join(errs...)
	})
	after, countErr := m.counts(ctx)
	w.CPUMs, w.Updates, w.Octets = field.Ms(after.cpu-before.cpu), after.updates-before.updates, after.octets-before.octets
	return w, errors.Join(err, countErr)
}

// one changes single addresses, one after another.
func (m *meter) one(ctx context.Context) (o One, err error) {
	idle, err := m.idle(ctx)
	if err != nil {
		return o, err
	}
	before, err := m.counts(ctx)
	if err != nil {
		return o, err
	}
	begun := time.Now()
	var took []float64
	addrs := m.s.addresses()
	for i := range changes {
		a, do, here := addrs[1+i/2], m.s.leave, false
		if i%2 == 1 {
			do, here = m.s.come, true
		}
		start := time.Now()
		if err := do(ctx, a); err != nil {
			return o, err
		}
		end, err := field.Until(ctx, 2*time.Millisecond, installTimeout, func() error { return m.routed(a, here) })
		if err != nil {
			return o, err
		}
		took = append(took, field.Ms(end.Sub(start)))
		if err := harness.Pause(ctx, 100*time.Millisecond); err != nil {
			return o, err //nolint:wrapcheck // the end of ctx
		}
	}
	elapsed := time.Since(begun)
	after, err := m.counts(ctx)
	o.Ms = field.NewStat(took)
	o.CPUMs = (field.Ms(after.cpu-before.cpu) - idle*elapsed.Seconds()) / changes
	o.Updates = float64(after.updates-before.updates) / changes
	o.Octets = float64(after.octets-before.octets) / changes
	return o, err
}

// idle is the speaker's CPU time in milliseconds per second while nothing happens.
func (m *meter) idle(ctx context.Context) (float64, error) {
	before, err := cpu(m.s.process())
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := harness.Pause(ctx, 5*time.Second); err != nil {
		return 0, err //nolint:wrapcheck // the end of ctx
	}
	after, err := cpu(m.s.process())
	return field.Ms(after-before) / time.Since(start).Seconds(), err
}

// routed fails unless FRR's kernel sends an address to the node, or not.
func (m *meter) routed(a netip.Addr, want bool) error {
	return m.f.FRRHost.Do(func() error { //nolint:wrapcheck // says what it is
		list, err := netlink.RouteGet(a.AsSlice())
		if err != nil && !errors.Is(err, unix.ENETUNREACH) {
			return fmt.Errorf("ask for the route to %s: %w", a, err)
		}
		via := m.f.Nodes()[0].IPv4()
		here := slices.ContainsFunc(list, func(r netlink.Route) bool {
			gw, ok := netip.AddrFromSlice(r.Gw)
			return ok && gw.Unmap() == via
		})
		if here != want {
			return fmt.Errorf("FRR's kernel has %s by the node: %v, want %v", a, here, want)
		}
		return nil
	})
}

// received reads how many octets a host received on eth0, without Ethernet headers. There is
// nothing to speak of but BGP.
func received(h *rig.Host) (n int, err error) {
	err = h.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		s := l.Attrs().Statistics
		n = int(s.RxBytes) - 14*int(s.RxPackets) //nolint:gosec // no machine receives as much
		return nil
	})
	return n, err //nolint:wrapcheck // says what it is
}

// cpu is the time that all threads of a process have used, as exact as the scheduler knows
// (/proc/PID/task/TID/schedstat, nanoseconds). Threads that ended are missing, which Go's
// seldom do.
func cpu(p *plane.Process) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.PID()))
	if err != nil || len(files) == 0 {
		return p.CPU() //nolint:wrapcheck // says what it is
	}
	total := time.Duration(0)
	for _, file := range files {
		b, err := os.ReadFile(file) //nolint:gosec // of the kernel
		if err != nil {
			continue // the thread ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// memory is the resident memory of a process in MiB, now and at most.
func memory(p *plane.Process) (now, peak float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		kib := 0.0
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			now = kib / 1024
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kib); n == 1 {
			peak = kib / 1024
		}
	}
	return now, peak, nil
}
