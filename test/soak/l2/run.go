// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// Parts of a run, in their order.
func Parts() []string {
	return []string{"loss", "restart", "away", "move", "starve", "partition"}
}

// Config of a run.
type Config struct {
	// Losses is how many power cuts there are, and as many pulled cables. A third as many
	// agents are killed and replaced, a tenth as often all of them are.
	Losses int
	// APIPause is how long the API server is away.
	APIPause time.Duration
	// Rate of new connections a second that restarts and moves must not disturb; fewer, if
	// the machine does not carry as many to a plain pod.
	Rate int
	// Parts that are run; empty means all.
	Parts []string
	// Progress gets one line per disturbance.
	Progress io.Writer
}

// Report of a run.
type Report struct {
	// Rate is the one used, Plain what the prober saw of a plain pod at that rate.
	Rate  int
	Plain *harness.Report
	// Outcomes by part, in their order.
	Outcomes map[string][]*Outcome
	Splits   []*Split
	// Problems are disturbances that could not be measured, and addresses that had not one
	// answer afterwards.
	Problems []string
	// MoveServices is how many Services there were while nodes were emptied.
	MoveServices int
	Elapsed      time.Duration
}

// counts of repetitions that are not worth a flag.
const (
	moveServices = 100
	starveTime   = time.Minute
	loopsPerCore = 16
	frozenTime   = 10 * time.Second
	awayTime     = time.Minute
)

// run is the state of one run.
type run struct {
	c   Config
	lab *harness.Lab
	f   *Field
	rep *Report
}

// Run disturbs the cluster and reports. An error is a disturbance that could not be made
// or measured, or a cluster that did not recover; what the figures are worth is the
// caller's judgement.
func Run(ctx context.Context, lab *harness.Lab, c Config) (rep *Report, err error) {
	if len(c.Parts) == 0 {
		c.Parts = Parts()
	}
	start := time.Now()
	rep = &Report{Outcomes: map[string][]*Outcome{}}
	defer func() { rep.Elapsed = time.Since(start) }()
	f, err := Prepare(ctx, lab, 3, true)
	if f != nil {
		defer func() { err = errors.Join(err, f.Close(ctx)) }()
	}
	if err != nil {
		return rep, err
	}
	r := &run{c: c, lab: lab, f: f, rep: rep}
	if err := r.plain(ctx); err != nil {
		return rep, err
	}
	all := map[string]func(context.Context) error{
		"loss": r.loss, "restart": r.restart, "away": r.away, "move": r.move, "starve": r.starve, "partition": r.partition,
	}
	for _, part := range Parts() {
		if !slices.Contains(c.Parts, part) {
			continue
		}
		if err := all[part](ctx); err != nil {
			return rep, fmt.Errorf("%s: %w", part, err)
		}
	}
	return rep, nil
}

// plain finds the rate that this machine carries to a pod through a node port, without
// any load balancer: half as many as long as requests fail.
func (r *run) plain(ctx context.Context) error {
	for rate := r.c.Rate; rate >= 50; rate /= 2 {
		p, err := r.lab.StartStream(ctx, client, r.f.PlainURL(), rate, 10*time.Second)
		if err != nil {
			return err
		}
		if r.rep.Plain, err = p.Wait(ctx); err != nil {
			return err
		}
		r.say("plain pod at %d/s: %s", rate, r.rep.Plain)
		if r.rep.Plain.Failed == 0 {
			r.rep.Rate = rate
			return nil
		}
	}
	return errors.New("this machine does not carry 50 connections a second to a pod")
}

func (r *run) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.c.Progress, format+"\n", args...)
}

// do makes one disturbance and checks that the cluster is well afterwards. What goes wrong
// is noted; only a cluster that does not become whole again ends the run.
func (r *run) do(ctx context.Context, part string, disturb func() (*Outcome, error)) error {
	o, err := disturb()
	if err == nil {
		r.rep.Outcomes[part] = append(r.rep.Outcomes[part], o)
		r.say("%s", o)
	}
	return r.after(ctx, part, err)
}

// after a disturbance: notes its error, and whether each address has one answer again.
func (r *run) after(ctx context.Context, part string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if werr := r.f.Whole(ctx); werr != nil {
		return errors.Join(err, werr)
	}
	if err = errors.Join(err, r.f.OneAnswer(ctx, 10*time.Second)); err != nil {
		r.rep.Problems = append(r.rep.Problems, part+": "+err.Error())
		r.say("%s: %v", part, err)
	}
	return nil
}

// load at the rate of the run, half of it by each family.
func (r *run) load(length time.Duration) Load { return Load{Rate: r.rep.Rate / 2, For: length} }

// loss takes nodes away without a word.
func (r *run) loss(ctx context.Context) error {
	load := Load{For: 6 * time.Second, Delay: time.Second}
	for range r.c.Losses {
		if err := r.do(ctx, "loss", func() (*Outcome, error) { return r.f.PowerCut(ctx, load) }); err != nil {
			return err
		}
	}
	for range r.c.Losses {
		if err := r.do(ctx, "loss", func() (*Outcome, error) { return r.f.LinkDown(ctx, load, false) }); err != nil {
			return err
		}
	}
	return r.do(ctx, "loss", func() (*Outcome, error) { return r.f.LinkDown(ctx, load, true) })
}

// restart ends agents in every way, without taking anything away.
func (r *run) restart(ctx context.Context) error {
	for range r.c.Losses/3 + 1 {
		// A new pod has no back-off from the last crash or boot: a kubelet that waits for longer
		// than the others do would cost the address its owner.
		if err := r.do(ctx, "restart", func() (*Outcome, error) { return r.f.ReplaceAgent(ctx, r.load(12*time.Second)) }); err != nil {
			return err
		}
		if err := r.do(ctx, "restart", func() (*Outcome, error) { return r.f.KillAgent(ctx, r.load(10*time.Second)) }); err != nil {
			return err
		}
	}
	for range r.c.Losses/10 + 1 {
		if err := r.do(ctx, "restart", func() (*Outcome, error) { return r.f.Rollout(ctx, r.load(45*time.Second)) }); err != nil {
			return err
		}
	}
	return nil
}

// away takes the controller, then the API server.
func (r *run) away(ctx context.Context) error {
	const reserve = 20 * time.Second
	if err := r.do(ctx, "away", func() (*Outcome, error) {
		return r.f.ControllerAway(ctx, r.load(awayTime+reserve), awayTime)
	}); err != nil {
		return err
	}
	if err := r.do(ctx, "away", func() (*Outcome, error) {
		return r.f.APIServerAway(ctx, r.load(20*time.Second), 20*time.Second, true)
	}); err != nil {
		return err
	}
	return r.do(ctx, "away", func() (*Outcome, error) {
		return r.f.APIServerAway(ctx, r.load(r.c.APIPause+reserve), r.c.APIPause, false)
	})
}

// move empties each node, first by cordon, then by drain.
func (r *run) move(ctx context.Context) error {
	if err := r.f.grow(ctx, moveServices, true); err != nil {
		return err
	}
	r.rep.MoveServices = moveServices
	for _, node := range harness.Workers() {
		for _, evacuate := range []func(context.Context, Load) (*Outcome, error){r.f.Cordon, r.f.Drain} {
			if err := r.f.populate(ctx, node); err != nil {
				return err
			}
			if err := r.do(ctx, "move", func() (*Outcome, error) { return evacuate(ctx, r.load(15*time.Second)) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// starve takes the processor from an agent whose node announces addresses.
func (r *run) starve(ctx context.Context) error {
	loops := loopsPerCore * runtime.NumCPU()
	for _, disturb := range []func() (*Outcome, error){
		func() (*Outcome, error) {
			return r.f.Starve(ctx, Load{Rate: r.rep.Rate / 8, For: starveTime + 5*time.Second}, loops, starveTime)
		},
		func() (*Outcome, error) {
			return r.f.Throttle(ctx, r.load(starveTime+5*time.Second), "50m", starveTime)
		},
		func() (*Outcome, error) {
			return r.f.FreezeAgent(ctx, r.load(frozenTime+5*time.Second), frozenTime)
		},
	} {
		if err := r.do(ctx, "starve", disturb); err != nil {
			return err
		}
	}
	return nil
}

// partition cuts one node, then two, off from the API server, the others, and both.
func (r *run) partition(ctx context.Context) error {
	for _, from := range []string{FromAPI, FromPeers, FromAll} {
		for n := 1; n <= 2; n++ {
			nodes, err := r.f.holders(ctx, n)
			if err != nil {
				return err
			}
			s, err := r.f.Partition(ctx, from, nodes...)
			if err == nil {
				r.rep.Splits = append(r.rep.Splits, s)
				r.say("%s cut off from %s: %d answered on both sides, %d by nobody, faults %v, healed within %s", strings.Join(nodes, ", "), from,
					s.Doubled, s.Silent, s.Faults, s.Healed)
			}
			if err := r.after(ctx, "partition", err); err != nil {
				return err
			}
		}
	}
	return nil
}
