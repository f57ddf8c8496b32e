// SPDX-License-Identifier: Apache-2.0

package churn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// namespace and pool of everything that a run makes.
	namespace = "churn"
	pool      = "churn"
	// leaderTimeout bounds a change of leader: a lease of 15 s that the dead leader could
	// not give back, and the new one's start.
	leaderTimeout = 60 * time.Second
	// settleTimeout bounds the work that is left when the last kill is over. A claim whose
	// write was lost is collected after a minute.
	settleTimeout = 3 * time.Minute
	// maxDelay bounds the random wait between a leader's election and its end, so that the
	// kills hit its start, its reconciliation and its quiet time.
	maxDelay = 2500 * time.Millisecond
)

const scenario = `apiVersion: v1
kind: Namespace
metadata: {name: churn}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: churn}
spec:
  addresses: [172.20.252.1-172.20.252.250]
  serviceAllocation: {namespaces: [churn]}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: churn}
spec:
  ipAddressPools: [churn]
`

// Config of a run.
type Config struct {
	// Kills is how often the leader is killed.
	Kills int
	// Services is how many there are at most at one time, and at the end of the kills.
	Services int
	// Seed makes the load and the moments of the kills repeatable, as far as they depend
	// on this program.
	Seed uint64
	// Progress gets one line per kill.
	Progress io.Writer
}

// Report of a run.
type Report struct {
	Kills    int
	Created  int
	Deleted  int
	Settled  time.Duration
	Emptied  time.Duration
	Elapsed  time.Duration
	Audits   int
	Leaders  map[string]int
	Seed     uint64
	Services int
}

// run is the state of one run; its load goroutine and its killer never touch it at once.
type run struct {
	lab     *harness.Lab
	c       Config
	rng     *rand.Rand
	serial  int
	live    []string
	created int
	deleted int
	// killed is the identity of the last leader that was killed: its lease outlives it.
	killed string
}

// Run kills and audits. Any fault of the books is an error that lists all of them.
func Run(ctx context.Context, l *harness.Lab, c Config) (rep *Report, err error) {
	if c.Services > 250 || c.Services < 4 || c.Kills < 1 {
		return nil, errors.New("churn: needs at least one kill and 4 to 250 services")
	}
	if _, err := l.Apply(ctx, scenario); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	defer func() {
		_, derr := l.KubectlIn(context.WithoutCancel(ctx), scenario, "delete", "-f", "-", "--ignore-not-found", "--timeout=120s")
		err = errors.Join(err, derr)
	}()
	start := time.Now()
	r := &run{lab: l, c: c, rng: rand.New(rand.NewPCG(c.Seed, 1))} //nolint:gosec // chance, not secrecy
	rep = &Report{Leaders: map[string]int{}, Seed: c.Seed, Services: c.Services}
	defer func() { rep.Created, rep.Deleted, rep.Elapsed = r.created, r.deleted, time.Since(start) }()
	if err := r.create(ctx, c.Services/2); err != nil {
		return rep, err
	}
	for i := range c.Kills {
		node, err := r.round(ctx)
		if err != nil {
			return rep, fmt.Errorf("kill %d: %w", i+1, err)
		}
		rep.Kills++
		rep.Leaders[node]++
		rep.Audits++
		_, _ = fmt.Fprintf(c.Progress, "kill %2d of %d: leader on %-13s; %3d services, %3d created, %3d deleted so far\n",
			i+1, c.Kills, node, len(r.live), r.created, r.deleted)
	}
	if rep.Settled, rep.Emptied, err = r.finish(ctx); err != nil {
		return rep, err
	}
	rep.Audits += 2
	return rep, nil
}

// round is one kill: load goes on from before the kill until after it, so that both the
// leader that dies and the one that follows have work in hand.
func (r *run) round(ctx context.Context) (string, error) {
	var leader harness.Leadership
	if _, err := harness.Eventually(ctx, leaderTimeout, func(ctx context.Context) (err error) {
		leader, err = r.leading(ctx)
		return err
	}); err != nil {
		return "", err
	}
	delay := time.Duration(r.rng.Int64N(int64(maxDelay)))
	var wg sync.WaitGroup
	var loadErr error
	wg.Go(func() { loadErr = r.load(ctx) })
	err := harness.Pause(ctx, delay)
	node := leader.Node
	if err == nil {
		err = r.lab.KillProgram(ctx, node, harness.ControllerProgram)
		r.killed = leader.Identity
	}
	wg.Wait()
	if err = errors.Join(err, loadErr); err != nil {
		return node, err
	}
	if err := r.lab.ReplaceController(ctx, node); err != nil {
		return node, err
	}
	// More work while nobody leads: the next leader finds it at its start.
	if err := r.load(ctx); err != nil {
		return node, err
	}
	services, err := r.lab.Services(ctx, namespace)
	if err != nil {
		return node, err
	}
	if twice := HeldTwice(services); len(twice) > 0 {
		return node, errors.New(strings.Join(twice, "\n"))
	}
	return node, nil
}

// leading returns the leader if it is a process that lives and not the one killed last.
func (r *run) leading(ctx context.Context) (harness.Leadership, error) {
	leader, err := r.lab.Leader(ctx)
	if err != nil {
		return leader, err
	}
	if leader.Identity == r.killed {
		return leader, fmt.Errorf("the lease still names %s, which was killed", leader.Identity)
	}
	pids, err := r.lab.Processes(ctx, leader.Node, harness.ControllerProgram)
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("the lease names %s, where no controller runs", leader.Node)
	}
	return leader, err
}

// clusterIPs is how many Services the lab's service range has room for, with a reserve:
// one that is being deleted keeps its cluster address until a leader has released the other.
const clusterIPs = 245

// load deletes some Services at random and creates others.
func (r *run) load(ctx context.Context) error {
	batch := max(1, r.c.Services/20)
	if err := r.remove(ctx, r.rng.IntN(batch+1)); err != nil {
		return err
	}
	existing, err := r.lab.Services(ctx, namespace)
	if err != nil {
		return err
	}
	room := min(r.c.Services-len(r.live), clusterIPs-len(existing))
	return r.create(ctx, min(room, 1+r.rng.IntN(batch+1)))
}

// create makes n Services with names never used before.
func (r *run) create(ctx context.Context, n int) error {
	if n <= 0 {
		return nil
	}
	var manifest strings.Builder
	for range n {
		name := fmt.Sprintf("s%04d", r.serial)
		r.serial++
		r.live = append(r.live, name)
		_, _ = fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\n"+
			"spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: none}, ports: [{port: 80}]}\n---\n", name, namespace)
	}
	if _, err := r.lab.KubectlIn(ctx, manifest.String(), "create", "-f", "-"); err != nil {
		return fmt.Errorf("create %d services: %w", n, err)
	}
	r.created += n
	return nil
}

// remove deletes n Services chosen at random and does not wait for them to go.
func (r *run) remove(ctx context.Context, n int) error {
	n = min(n, len(r.live))
	if n == 0 {
		return nil
	}
	r.rng.Shuffle(len(r.live), func(i, j int) { r.live[i], r.live[j] = r.live[j], r.live[i] })
	gone := r.live[:n]
	r.live = append([]string(nil), r.live[n:]...)
	args := append([]string{"delete", "service", "-n", namespace, "--wait=false"}, gone...)
	if _, err := r.lab.Kubectl(ctx, args...); err != nil {
		return fmt.Errorf("delete %d services: %w", n, err)
	}
	r.deleted += n
	return nil
}

// finish fills up to the full count, audits, empties and audits again.
func (r *run) finish(ctx context.Context) (settled, emptied time.Duration, err error) {
	// Deletions first: what is still going away holds cluster addresses.
	if _, err := harness.Eventually(ctx, settleTimeout, func(ctx context.Context) error {
		existing, err := r.lab.Services(ctx, namespace)
		if err == nil && len(existing) != len(r.live) {
			err = fmt.Errorf("there are %d services, want %d", len(existing), len(r.live))
		}
		return err
	}); err != nil {
		return 0, 0, err
	}
	if err := r.create(ctx, r.c.Services-len(r.live)); err != nil {
		return 0, 0, err
	}
	if settled, err = harness.Eventually(ctx, settleTimeout, r.audit); err != nil {
		return settled, 0, fmt.Errorf("with %d services: %w", r.c.Services, err)
	}
	if err := r.remove(ctx, len(r.live)); err != nil {
		return settled, 0, err
	}
	if emptied, err = harness.Eventually(ctx, settleTimeout, r.audit); err != nil {
		return settled, emptied, fmt.Errorf("with all services deleted: %w", err)
	}
	return settled, emptied, nil
}

// audit reads everything and compares it, the pool's own counter included.
func (r *run) audit(ctx context.Context) error {
	services, err := r.lab.Services(ctx, namespace)
	if err != nil {
		return err
	}
	all, err := r.lab.Claims(ctx)
	if err != nil {
		return err
	}
	var claims []v1alpha1.IPClaim
	for i := range all {
		if all[i].Spec.Pool == pool {
			claims = append(claims, all[i])
		}
	}
	records, err := r.lab.Records(ctx, namespace)
	if err != nil {
		return err
	}
	faults := Audit(services, claims, records)
	if len(services) != len(r.live) {
		faults = append(faults, fmt.Sprintf("there are %d services, want %d", len(services), len(r.live)))
	}
	p, err := harness.Get[*v1alpha1.IPAddressPool](ctx, r.lab, "ipaddresspool.fairlead.dev", pool)
	if err != nil {
		return err
	}
	if p.Status.AssignedIPv4 != int64(len(r.live)) {
		faults = append(faults, fmt.Sprintf("the pool counts %d addresses in use, want %d", p.Status.AssignedIPv4, len(r.live)))
	}
	if len(faults) > 0 {
		return fmt.Errorf("%d faults:\n%s", len(faults), strings.Join(faults, "\n"))
	}
	return nil
}
