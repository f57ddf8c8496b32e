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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// longestGap is what a restart may cost, more than the addresses of other nodes see at the
// same time: those show how busy the machine is.
const longestGap = 400 * time.Millisecond

// others is the longest gap of addresses that are not a node's.
func others(seen map[netip.Addr]rig.Seen, owners map[netip.Addr]string, n *rig.Node) time.Duration {
	var longest time.Duration
	for a, s := range seen {
		if owners[a] != n.Name() {
			longest = max(longest, s.LongestGap)
		}
	}
	return longest
}

// TestRestarts stops every agent the ways that it can be stopped. The kernels are real.
func TestRestarts(t *testing.T) {
	r, addrs, owners := start(t)
	for _, n := range r.Nodes() {
		restart(t, r, n, addrs, owners)
	}
	if now := oneEach(t, r, addrs); !maps.Equal(now, owners) {
		t.Errorf("owners were %v, are %v", owners, now)
	}
	victim := node(t, r, owners[addrs[0]])
	killAndStart(t, r, victim, addrs, owners)
	if err := r.Kube().AppsV1().DaemonSets(harness.Namespace).Delete(t.Context(), "fairlead-node-agent", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	leave(t, r, victim, addrs, owners)
}

// restart stops an agent and starts it two seconds later: its node answers all the time.
func restart(t *testing.T, r *rig.Rig, n *rig.Node, addrs []netip.Addr, owners map[netip.Addr]string) {
	t.Helper()
	watch := r.Client().Watch(t.Context(), addrs, 50*time.Millisecond)
	begin := time.Now()
	if err := n.Terminate(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	away, err := n.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	wait(t, 2*time.Second)
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitSettled(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, time.Second)
	seen, err := watch.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s stopped in %s and left %d addresses to the kernel", n.Name(), took.Round(time.Millisecond), len(away))
	if len(away) == 0 {
		t.Errorf("the kernel of %s kept nothing", n.Name())
	}
	limit := others(seen, owners, n) + longestGap
	for a, s := range seen {
		if len(s.Owners) != 1 || s.LongestGap > limit {
			t.Errorf("%s during the restart of %s: longest gap %s, answered by %v", a, n.Name(), s.LongestGap, s.Owners)
		}
	}
	nothingLeft(t, n)
}

func nothingLeft(t *testing.T, n *rig.Node) {
	t.Helper()
	if left, err := n.Addresses(); err != nil || len(left) > 0 {
		t.Errorf("the kernel of %s still has %v (%v)", n.Name(), left, err)
	}
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

// killAndStart kills an agent: nobody takes over what it had, and it has it again.
func killAndStart(t *testing.T, r *rig.Rig, n *rig.Node, addrs []netip.Addr, owners map[netip.Addr]string) {
	t.Helper()
	watch := r.Client().Watch(t.Context(), addrs, 50*time.Millisecond)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		log, err := n.Get(ctx, "/debug/state")
		if err == nil && !strings.Contains(log, "ready true") {
			err = fmt.Errorf("the agent is not ready: %s", log)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WaitSettled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := oneEach(t, r, addrs); !maps.Equal(now, owners) {
		t.Errorf("owners were %v, are %v", owners, now)
	}
	seen, err := watch.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for a, s := range seen {
		t.Logf("%s of %s: longest gap %s", a, owners[a], s.LongestGap)
		if len(s.Owners) != 1 {
			t.Errorf("%s was answered by %v", a, s.Owners)
		}
	}
}

// leave stops an agent whose DaemonSet is gone: others take over without a gap, and its
// node answers for nothing.
func leave(t *testing.T, r *rig.Rig, n *rig.Node, addrs []netip.Addr, owners map[netip.Addr]string) {
	t.Helper()
	watch := r.Client().Watch(t.Context(), addrs, 50*time.Millisecond)
	if err := n.Terminate(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, n)
	wait(t, time.Second)
	seen, err := watch.Stop()
	if err != nil {
		t.Fatal(err)
	}
	limit := others(seen, owners, n) + longestGap
	for a, s := range seen {
		if s.LongestGap > limit || slices.Contains(s.Owners[len(s.Owners)-1:], n.MAC()) {
			t.Errorf("%s: longest gap %s, answered by %v, of which %s left", a, s.LongestGap, s.Owners, n.MAC())
		}
	}
}
