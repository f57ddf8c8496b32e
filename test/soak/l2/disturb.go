// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// holds is how many connections to the first Service are held open meanwhile.
const holds = 20

// Outcome is what one disturbance did.
type Outcome struct {
	// Name of the disturbance and Node that it hit.
	Name, Node string
	// Reports of the probers, one per family.
	Reports []*harness.Report
	// Plain is the same stream to the pod through a node port at the same time: what fails
	// there is the machine's doing. Nil where silence was measured without a witness.
	Plain *harness.Report
	// Held is about the connections to the first Service that were open before.
	Held *harness.HoldReport
	// Changes of owners, of all addresses of the field.
	Changes []Change
	// Began is when the disturbance began, as exactly as the lab can say.
	Began time.Time
	// Moved is how long it took until the last owner changed, zero without changes.
	Moved time.Duration
}

// Failed and Sent requests of all probers.
func (o *Outcome) Failed() (failed, sent int) {
	for _, r := range o.Reports {
		failed += r.Failed
		sent += r.Sent
	}
	return failed, sent
}

// Lost counts the failed requests that the machine does not explain: those beyond twice as
// many for each prober as failed to a plain pod meanwhile.
func (o *Outcome) Lost() int {
	failed, _ := o.Failed()
	if o.Plain != nil {
		failed -= 2 * len(o.Reports) * o.Plain.Failed
	}
	return max(0, failed)
}

// Stall is how long the machine stood still meanwhile, as far as its probers can tell: a
// request that was sent after its time, or a plain pod that was not heard for a while.
func (o *Outcome) Stall() time.Duration {
	ms := 0.0
	for _, r := range o.Reports {
		ms = max(ms, r.LatestStartMs)
	}
	if o.Plain != nil {
		ms = max(ms, o.Plain.LatestStartMs, o.Plain.LongestGapMs)
	}
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond)
}

// Reset counts the failed requests that a node ended which had not seen their beginning:
// those that were under way when the address moved.
func (o *Outcome) Reset() int {
	n := 0
	for _, r := range o.Reports {
		n += r.Errors["connection reset"]
	}
	return n
}

// Broken counts the connections that were open before and ended.
func (o *Outcome) Broken() int {
	if o.Held == nil {
		return holds
	}
	return o.Held.Broken + o.Held.NotOpened
}

// Blackout is the longest silence that began with the disturbance, in milliseconds, of
// the prober that suffered most. Where nothing failed it is the longest gap.
func (o *Outcome) Blackout() (float64, error) {
	worst := 0.0
	for _, r := range o.Reports {
		ms := r.LongestGapMs
		if r.Failed > 0 {
			var err error
			if ms, err = r.Blackout(o.Began); err != nil {
				return 0, err
			}
		}
		worst = max(worst, ms)
	}
	return worst, nil
}

// String is one line for people.
func (o *Outcome) String() string {
	failed, sent := o.Failed()
	gap := 0.0
	for _, r := range o.Reports {
		gap = max(gap, r.LongestGapMs)
	}
	plain := ""
	if o.Plain != nil {
		plain = fmt.Sprintf(" (to a plain pod %d of %d)", o.Plain.Failed, o.Plain.Sent)
	}
	return fmt.Sprintf("%s on %s: %d of %d requests failed%s, %d of %d open connections broke, longest gap %.0f ms, %d owner changes",
		o.Name, o.Node, failed, sent, plain, o.Broken(), holds, gap, len(o.Changes))
}

// Errors of the requests, for a person who wants to know why.
func (o *Outcome) Errors() string {
	var b strings.Builder
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) }
	for _, r := range o.Reports {
		for kind, n := range r.Errors {
			p(" %s: %d;", kind, n)
		}
		if r.Failed > 0 {
			p(" the first %.1f s after the beginning;", r.FirstFailure.Sub(o.Began).Seconds())
		}
	}
	if o.Held != nil {
		for kind, n := range o.Held.Errors {
			p(" open connections: %s: %d;", kind, n)
		}
	}
	return b.String()
}

// Load is what clients do meanwhile, on the first Service.
type Load struct {
	// Rate of new connections per second and family; zero is the pace that measures silence.
	Rate int
	// For how long; it must cover the disturbance.
	For time.Duration
	// Witness has a plain pod asked meanwhile also where silence is measured.
	Witness bool
	// Delay at random before the disturbance begins, so that it meets the detectors at
	// any point of their cycles.
	Delay time.Duration
}

// Disturb runs event under a load on the first Service, watches all owners, and waits for
// the load's end. The event returns when it began.
func (f *Field) Disturb(ctx context.Context, name, node string, load Load, event func(context.Context) (time.Time, error)) (*Outcome, error) {
	o := &Outcome{Name: name, Node: node}
	w := NewWatch(ctx, f.lab, f.Addresses)
	defer w.Stop()
	targets := []string{f.Addresses[0]}
	if len(f.Six) > 0 {
		targets = append(targets, f.Six[0])
	}
	var probes []*harness.Probe
	for _, a := range targets {
		p, err := f.start(ctx, harness.URL(a), load)
		if err != nil {
			return o, err
		}
		probes = append(probes, p)
	}
	var plain *harness.Probe
	if load.Rate > 0 || load.Witness {
		var err error
		if plain, err = f.start(ctx, f.PlainURL(), load); err != nil {
			return o, err
		}
	}
	held, err := f.lab.StartHold(ctx, client, harness.URL(f.Addresses[0]), holds, load.For)
	if err != nil {
		return o, err
	}
	if load.Delay > 0 {
		if err := harness.Pause(ctx, time.Duration(rand.Int64N(int64(load.Delay)))); err != nil { //nolint:gosec // chance, not secrecy
			return o, err
		}
	}
	began, eventErr := event(ctx)
	o.Began = began
	var errs []error
	for _, p := range probes {
		r, err := p.Wait(ctx)
		if err == nil {
			o.Reports = append(o.Reports, r)
		}
		errs = append(errs, err)
	}
	o.Held, err = held.Wait(ctx)
	errs = append(errs, err)
	if plain != nil {
		o.Plain, err = plain.Wait(ctx)
		errs = append(errs, err)
	}
	o.Changes = w.Stop()
	if n := len(o.Changes); n > 0 {
		o.Moved = o.Changes[n-1].At.Sub(began)
	}
	if err := errors.Join(append(errs, eventErr)...); err != nil {
		return o, fmt.Errorf("%s on %s: %w", name, node, err)
	}
	return o, nil
}

// Beside runs event while a plain pod is asked for a while, and nobody else: a witness of
// the machine for what is not seen by requests. The event's error is returned as it is.
func (f *Field) Beside(ctx context.Context, name, node string, length time.Duration, event func(context.Context) error) (*Outcome, error) {
	o := &Outcome{Name: name, Node: node, Began: time.Now(), Held: &harness.HoldReport{}}
	plain, err := f.lab.StartProbe(ctx, client, f.PlainURL(), length)
	if err != nil {
		return o, err
	}
	if err := event(ctx); err != nil {
		return o, err
	}
	o.Plain, err = plain.Wait(ctx)
	return o, err
}

// start a prober of new connections.
func (f *Field) start(ctx context.Context, url string, load Load) (*harness.Probe, error) {
	if load.Rate == 0 {
		return f.lab.StartProbe(ctx, client, url, load.For)
	}
	return f.lab.StartStream(ctx, client, url, load.Rate, load.For)
}

// PowerCut cuts the owner's power under a load, and boots it again.
func (f *Field) PowerCut(ctx context.Context, load Load) (o *Outcome, err error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.boot(ctx, owner)) }()
	return f.Disturb(ctx, "power cut", owner, load, func(ctx context.Context) (time.Time, error) { return f.lab.Kill(ctx, owner) })
}

// boot starts a node whose power was cut and waits for it.
func (f *Field) boot(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTimeout)
	defer cancel()
	return errors.Join(f.lab.Start(ctx, node), f.Whole(ctx))
}

// PowerCutWithoutAPI is [Field.PowerCut] while the API server is paused: the agents have
// nothing but each other. The owner's agent has the address before it may say so.
func (f *Field) PowerCutWithoutAPI(ctx context.Context, load Load) (o *Outcome, err error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.lab.Pause(ctx, "apiserver"); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, f.lab.Resume(context.WithoutCancel(ctx), "apiserver"), f.boot(ctx, owner))
	}()
	o, err = f.Disturb(ctx, "power cut without API server", owner, load, func(ctx context.Context) (time.Time, error) { return f.lab.Kill(ctx, owner) })
	if err == nil {
		_, err = f.lab.OneMAC(ctx, client, f.Addresses[0])
	}
	return o, err
}

// LinkDown pulls the owner's cable under a load, and plugs it in again. With restart its
// agent was just told to restart: the others must notice that the node itself is away.
func (f *Field) LinkDown(ctx context.Context, load Load, restart bool) (o *Outcome, err error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	name := "link down"
	if restart {
		name = "link down in a restart"
	}
	defer func() {
		err = errors.Join(err, f.lab.Link(context.WithoutCancel(ctx), owner, "up"), f.Whole(ctx))
	}()
	return f.Disturb(ctx, name, owner, load, func(ctx context.Context) (time.Time, error) {
		if restart {
			if err := f.stopAgent(ctx, owner); err != nil {
				return time.Now(), err
			}
		}
		began := time.Now()
		return began, f.lab.Link(ctx, owner, "down")
	})
}

// stopAgent ends a node's agent by SIGTERM and returns when it is gone, or another one is
// there.
func (f *Field) stopAgent(ctx context.Context, node string) error {
	before, err := f.lab.Processes(ctx, node, harness.AgentProgram)
	if err != nil {
		return err
	}
	if err := f.lab.SignalProgram(ctx, node, harness.AgentProgram, syscall.SIGTERM); err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		now, err := f.lab.Processes(ctx, node, harness.AgentProgram)
		if err == nil && slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) }) {
			err = fmt.Errorf("the agent of %s goes on", node)
		}
		return err
	})
	return err
}

// victim is the owner of the first address, which must not be the control plane.
func (f *Field) victim(ctx context.Context) (string, error) {
	owner, err := f.Owner(ctx)
	if err == nil && owner == harness.FairleadNodes()[0] {
		err = fmt.Errorf("%s announces %s: without it there is no API server", owner, f.Addresses[0])
	}
	return owner, err
}

// KillAgent kills the owner's agent by SIGKILL. The kubelet starts it again at once only
// the first time: a pod that is deleted afterwards starts anew without its back-off.
func (f *Field) KillAgent(ctx context.Context, load Load) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.Disturb(ctx, "agent killed", owner, load, func(ctx context.Context) (time.Time, error) {
		killed, err := f.lab.KillAgent(ctx, owner)
		if err == nil {
			err = f.Whole(ctx)
		}
		return killed, err
	})
}

// ReplaceAgent deletes the owner's agent pod: SIGTERM, and another pod.
func (f *Field) ReplaceAgent(ctx context.Context, load Load) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	pod, err := f.lab.AgentPod(ctx, owner)
	if err != nil {
		return nil, err
	}
	return f.Disturb(ctx, "agent pod deleted", owner, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if _, err := f.lab.Kubectl(ctx, "delete", "pod", "-n", harness.Namespace, pod, "--timeout=60s"); err != nil {
			return began, err
		}
		return began, f.Whole(ctx)
	})
}

// Rollout restarts the agents of all nodes, one after another, as an upgrade does.
func (f *Field) Rollout(ctx context.Context, load Load) (*Outcome, error) {
	const daemonset = "daemonset/fairlead-node-agent"
	return f.Disturb(ctx, "rolling update", "all nodes", load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if _, err := f.lab.Kubectl(ctx, "rollout", "restart", "-n", harness.Namespace, daemonset); err != nil {
			return began, err
		}
		if _, err := f.lab.Kubectl(ctx, "rollout", "status", "-n", harness.Namespace, daemonset, "--timeout=180s"); err != nil {
			return began, err
		}
		return began, f.Whole(ctx)
	})
}

// FreezeAgent stops the owner's agent for a while and lets it go on.
func (f *Field) FreezeAgent(ctx context.Context, load Load, length time.Duration) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.Disturb(ctx, "agent frozen "+length.String(), owner, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if err := f.lab.Pause(ctx, owner+"/agent"); err != nil {
			return began, err
		}
		perr := harness.Pause(ctx, length)
		return began, errors.Join(perr, f.lab.Resume(context.WithoutCancel(ctx), owner+"/agent"))
	})
}
