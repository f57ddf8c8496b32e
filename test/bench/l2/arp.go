// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// samples are the requests of one latency, one after another.
	samples     = 2000
	sampleGap   = time.Millisecond
	replyWait   = 500 * time.Millisecond
	floodTime   = 5 * time.Second
	window      = 256
	junkRate    = 50000
	junkTime    = 30 * time.Second
	junkSamples = 5000
)

// Latency of requests that were sent one after another.
type Latency struct {
	// Ms from the request to the arrival of the answer.
	Ms   Stat `json:"ms"`
	Lost int  `json:"lost"`
}

// Rate is how many answers came in a second while so many requests were always open.
type Rate struct {
	PerSecond float64 `json:"perSecond"`
	// AgentMicros is the agent's CPU time per answer in microseconds.
	AgentMicros float64 `json:"agentMicros"`
	// Dropped frames at the client, which was too slow then.
	Dropped int `json:"dropped"`
}

// Answers is what one agent with a number of addresses of a family does.
type Answers struct {
	VIPs   int    `json:"vips"`
	Family string `json:"family"`
	// Agent answers for addresses of Services, Kernel for the node's own, in the same run.
	Agent      Latency `json:"agent"`
	Kernel     Latency `json:"kernel"`
	AgentRate  Rate    `json:"agentRate"`
	KernelRate Rate    `json:"kernelRate"`
	MemoryMiB  float64 `json:"memoryMiB"`
}

// Junk is what one agent does under a flood of frames that are no business of its.
type Junk struct {
	VIPs      int     `json:"vips"`
	PerSecond float64 `json:"perSecond"`
	Agent     Latency `json:"agent"`
	Kernel    Latency `json:"kernel"`
	// Memory before and after, CPU share of a core of the agent meanwhile.
	BeforeMiB float64 `json:"beforeMiB"`
	AfterMiB  float64 `json:"afterMiB"`
	CPU       float64 `json:"cpu"`
}

// ARP is a result.
type ARP struct {
	Head
	Answers []Answers `json:"answers"`
	Junk    *Junk     `json:"junk"`
}

// MeasureARP asks one agent.
func MeasureARP(ctx context.Context, c Config, h Head) (*ARP, error) {
	res := &ARP{Head: h}
	err := onRig(ctx, &c, "arp", rig.Options{Nodes: 1, AgentArgs: []string{"--announce-interval=0"}}, func(r *rig.Rig) error {
		v, err := newVIPs(ctx, r)
		if err != nil {
			return err
		}
		for _, n := range c.sizes(1, 1000, 10000) {
			if err := v.grow(ctx, n); err != nil {
				return fmt.Errorf("%d addresses: %w", n, err)
			}
			for _, family := range []struct {
				name  string
				vips  []netip.Addr
				knows netip.Addr
			}{{"ARP", v.four, r.Nodes()[0].IPv4()}, {"NDP", v.six, r.Nodes()[0].IPv6()}} {
				a, err := measureAnswers(ctx, r, family.vips, family.knows)
				if err != nil {
					return fmt.Errorf("%s for %d addresses: %w", family.name, n, err)
				}
				a.Family = family.name
				res.Answers = append(res.Answers, *a)
				c.say("%s, %d VIPs: p50 %.3f p99 %.3f ms (kernel %.3f / %.3f), %.0f/s at %.1f us (kernel %.0f/s), lost %d", family.name, n,
					a.Agent.Ms.P50, a.Agent.Ms.P99, a.Kernel.Ms.P50, a.Kernel.Ms.P99, a.AgentRate.PerSecond, a.AgentRate.AgentMicros, a.KernelRate.PerSecond, a.Agent.Lost)
			}
		}
		res.Junk, err = measureJunk(ctx, r, v.four)
		return err
	})
	return res, err
}

func measureAnswers(ctx context.Context, r *rig.Rig, vips []netip.Addr, own netip.Addr) (*Answers, error) {
	a := &Answers{VIPs: len(vips)}
	var err error
	for _, step := range []func() error{
		func() error { a.Agent, err = latency(ctx, r.Client(), vips, samples); return err },
		func() error { a.Kernel, err = latency(ctx, r.Client(), []netip.Addr{own}, samples); return err },
		func() error { a.AgentRate, err = sustained(ctx, r, vips); return err },
		func() error { a.KernelRate, err = sustained(ctx, r, []netip.Addr{own}); return err },
		func() error { a.MemoryMiB, err = mebibytes(r.Nodes()[0].Agent()); return err },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// latency asks for random addresses, one after another.
func latency(ctx context.Context, c *rig.Client, vips []netip.Addr, n int) (l Latency, err error) {
	answers := make(chan rig.Frame, 64)
	defer c.Hear(func(f rig.Frame) {
		if f.Kind == rig.Answer {
			select {
			case answers <- f:
			default:
			}
		}
	})()
	var values []float64
	for range n {
		a := vips[rand.IntN(len(vips))] //nolint:gosec // chance, not secrecy
		start := time.Now()
		if err := c.Ask(a, rig.MAC{}); err != nil {
			return l, err
		}
		at, ok := waitAnswer(answers, a, replyWait)
		if !ok {
			l.Lost++
		} else {
			values = append(values, float64(at.Sub(start).Nanoseconds())/1e6)
		}
		if err := harness.Pause(ctx, sampleGap); err != nil {
			return l, err
		}
	}
	l.Ms = newStat(values)
	return l, nil
}

func waitAnswer(answers <-chan rig.Frame, a netip.Addr, patience time.Duration) (time.Time, bool) {
	t := time.NewTimer(patience)
	defer t.Stop()
	for {
		select {
		case f := <-answers:
			if f.Addr == a {
				return f.At, true
			}
		case <-t.C:
			return time.Time{}, false
		}
	}
}

// sustained keeps a number of requests open and counts the answers.
func sustained(ctx context.Context, r *rig.Rig, vips []netip.Addr) (rate Rate, err error) {
	var answered atomic.Int64
	want := make(map[netip.Addr]struct{}, len(vips))
	for _, a := range vips {
		want[a] = struct{}{}
	}
	defer r.Client().Hear(func(f rig.Frame) {
		if _, ok := want[f.Addr]; ok && f.Kind == rig.Answer {
			answered.Add(1)
		}
	})()
	if _, err := r.Client().Dropped(); err != nil {
		return rate, err
	}
	agent := r.Nodes()[0].Agent()
	before, err := agent.CPU()
	if err != nil {
		return rate, err
	}
	start := time.Now()
	sent, seen, moved := int64(0), int64(0), start
	for time.Since(start) < floodTime && ctx.Err() == nil {
		now := answered.Load()
		if now != seen {
			seen, moved = now, time.Now()
		}
		if sent-now >= window {
			if time.Since(moved) < replyWait {
				if err := harness.Pause(ctx, 50*time.Microsecond); err != nil {
					return rate, err
				}
				continue
			}
			sent = now // those are lost
		}
		if err := r.Client().Ask(vips[int(sent)%len(vips)], rig.MAC{}); err != nil {
			return rate, err
		}
		sent++
	}
	elapsed := time.Since(start).Seconds()
	after, err := agent.CPU()
	n := float64(answered.Load())
	rate.PerSecond, rate.AgentMicros = round(n/elapsed), round((after-before).Seconds()*1e6/max(1, n))
	var derr error
	rate.Dropped, derr = r.Client().Dropped()
	return rate, errors.Join(err, derr)
}

// measureJunk asks under a flood of frames.
func measureJunk(ctx context.Context, r *rig.Rig, vips []netip.Addr) (*Junk, error) {
	agent := r.Nodes()[0].Agent()
	j := &Junk{VIPs: len(vips)}
	var err error
	if j.BeforeMiB, err = mebibytes(agent); err != nil {
		return nil, err
	}
	cpu, err := agent.CPU()
	if err != nil {
		return nil, err
	}
	flooding, stop := context.WithTimeout(ctx, junkTime)
	defer stop()
	var wg sync.WaitGroup
	var sent int
	var ferr error
	start := time.Now()
	wg.Go(func() { sent, ferr = r.Client().Flood(flooding, junkRate, junkFrames(vips)) })
	j.Agent, err = latency(ctx, r.Client(), vips, junkSamples)
	if err == nil {
		j.Kernel, err = latency(ctx, r.Client(), []netip.Addr{r.Nodes()[0].IPv4()}, samples)
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	after, cerr := agent.CPU()
	if err := errors.Join(err, ferr, cerr); err != nil {
		return nil, err
	}
	j.PerSecond, j.CPU = round(float64(sent)/elapsed), round((after-cpu).Seconds()/elapsed)
	j.AfterMiB, err = mebibytes(agent)
	return j, err
}

// junkFrames are requests for other addresses, malformed packets, and claims of a foreign
// host to an address of a Service.
func junkFrames(vips []netip.Addr) [][]byte {
	frames := make([][]byte, 0, 1000)
	for i := range 1000 {
		b := make([]byte, 60)
		copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0xfa, 0xee, 0, 0, byte(i)})
		binary.BigEndian.PutUint16(b[12:], 0x0806)
		p := b[14:]
		copy(p, []byte{0, 1, 8, 0, 6, 4, 0, 1})
		copy(p[8:], b[6:12])
		copy(p[14:], []byte{10, 30, 200, byte(i)})
		binary.BigEndian.PutUint32(p[24:], 10<<24|30<<16|201<<8|uint32(i&0xff))
		switch {
		case i%10 == 9: // a stranger claims an address of a Service
			vip := vips[i%len(vips)].As4()
			copy(p[14:], vip[:])
			copy(p[24:], vip[:])
		case i%10 >= 5: // malformed: lengths, kinds, operations, ends
			for k := range 4 {
				p[rand.IntN(8)] = byte(i * (k + 1)) //nolint:gosec // any byte will do
			}
			b = b[:14+rand.IntN(47)] //nolint:gosec // chance, not secrecy
		}
		frames = append(frames, b)
	}
	return frames
}
