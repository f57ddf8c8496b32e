// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// Flow is what was seen of one flow: all its packets have the same ports.
type Flow struct {
	// Before is the node that answered last before the cut.
	Before string
	// Gap is the longest time between two answers that ended after the cut.
	Gap time.Duration
}

// flow is one of a prober.
type flow struct {
	conn *net.UDPConn

	mu   sync.Mutex
	seen Flow
	by   string
	last time.Time
	cut  bool
}

// Flows ask [OnNodes] on flows that stay the same, each every interval, without waiting for
// answers.
type Flows struct {
	flows  []*flow
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// StartFlows begins to ask from the client behind FRR.
func (f *Field) StartFlows(ctx context.Context, flows int, interval time.Duration) (*Flows, error) {
	p := &Flows{}
	ctx, p.cancel = context.WithCancel(ctx)
	for range flows {
		c, err := f.dial(OnNodes)
		if err != nil {
			p.Stop()
			return nil, err
		}
		fl := &flow{conn: c}
		p.flows = append(p.flows, fl)
		p.wg.Go(fl.hear)
	}
	p.wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				for _, fl := range p.flows {
					_ = fl.conn.Close() // ends hear
				}
				return
			case <-tick.C:
			}
			for _, fl := range p.flows {
				_, _ = fl.conn.Write([]byte("?")) // what is lost is seen by its answer
			}
		}
	})
	return p, nil
}

func (f *Field) dial(to netip.Prefix) (c *net.UDPConn, err error) {
	err = f.Client.Do(func() error {
		c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), port)))
		return err
	})
	return c, err
}

func (fl *flow) hear() {
	buf := make([]byte, 64)
	for {
		n, err := fl.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a router that has no route says so
			continue
		}
		now, by := time.Now(), string(buf[:n])
		fl.mu.Lock()
		if gap := now.Sub(fl.last); !fl.last.IsZero() && fl.cut && gap > fl.seen.Gap {
			fl.seen.Gap = gap
		}
		fl.last, fl.by = now, by
		fl.mu.Unlock()
	}
}

// Cut is called right before something is broken: gaps that ended before do not count.
func (p *Flows) Cut() {
	for _, fl := range p.flows {
		fl.mu.Lock()
		fl.cut, fl.seen.Before = true, fl.by
		fl.mu.Unlock()
	}
}

// Reach counts flows by the node that answered last.
func (p *Flows) Reach() map[string]int {
	out := map[string]int{}
	for _, fl := range p.flows {
		fl.mu.Lock()
		out[fl.by]++
		fl.mu.Unlock()
	}
	return out
}

// Silent is the longest time that a flow has had no answer for.
func (p *Flows) Silent() time.Duration {
	longest, now := time.Duration(0), time.Now()
	for _, fl := range p.flows {
		fl.mu.Lock()
		longest = max(longest, now.Sub(fl.last))
		fl.mu.Unlock()
	}
	return longest
}

// Stop ends the flows and returns what was seen of each.
func (p *Flows) Stop() []Flow {
	p.cancel()
	for _, fl := range p.flows {
		_ = fl.conn.Close() // ends hear
	}
	p.wg.Wait()
	out := make([]Flow, 0, len(p.flows))
	for _, fl := range p.flows {
		out = append(out, fl.seen)
	}
	return out
}

// Spread sends one packet on each of so many flows to a Service that nodes answer, and counts
// the answers by node.
func (f *Field) Spread(to netip.Prefix, flows int) (map[string]int, error) {
	out := map[string]int{}
	buf := make([]byte, 64)
	for range flows {
		c, err := f.dial(to)
		if err != nil {
			return out, err
		}
		_, err = c.Write([]byte("?"))
		if err == nil {
			err = c.SetDeadline(time.Now().Add(2 * time.Second))
		}
		n := 0
		if err == nil {
			n, err = c.Read(buf)
		}
		if err = errors.Join(err, c.Close()); err != nil {
			return out, fmt.Errorf("ask on a flow: %w", err)
		}
		out[string(buf[:n])]++
	}
	return out, nil
}

// Stream is new connections at a steady pace to the pod, and connections to it that stay.
type Stream struct {
	fresh, held           *plane.Process
	freshReport, heldFile string
	begun                 time.Time
	client                *rig.Host
	repeated              int
}

// Stood is what became of a stream.
type Stood struct {
	harness.Report

	Hold harness.HoldReport
	Took time.Duration
	// Repeated are segments that the client's kernel sent again: packets that were lost, or
	// whose answers took longer than 200 ms.
	Repeated int
}

// Lossless fails if a request failed or a connection broke.
func (s *Stood) Lossless() error {
	if s.Failed > 0 || s.Hold.Broken > 0 || s.Hold.NotOpened > 0 || s.Sent == 0 || s.Hold.Alive == 0 {
		return fmt.Errorf("%s (%v); %s (%v)", &s.Report, s.Errors, &s.Hold, s.Hold.Errors)
	}
	return nil
}

// StartStream begins, with so many new connections a second and so many that stay.
func (f *Field) StartStream(ctx context.Context, rate, hold int) (*Stream, error) {
	f.probes++
	s := &Stream{freshReport: f.Path(fmt.Sprintf("stream-%d.json", f.probes)), heldFile: f.Path(fmt.Sprintf("hold-%d.json", f.probes)), begun: time.Now(), client: f.Client}
	start := func(file string, args ...string) (*plane.Process, error) {
		return plane.StartProcess(ctx, plane.Program{
			Name: "prober", LogFile: file, Path: f.prober, Enter: f.Client.Enter,
			Args: append([]string{"-json", "-for", "20m", "-target", "http://" + OnPod.Addr().String() + "/"}, args...),
		})
	}
	var err error
	if s.repeated, err = repeated(f.Client); err != nil {
		return nil, err
	}
	if s.held, err = start(s.heldFile, "-hold", strconv.Itoa(hold)); err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	if s.fresh, err = start(s.freshReport, "-rate", strconv.Itoa(rate), "-timeout", "2s"); err != nil {
		return nil, errors.Join(err, s.held.Kill())
	}
	return s, harness.Pause(ctx, 500*time.Millisecond)
}

// Stop ends the stream.
func (s *Stream) Stop() (*Stood, error) {
	took := time.Since(s.begun)
	if err := errors.Join(s.fresh.Stop(), s.held.Stop()); err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	now, err := repeated(s.client)
	out := &Stood{Took: took, Repeated: now - s.repeated}
	return out, errors.Join(err, read(s.freshReport, &out.Report), read(s.heldFile, &out.Hold))
}

// repeated reads how many segments of TCP a host's kernel has sent again (RetransSegs of
// /proc/net/snmp, RFC 4022).
func repeated(h *rig.Host) (n int, err error) {
	var b []byte
	err = h.Do(func() error {
		b, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err //nolint:wrapcheck // wrapped below
	})
	if err != nil {
		return 0, fmt.Errorf("read the counters of TCP: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if i := slices.Index(names, "RetransSegs"); i > 0 && i < len(f) {
			return strconv.Atoi(f[i]) //nolint:wrapcheck // the kernel writes a number
		}
	}
	return 0, errors.New("read the counters of TCP: no RetransSegs")
}

func read(file string, into any) error {
	b, err := os.ReadFile(file) //nolint:gosec // the field's own file
	if err != nil {
		return fmt.Errorf("read the prober's report: %w", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read the prober's report: %w: %.200s", err, b)
	}
	return nil
}
