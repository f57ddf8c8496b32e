// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/faultproxy"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const (
	// settleTimeout bounds the work left when the load is over. The stock service
	// controller waits up to 300 s before it tries again what failed several times.
	settleTimeout = 6 * time.Minute
	// lookEvery is the pause between two audits: each lists everything.
	lookEvery = 400 * time.Millisecond
	// controllers that believe they lead.
	controllers = 2
)

// Config of a run.
type Config struct {
	// Root of the repository.
	Root string
	// Dir takes the control plane's files; it must exist and be empty.
	Dir string
	// Phases that run one after another on the same control plane; nil means
	// [AllPhases].
	Phases []Phase
	// Services that each phase creates, as a share of which AtOnce live at one time.
	Services, AtOnce int
	// Kinds of Services; nil means every kind.
	Kinds []string
	// Pace is the mean time between two steps of the load.
	Pace time.Duration
	// RetainFor is how long the pool that keeps addresses does; 0 means 15 s.
	RetainFor time.Duration
	Seed      uint64
	// Progress gets lines.
	Progress io.Writer
}

// Phase is one way to disturb, besides the proxies' faults.
type Phase struct {
	Name string
	// Share of Config.Services that this phase creates, in percent.
	Share int
	// Every is the pause before each disturbance; they take turns while the load runs.
	Every        time.Duration
	disturbances []func(context.Context, *plane.Plane) error
}

// AllPhases are injected faults alone, then with etcd restarted, then with the API
// server paused.
func AllPhases() []Phase {
	return []Phase{
		{Name: "faults", Share: 100},
		{Name: "etcd restarted", Share: 40, Every: 8 * time.Second, disturbances: []func(context.Context, *plane.Plane) error{restart}},
		{Name: "API server paused", Share: 40, Every: 8 * time.Second, disturbances: []func(context.Context, *plane.Plane) error{pause(4 * time.Second)}},
	}
}

// ShortPhases are the same within some 30 seconds.
func ShortPhases() []Phase {
	return []Phase{
		{Name: "faults", Share: 50},
		{
			Name: "API server paused, etcd restarted", Share: 50, Every: time.Second,
			disturbances: []func(context.Context, *plane.Plane) error{pause(time.Second), restart},
		},
	}
}

func restart(ctx context.Context, p *plane.Plane) error { return p.RestartEtcd(ctx, time.Second) }

func pause(d time.Duration) func(context.Context, *plane.Plane) error {
	return func(ctx context.Context, p *plane.Plane) error { return p.PauseAPIServer(ctx, d) }
}

// faults of each proxy.
func faults() faultproxy.Faults {
	return faultproxy.Faults{
		Delay: 0.10, MaxDelay: 400 * time.Millisecond,
		Conflict: 0.05, Timeout: 0.03, Drop: 0.05, Reset: 0.003,
		Stall: 0.05, MaxStall: time.Second,
	}
}

// PhaseReport is one phase's.
type PhaseReport struct {
	Name                                string
	Created, Changed, Deleted, Returned int
	// AtEnd is how many Services lived when the load ended.
	AtEnd        int
	Disturbances int
	Settled      time.Duration
	Emptied      time.Duration
	Elapsed      time.Duration
}

// Report of a run.
type Report struct {
	Seed   uint64
	Phases []PhaseReport
	ByKind map[string]int
	// Proxies in the order of the controllers.
	Proxies []faultproxy.Counts
	// Events that the checker replayed, and lists that it had to repeat.
	Events, Relists int
	// Verdict of the replay.
	Verdict Verdict
}

// run is the state of one run.
type run struct {
	c       Config
	p       *plane.Plane
	proxies []*faultproxy.Proxy
	witness *Witness
	dynamic dynamic.Interface
	load    *load
	rep     *Report
}

// Run starts a control plane and two controllers, runs all phases and checks. The error
// lists every fault found; the report is also returned with one.
func Run(ctx context.Context, c Config) (rep *Report, err error) {
	if c.Phases == nil {
		c.Phases = AllPhases()
	}
	if len(c.Kinds) == 0 {
		c.Kinds = Kinds()
	}
	if c.Services < 10 || c.AtOnce < 5 || c.Pace <= 0 {
		return nil, errors.New("ipam: needs at least 10 services, 5 at once and a pace")
	}
	p, err := plane.Start(ctx, plane.Options{Root: c.Root, Dir: c.Dir, Progress: c.Progress})
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err != nil {
		return nil, err
	}
	r := &run{c: c, p: p, rep: &Report{Seed: c.Seed}, load: newLoad(p.Client(), c.Seed, c.Kinds)}
	r.rep.ByKind = r.load.ByKind
	if r.witness, err = NewWitness(p.Config()); err != nil {
		return nil, err
	}
	if r.dynamic, err = dynamic.NewForConfig(p.Config()); err != nil {
		return nil, fmt.Errorf("ipam: %w", err)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	wg.Go(func() { r.witness.Run(background) })
	if err := r.prepare(ctx, background, &wg); err != nil {
		return r.rep, err
	}
	for i := range c.Phases {
		if err := r.phase(ctx, &c.Phases[i]); err != nil {
			return r.finish(fmt.Errorf("phase %q: %w", c.Phases[i].Name, err))
		}
	}
	return r.finish(nil)
}

// prepare starts the controllers behind their proxies and the scenario.
func (r *run) prepare(ctx, background context.Context, wg *sync.WaitGroup) error {
	if err := r.p.BuildController(ctx); err != nil {
		return err
	}
	objects := strings.ReplaceAll(scenario, "retainFor: 15s", "retainFor: "+cmp.Or(r.c.RetainFor, 15*time.Second).String())
	if _, err := r.p.Kubectl(ctx, objects, "apply", "-f", "-"); err != nil {
		return err
	}
	cert, key, authority := r.p.ServingPair()
	for i := range controllers {
		port, err := plane.FreePort(ctx)
		if err != nil {
			return err
		}
		proxy, err := faultproxy.New(ctx, faultproxy.Options{
			Target: r.p.Server(), Authority: authority, Cert: cert, Key: key, Listen: fmt.Sprintf("127.0.0.1:%d", port),
			Faults: faults(), Seed: r.c.Seed + uint64(i),
		})
		if err != nil {
			return err
		}
		r.proxies = append(r.proxies, proxy)
		wg.Go(func() {
			if err := proxy.Run(background); err != nil {
				r.say("proxy %d: %v", i+1, err)
			}
		})
		_, err = r.p.StartController(ctx, plane.ControllerOptions{
			Name: fmt.Sprintf("controller-%d", i+1), Server: proxy.URL(), Args: []string{"--leader-elect=false", "--v=2"},
		})
		if err != nil {
			return err
		}
	}
	// Both must work before the first fault: what cannot start is another test's matter.
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		return errors.Join(r.p.Err(), r.poolsReady(ctx))
	})
	return err
}

// poolsReady waits for what a controller says of a pool when it has begun to work.
func (r *run) poolsReady(ctx context.Context) error {
	_, err := r.p.Kubectl(ctx, "", "wait", "--for=condition=Ready", "--timeout=1s", "ipaddresspools.fairlead.dev", "--all")
	return err
}

func (r *run) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.c.Progress, format+"\n", args...)
}

func (r *run) inject(on bool) {
	for _, p := range r.proxies {
		p.SetActive(on)
	}
}

// phase runs the load under one disturbance, audits, empties and audits again.
func (r *run) phase(ctx context.Context, ph *Phase) (err error) {
	start, before := time.Now(), *r.load
	rep := PhaseReport{Name: ph.Name}
	defer func() {
		rep.Created, rep.Changed = r.load.Created-before.Created, r.load.Changed-before.Changed
		rep.Deleted, rep.Returned = r.load.Deleted-before.Deleted, r.load.Returned-before.Returned
		rep.Elapsed = time.Since(start)
		r.rep.Phases = append(r.rep.Phases, rep)
	}()
	r.inject(true)
	defer r.inject(false)
	if rep.Disturbances, err = r.disturbed(ctx, ph); err != nil {
		return err
	}
	rep.AtEnd = len(r.load.live)
	r.say("%s: %d services created, %d changed, %d deleted; %d live", ph.Name, r.load.Created, r.load.Changed, r.load.Deleted, rep.AtEnd)
	r.inject(false)
	if rep.Settled, err = r.settle(ctx); err != nil {
		return fmt.Errorf("with %d services: %w", rep.AtEnd, err)
	}
	r.say("%s: everything right %.1f s after the load", ph.Name, rep.Settled.Seconds())
	r.inject(true)
	if err := r.load.removeAll(ctx); err != nil {
		return err
	}
	r.inject(false)
	if rep.Emptied, err = r.settle(ctx); err != nil {
		return fmt.Errorf("with all services deleted: %w", err)
	}
	r.say("%s: everything gone %.1f s after the last deletion", ph.Name, rep.Emptied.Seconds())
	return nil
}

// disturbed runs the load and, beside it, the disturbance.
func (r *run) disturbed(ctx context.Context, ph *Phase) (int, error) {
	loading, done := context.WithCancel(ctx)
	defer done()
	var wg sync.WaitGroup
	var n int
	var derr error
	if len(ph.disturbances) > 0 {
		wg.Go(func() {
			for derr == nil && harness.Pause(loading, ph.Every) == nil {
				// What was begun is finished, or the server would stay away.
				if derr = ph.disturbances[n%len(ph.disturbances)](context.WithoutCancel(ctx), r.p); derr == nil {
					n++
				}
			}
		})
	}
	services := max(10, r.c.Services*ph.Share/100)
	err := r.load.run(ctx, services, min(r.c.AtOnce, services), r.c.Pace)
	done()
	wg.Wait()
	return n, errors.Join(err, derr, r.p.Err())
}

// settle waits until the audit finds nothing.
func (r *run) settle(ctx context.Context) (time.Duration, error) {
	said := time.Now()
	return harness.Eventually(ctx, settleTimeout, func(ctx context.Context) error {
		if err := r.p.Err(); err != nil {
			return err
		}
		world, err := look(ctx, r.dynamic, map[string]bool{namespaceA: true, namespaceB: true})
		if err != nil {
			return err
		}
		found := Audit(world)
		if len(r.load.live) != len(world.Services) {
			found = append(found, fmt.Sprintf("there are %d services, want %d", len(world.Services), len(r.load.live)))
		}
		if len(r.load.live) == 0 {
			for _, c := range world.Claims {
				found = append(found, c.String()+" though every service is gone")
			}
		}
		if len(found) == 0 {
			return nil
		}
		_ = harness.Pause(ctx, lookEvery)
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			r.say("  still %d faults, as: %s", len(found), found[0])
		}
		return fmt.Errorf("%d faults:\n%s", len(found), strings.Join(found[:min(len(found), 40)], "\n"))
	})
}

// replay checks every revision seen so far.
func (r *run) replay() error {
	events, relists, err := r.witness.Events()
	r.rep.Events, r.rep.Relists = len(events), relists
	r.rep.Verdict = Replay(events)
	if n := len(r.rep.Verdict.Faults); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d double allocations; the first:\n%s", n, strings.Join(r.rep.Verdict.Faults[:min(n, 5)], "\n")))
	}
	if n := r.rep.Verdict.Elsewhere; n > 0 {
		err = errors.Join(err, fmt.Errorf("%d services came back to another address than the one kept for them", n))
	}
	return err
}

// finish adds what is known in any case.
func (r *run) finish(err error) (*Report, error) {
	err = errors.Join(err, r.replay())
	for _, p := range r.proxies {
		r.rep.Proxies = append(r.rep.Proxies, p.Counts())
	}
	return r.rep, err
}

// TempDir makes a directory for [Config].Dir. Keep it after a failure: the logs of
// both controllers are in it.
func TempDir() (string, error) {
	dir, err := os.MkdirTemp("", "fairlead-ipam-")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	return dir, nil
}
