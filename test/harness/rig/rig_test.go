// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package rig_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const services = 6

// start starts a rig of three nodes with Services, and takes it down after the test. Every
// address has one owner.
func start(t *testing.T) (*rig.Rig, []netip.Addr, map[netip.Addr]string) {
	t.Helper()
	lab, err := harness.Open(harness.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := rig.Start(t.Context(), rig.Options{Root: lab.Root(), Dir: t.TempDir(), Nodes: 3, AgentArgs: []string{"--announce-interval=0"}, Progress: t.Output()})
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ApplyScenario(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.CreateServices(t.Context(), rig.ServiceOptions{To: services, DualStack: true}); err != nil {
		t.Fatal(err)
	}
	addrs := addresses(t, r)
	owners := oneEach(t, r, addrs)
	return r, addrs, owners
}

// TestRig goes through what a rig offers once, on three nodes: other tests and the
// benchmarks trust it.
func TestRig(t *testing.T) {
	r, addrs, owners := start(t)
	victim := node(t, r, owners[addrs[0]])
	powerCut(t, r, victim, owners)
	partition(t, r)
}

func addresses(t *testing.T, r *rig.Rig) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	_, err := harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		by, err := r.Addresses(ctx)
		if err != nil {
			return err
		}
		all = slices.Concat(slices.Collect(maps.Values(by))...)
		if len(all) != 2*services {
			return fmt.Errorf("%d addresses, want %d", len(all), 2*services)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// oneEach waits until exactly one node answers for every address, and returns which.
func oneEach(t *testing.T, r *rig.Rig, addrs []netip.Addr) map[netip.Addr]string {
	t.Helper()
	owners := map[netip.Addr]string{}
	_, err := harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		seen, err := r.Client().Scan(ctx, addrs)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if len(seen[a]) != 1 {
				return fmt.Errorf("%d answer for %s: %v", len(seen[a]), a, seen[a])
			}
			owners[a] = r.ByMAC(seen[a][0])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return owners
}

func node(t *testing.T, r *rig.Rig, name string) *rig.Node {
	t.Helper()
	for _, n := range r.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	t.Fatalf("no node is called %s", name)
	return nil
}

func powerCut(t *testing.T, r *rig.Rig, victim *rig.Node, owners map[netip.Addr]string) {
	t.Helper()
	var moved []netip.Addr
	for a, owner := range owners {
		if owner == victim.Name() {
			moved = append(moved, a)
		}
	}
	if err := r.Client().WaitQuiet(t.Context(), 3*time.Second); err != nil {
		t.Fatal(err)
	}
	count := r.Client().CountAnnouncements()
	cut, err := victim.PowerCut()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answers, err := r.Client().AskUntil(ctx, moved, 20*time.Millisecond, func(f rig.Frame) bool { return f.MAC != victim.MAC() })
	if err != nil || len(answers) != len(moved) {
		t.Fatalf("after the power cut of %s %d of %d addresses are answered: %v", victim.Name(), len(answers), len(moved), err)
	}
	for a, f := range answers {
		t.Logf("%s is answered by %s after %s", a, r.ByMAC(f.MAC), f.At.Sub(cut).Round(time.Millisecond))
		if f.At.Before(cut) {
			t.Errorf("%s was answered %s before the power cut", a, cut.Sub(f.At))
		}
	}
	for a := range count.Stop() {
		if !slices.Contains(moved, a) {
			t.Errorf("%s was announced, but it did not move", a)
		}
	}
	if err := victim.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitSettled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Client().Dropped(); err != nil || n > 0 {
		t.Errorf("%d frames dropped: %v", n, err)
	}
}

// partition cuts one node off from the others for long enough to be noticed.
func partition(t *testing.T, r *rig.Rig) {
	t.Helper()
	nodes := r.Nodes()
	before, err := r.Traffic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Partition(t.Context(), nodes[:1], nodes[1:]); err != nil {
		t.Fatal(err)
	}
	_, err = harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		text, err := nodes[0].Get(ctx, "/debug/state")
		if err == nil && !strings.Contains(text, "member "+nodes[1].Name()+" ") {
			return nil
		}
		return fmt.Errorf("the agent of %s still sees a node behind the partition (%w):\n%s", nodes[0].Name(), err, text)
	})
	if err != nil {
		t.Error(err)
	}
	if err := r.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitSettled(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := r.Traffic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if after[n.Name()].Gossip.Packets <= before[n.Name()].Gossip.Packets {
			t.Errorf("%s gossiped nothing: %+v", n.Name(), after[n.Name()])
		}
	}
}
