// SPDX-License-Identifier: Apache-2.0

// Package failover measures how long an address is silent when the node that announces
// it loses its power. It owns the measurement and its scenario: one Service whose pods
// run on a node that is never cut, a prober on a client, a cut at a random
// moment, the node started again before the next run. It judges nothing: limits belong to
// its callers, test/bench, test/soak and test/e2e.
package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// namespace of everything that the measurement makes.
const namespace = "failover"

// manifest has the pods on the control plane, so that a cut takes the announcing node away
// and nothing else: requests that fail after the take-over would be the cluster's view of
// its endpoints, not the address.
const manifest = `apiVersion: v1
kind: Namespace
metadata: {name: failover}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: failover}
spec:
  addresses: [172.20.253.10-172.20.253.19]
  serviceAllocation: {namespaces: [failover]}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: failover}
spec:
  ipAddressPools: [failover]
---
apiVersion: v1
kind: Pod
metadata: {name: web1, namespace: failover, labels: {app: failover}}
spec:
  nodeName: control-plane
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: traefik/whoami}]
---
apiVersion: v1
kind: Pod
metadata: {name: web2, namespace: failover, labels: {app: failover}}
spec:
  nodeName: control-plane
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: traefik/whoami}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: failover}
spec:
  type: LoadBalancer
  selector: {app: failover}
  ports: [{port: 80, targetPort: 80}]
`

// Config of a measurement.
type Config struct {
	// Runs is how many power cuts.
	Runs int
	// Probe is how long each run's prober runs; it must cover the take-over.
	Probe time.Duration
	// Profile of the agents; empty leaves it as it is.
	Profile string
	// Progress gets one line per run.
	Progress io.Writer
}

// Run is one power cut.
type Run struct {
	// From and To are the nodes that announced the address before and after.
	From string `json:"from"`
	To   string `json:"to"`
	// BlackoutMs is the longest time between two answers of the address around the cut.
	BlackoutMs float64 `json:"blackoutMs"`
	Sent       int     `json:"sent"`
	Failed     int     `json:"failed"`
	// MACs is how many hardware addresses answered for the address afterwards.
	MACs int `json:"macs"`
}

// Result of a measurement.
type Result struct {
	Profile  string  `json:"profile"`
	Runs     []Run   `json:"runs"`
	MedianMs float64 `json:"medianMs"`
	MinMs    float64 `json:"minMs"`
	MaxMs    float64 `json:"maxMs"`
}

// Measure cuts the owner's power c.Runs times. It leaves the scenario's objects removed
// and every node started. A run in which no other node took the address over is an error.
func Measure(ctx context.Context, l *harness.Lab, c Config) (res *Result, err error) {
	if err := setProfile(ctx, l, c.Profile); err != nil {
		return nil, err
	}
	if err := prepare(ctx, l); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	defer func() {
		_, derr := l.KubectlIn(context.WithoutCancel(ctx), manifest, "delete", "-f", "-", "--ignore-not-found", "--timeout=60s")
		err = errors.Join(err, derr)
	}()
	address, err := l.Address(ctx, namespace, "web")
	if err != nil {
		return nil, err
	}
	res = &Result{Profile: c.Profile}
	for i := range c.Runs {
		run, err := once(ctx, l, address, c.Probe)
		if err != nil {
			return res, fmt.Errorf("run %d: %w", i+1, err)
		}
		res.Runs = append(res.Runs, *run)
		_, _ = fmt.Fprintf(c.Progress, "run %2d of %d: %-8s cut, %-8s answers after %5.0f ms (%d of %d requests failed, %d MAC)\n",
			i+1, c.Runs, run.From, run.To, run.BlackoutMs, run.Failed, run.Sent, run.MACs)
	}
	res.summarize()
	return res, nil
}

// setProfile adds a profile to the agents' arguments, of which the last counts, and waits
// until all of them run with it.
func setProfile(ctx context.Context, l *harness.Lab, profile string) error {
	if profile == "" {
		return nil
	}
	patch := fmt.Sprintf(`[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--profile=%s"}]`, profile)
	if _, err := l.Kubectl(ctx, "-n", harness.Namespace, "patch", "daemonset", harness.AgentProgram, "--type=json", "-p", patch); err != nil {
		return fmt.Errorf("set the profile: %w", err)
	}
	_, err := l.Kubectl(ctx, "-n", harness.Namespace, "rollout", "status", "daemonset", harness.AgentProgram, "--timeout=5m")
	if err != nil {
		return fmt.Errorf("set the profile: %w", err)
	}
	nodes := len(harness.FairleadNodes())
	_, err = harness.Eventually(ctx, time.Minute, func(ctx context.Context) error { return l.AgentsReady(ctx, nodes) })
	return err
}

// prepare makes the scenario and waits until the address answers.
func prepare(ctx context.Context, l *harness.Lab) error {
	if _, err := l.Apply(ctx, manifest); err != nil {
		return err
	}
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		address, err := l.Address(ctx, namespace, "web")
		if err != nil {
			return err
		}
		body, err := l.Fetch(ctx, "mypc", "http://"+address+"/")
		if err == nil && !strings.HasPrefix(body, "Hostname: ") {
			err = fmt.Errorf("unexpected answer %q", body)
		}
		return err
	})
	return err
}

// once is one cut. The node is started again before it returns, also on failure.
func once(ctx context.Context, l *harness.Lab, address string, probeFor time.Duration) (run *Run, err error) {
	from, err := l.Owner(ctx, address)
	if err != nil {
		return nil, err
	}
	if from == harness.FairleadNodes()[0] {
		return nil, fmt.Errorf("%s announces %s: cutting its power would take the API server away", from, address)
	}
	probe, err := l.StartProbe(ctx, "mypc", "http://"+address+"/", probeFor)
	if err != nil {
		return nil, err
	}
	// A random moment, so that the cut meets the detectors at any point of their cycle.
	err = harness.Pause(ctx, time.Duration(rand.Int64N(int64(time.Second)))) //nolint:gosec // chance, not secrecy
	if err != nil {
		return nil, err
	}
	cut, err := l.Kill(ctx, from)
	defer func() {
		err = errors.Join(err, restart(ctx, l, from))
	}()
	if err != nil {
		return nil, err
	}
	report, err := probe.Wait(ctx)
	if err != nil {
		return nil, err
	}
	run = &Run{From: from, Sent: report.Sent, Failed: report.Failed}
	if run.BlackoutMs, err = report.Blackout(cut); err != nil {
		return run, err
	}
	_, err = harness.Eventually(ctx, 5*time.Second, func(ctx context.Context) error {
		run.To, err = l.Owner(ctx, address)
		if err == nil && run.To == from {
			err = fmt.Errorf("the claim still names %s", from)
		}
		return err
	})
	if err != nil {
		return run, err
	}
	macs, _, err := l.ARP(ctx, "mypc", address)
	run.MACs = len(macs)
	return run, err
}

// restart boots the node and waits for its agent to be back among the others.
func restart(ctx context.Context, l *harness.Lab, node string) error {
	if err := l.Start(ctx, node); err != nil {
		return err
	}
	nodes := len(harness.FairleadNodes())
	_, err := harness.Eventually(ctx, 90*time.Second, func(ctx context.Context) error {
		return errors.Join(l.NodesReady(ctx, nodes), l.AgentsReady(ctx, nodes))
	})
	return err
}

// summarize fills in median, minimum and maximum.
func (r *Result) summarize() {
	if len(r.Runs) == 0 {
		return
	}
	ms := make([]float64, 0, len(r.Runs))
	for _, run := range r.Runs {
		ms = append(ms, run.BlackoutMs)
	}
	slices.Sort(ms)
	r.MinMs, r.MaxMs = ms[0], ms[len(ms)-1]
	r.MedianMs = (ms[(len(ms)-1)/2] + ms[len(ms)/2]) / 2
}
