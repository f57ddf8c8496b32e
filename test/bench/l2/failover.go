// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// takeoverTimeout is when an address that nobody answers for counts as lost.
	takeoverTimeout = 30 * time.Second
	// quiet is longer than the distance of two announcements of one take-over.
	quiet = 1500 * time.Millisecond
	// bystanders are addresses on nodes that nobody cuts: nobody may announce them again.
	bystanders = 20
)

// bystanderScenario keeps the addresses of one pool off the first node.
const bystanderScenario = `apiVersion: v1
kind: Namespace
metadata: {name: bystander}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: bystander}
spec: {addresses: [10.30.128.0/24], serviceAllocation: {namespaces: [bystander]}}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: bystander}
spec:
  ipAddressPools: [bystander]
  nodeSelectors: [{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [n001]}]}]
---
`

// Cut is one death of a node.
type Cut struct {
	// FirstMs, MedianMs, LastMs after the cut until the node's addresses were answered by
	// another, by address; the announcements of the new owners likewise.
	FirstMs  float64 `json:"firstMs"`
	MedianMs float64 `json:"medianMs"`
	LastMs   float64 `json:"lastMs"`
	// AnnouncedMs is when the last address was first announced by its new owner.
	AnnouncedMs float64 `json:"announcedMs"`
	// Frames announced the addresses that moved, Others those that did not.
	Frames int `json:"frames"`
	Others int `json:"others"`
	// Doubles are addresses that two nodes answered for afterwards.
	Doubles int `json:"doubles"`
	// Spread is how many addresses each new owner got.
	Spread map[string]int `json:"spread"`
}

// FailoverCase is one kind of death with one number of addresses.
type FailoverCase struct {
	Profile string `json:"profile"`
	Kind    string `json:"kind"`
	VIPs    int    `json:"vips"`
	Cuts    []Cut  `json:"cuts"`
}

// Failover is a result.
type Failover struct {
	Head
	Cases []FailoverCase `json:"cases"`
}

// Kinds of death.
const (
	powerCut = "power cut"
	linkDown = "link down"
)

// MeasureFailover cuts one of three nodes off again and again, on a rig for each profile.
// The rigs run side by side: they mostly wait.
func MeasureFailover(ctx context.Context, c Config, h Head) (*Failover, error) {
	res := &Failover{Head: h}
	cases, errs := make([][]FailoverCase, len(c.Profiles)), make([]error, len(c.Profiles))
	var wg sync.WaitGroup
	for i, profile := range c.Profiles {
		// Told again every minute would be counted among the frames of a take-over.
		args := append([]string{"--announce-interval=0"}, profileArgs(profile)...)
		wg.Go(func() {
			errs[i] = onRig(ctx, &c, "failover-"+profile, rig.Options{Nodes: 3, AgentArgs: args}, func(r *rig.Rig) (err error) {
				cases[i], err = failoverCases(ctx, &c, r, profile)
				return err
			})
		})
	}
	wg.Wait()
	res.Cases = slices.Concat(cases...)
	return res, errors.Join(errs...)
}

func failoverCases(ctx context.Context, c *Config, r *rig.Rig, profile string) ([]FailoverCase, error) {
	var out []FailoverCase
	have := 0
	for _, n := range c.sizes(1, 100, 1000) {
		if n > 1 {
			if err := applyBystanders(ctx, r); err != nil {
				return out, err
			}
		}
		if err := r.CreateServices(ctx, rig.ServiceOptions{From: have, To: n}); err != nil {
			return out, err
		}
		have = n
		addrs, err := waitAddresses(ctx, r, n)
		if err != nil {
			return out, err
		}
		runs := c.Runs
		switch {
		case n > 100:
			runs = max(1, runs/10)
		case n > 1:
			runs = max(1, runs/6)
		}
		for _, kind := range []string{powerCut, linkDown} {
			fc := FailoverCase{Profile: profile, Kind: kind, VIPs: n}
			for i := range runs {
				cut, err := cutOnce(ctx, r, kind, addrs)
				if err != nil {
					return append(out, fc), fmt.Errorf("%s with %d addresses, run %d: %w", kind, n, i+1, err)
				}
				fc.Cuts = append(fc.Cuts, *cut)
				c.say("%s, %s, %d VIPs, run %d of %d: answered after %.0f / %.0f / %.0f ms, %d frames (%d others), %v",
					profile, kind, n, i+1, runs, cut.FirstMs, cut.MedianMs, cut.LastMs, cut.Frames, cut.Others, cut.Spread)
			}
			out = append(out, fc)
		}
	}
	return out, nil
}

func applyBystanders(ctx context.Context, r *rig.Rig) error {
	var manifest strings.Builder
	manifest.WriteString(bystanderScenario)
	for i := range bystanders {
		_, _ = fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Service\nmetadata: {name: b%d, namespace: bystander}\n"+
			"spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: none}, ports: [{port: 80}]}\n---\n", i)
	}
	_, err := r.Plane().Kubectl(ctx, manifest.String(), "apply", "-f", "-")
	return err
}

// waitAddresses waits until n Services have addresses and returns these, sorted.
func waitAddresses(ctx context.Context, r *rig.Rig, n int) (addrs []netip.Addr, err error) {
	_, err = harness.Eventually(ctx, 10*time.Minute, func(ctx context.Context) error {
		by, err := r.Addresses(ctx)
		if err != nil {
			return err
		}
		if len(by) != n {
			return fmt.Errorf("%d of %d services have an address", len(by), n)
		}
		addrs = sortedAddrs(slices.Concat(slices.Collect(maps.Values(by))...))
		return nil
	})
	return addrs, err
}

// choose returns the owner of a single address, or the first node with all addresses
// gathered there.
func choose(ctx context.Context, r *rig.Rig, addrs []netip.Addr) (*rig.Node, error) {
	victim := r.Nodes()[0]
	if len(addrs) > 1 {
		if err := gather(ctx, r, victim, addrs); err != nil {
			return nil, fmt.Errorf("gather the addresses: %w", err)
		}
		return victim, nil
	}
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		seen, err := r.Client().Scan(ctx, addrs)
		if err != nil {
			return err
		}
		for _, n := range r.Nodes() {
			if slices.Equal(seen[addrs[0]], []rig.MAC{n.MAC()}) {
				victim = n
				return nil
			}
		}
		return fmt.Errorf("%s is answered by %v", addrs[0], seen[addrs[0]])
	})
	return victim, errors.Join(err, r.Client().WaitQuiet(ctx, quiet))
}

// cutOnce lets the node die that has the addresses.
func cutOnce(ctx context.Context, r *rig.Rig, kind string, addrs []netip.Addr) (*Cut, error) {
	victim, err := choose(ctx, r, addrs)
	if err != nil {
		return nil, err
	}
	if _, err := r.Client().Dropped(); err != nil {
		return nil, err
	}
	// A random moment, so that the cut meets the detectors at any point of their cycle.
	if err := harness.Pause(ctx, time.Duration(rand.Int64N(int64(time.Second)))); err != nil { //nolint:gosec // chance, not secrecy
		return nil, err
	}
	count := r.Client().CountAnnouncements()
	die, revive := victim.PowerCut, victim.PowerOn
	if kind == linkDown {
		die, revive = victim.LinkDown, func(context.Context) error { return victim.LinkUp() }
	}
	at, err := die()
	if err != nil {
		return nil, err
	}
	asking, stop := context.WithTimeout(ctx, takeoverTimeout)
	defer stop()
	answers, err := r.Client().AskUntil(asking, addrs, askInterval(len(addrs)), func(f rig.Frame) bool { return f.MAC != victim.MAC() })
	if err == nil && len(answers) < len(addrs) {
		err = fmt.Errorf("%d of %d addresses are answered %s after the cut", len(answers), len(addrs), takeoverTimeout)
	}
	if err := errors.Join(err, r.Client().WaitQuiet(ctx, quiet)); err != nil {
		return nil, err
	}
	cut := newCut(r, at, answers, count.Stop())
	if n, err := r.Client().Dropped(); err != nil || n > 0 {
		return nil, errors.Join(err, fmt.Errorf("the client dropped %d frames", n))
	}
	if err := errors.Join(revive(ctx), r.WaitSettled(ctx)); err != nil {
		return nil, err
	}
	seen, err := r.Client().Scan(ctx, addrs)
	for _, macs := range seen {
		if len(macs) > 1 {
			cut.Doubles++
		}
	}
	return cut, err
}

// askInterval keeps the requests below ten thousand a second.
func askInterval(n int) time.Duration {
	return max(10*time.Millisecond, time.Duration(n)*100*time.Microsecond)
}

func newCut(r *rig.Rig, at time.Time, answers map[netip.Addr]rig.Frame, told map[netip.Addr]map[rig.MAC]rig.Announced) *Cut {
	cut := &Cut{Spread: map[string]int{}}
	var after []float64
	for _, f := range answers {
		after = append(after, ms(f.At.Sub(at)))
		cut.Spread[r.ByMAC(f.MAC)]++
	}
	s := newStat(after)
	cut.FirstMs, cut.MedianMs, cut.LastMs = s.Min, s.P50, s.Max
	for addr, by := range told {
		f, moved := answers[addr]
		for mac, n := range by {
			if !moved {
				cut.Others += n.Count
				continue
			}
			cut.Frames += n.Count
			if mac == f.MAC {
				cut.AnnouncedMs = max(cut.AnnouncedMs, ms(n.First.Sub(at)))
			}
		}
	}
	return cut
}

// excludeLabel takes a node out of the choice.
const excludeLabel = harness.ExcludeLabel

// gather makes one node announce all addresses: the others are excluded for a while, and
// when they are back nothing moves by itself.
func gather(ctx context.Context, r *rig.Rig, to *rig.Node, addrs []netip.Addr) error {
	for _, n := range r.Nodes() {
		if err := label(ctx, r, n, n != to); err != nil {
			return err
		}
	}
	_, err := harness.Eventually(ctx, 5*time.Minute, func(ctx context.Context) error { return allOn(ctx, r, to, addrs) })
	if err != nil {
		return err
	}
	for _, n := range r.Nodes() {
		if err := label(ctx, r, n, false); err != nil {
			return err
		}
	}
	// The controller proposes successors again, and what was announced so far is over.
	_, err = harness.Eventually(ctx, 5*time.Minute, func(ctx context.Context) error { return haveSuccessors(ctx, r, len(r.Nodes())) })
	return errors.Join(err, r.WaitSettled(ctx), r.Client().WaitQuiet(ctx, quiet))
}

func label(ctx context.Context, r *rig.Rig, n *rig.Node, excluded bool) error {
	value := "null"
	if excluded {
		value = `""`
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, excludeLabel, value)
	_, err := r.Kube().CoreV1().Nodes().Patch(ctx, n.Name(), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("label %s: %w", n.Name(), err)
	}
	return nil
}

func allOn(ctx context.Context, r *rig.Rig, to *rig.Node, addrs []netip.Addr) error {
	seen, err := r.Client().Scan(ctx, addrs)
	if err != nil {
		return err
	}
	owners, err := r.Owners(ctx)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if m := seen[a]; len(m) != 1 || m[0] != to.MAC() || owners[a].Node != to.Name() {
			return fmt.Errorf("%s is answered by %v, its claim names %q; want %s", a, m, owners[a].Node, to.Name())
		}
	}
	return nil
}

// haveSuccessors wants so many nodes proposed for every address of the rig.
func haveSuccessors(ctx context.Context, r *rig.Rig, n int) error {
	list, err := r.API().Claims().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	for i := range list.Items {
		if c := &list.Items[i]; c.Spec.Pool == rig.Namespace && len(c.Spec.Successors) < n {
			return fmt.Errorf("claim %s has the successors %v, want %d", c.Name, c.Spec.Successors, n)
		}
	}
	return nil
}
