// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/soak/l2"
)

const (
	// blackoutLimit is what one takeover may cost here; the median of many is test/bench's.
	blackoutLimit = 2500 * time.Millisecond
	// steadyRate is how many new connections a second and family must all succeed.
	steadyRate = 200
)

// field makes Services of both families for as long as the test lasts.
func field(t *testing.T, n int) *l2.Field {
	t.Helper()
	f, err := l2.Prepare(t.Context(), lab, n, true)
	if f != nil {
		t.Cleanup(func() {
			if t.Failed() {
				dump(context.WithoutCancel(t.Context()), t)
			}
			if err := f.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLayer2 disturbs agents, nodes and networks one after another. What is planned or only
// restarts costs no request and changes no owner; what is lost is replaced quickly.
func TestLayer2(t *testing.T) {
	f := field(t, 6)
	load := func(length time.Duration) l2.Load { return l2.Load{Rate: steadyRate, For: length} }
	for _, tc := range []struct {
		name    string
		disturb func(context.Context) (*l2.Outcome, error)
		// moves says that owners must change, else none may, and no open connection break.
		moves bool
	}{
		{name: "agent killed", disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.KillAgent(ctx, load(8*time.Second)) }},
		{name: "agent pod deleted", disturb: func(ctx context.Context) (*l2.Outcome, error) {
			owner, err := f.Owner(ctx)
			if err != nil {
				return nil, err
			}
			// MetalLB's and kube-vip's ports are taken: the new agent must start all the same.
			(&scenario{t: t, name: l2.Namespace}).occupy(owner, "7946", "7472", "7473", "9120", "10258") //nolint:contextcheck // it takes the test's, which is this one
			return f.ReplaceAgent(ctx, load(10*time.Second))
		}},
		{name: "rolling update", disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Rollout(ctx, load(30*time.Second)) }},
		{name: "cordon", moves: true, disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Cordon(ctx, load(5*time.Second)) }},
		{name: "drain", moves: true, disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Drain(ctx, load(8*time.Second)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := tc.disturb(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Log(o)
			lost := o.Lost()
			if tc.moves { // what is under way at that moment is as lost as an open connection
				lost -= o.Reset()
			}
			if _, sent := o.Failed(); lost > 0 || sent == 0 || o.Reset() > sent/100 {
				t.Errorf("%s; want no failed request:%s", o, o.Errors())
			}
			if tc.moves != (len(o.Changes) > 0) {
				t.Errorf("owner changes %v, want some: %t", o.Changes, tc.moves)
			}
			if !tc.moves && o.Broken() > 0 {
				t.Errorf("%d open connections broke, want none:%s", o.Broken(), o.Errors())
			}
			if err := f.OneAnswer(t.Context(), 10*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("agent frozen", func(t *testing.T) { frozenAgent(t, f) })
	t.Run("link down", func(t *testing.T) { linkDown(t, f, false) })
	t.Run("link down in a restart", func(t *testing.T) { linkDown(t, f, true) })
	t.Run("partition", func(t *testing.T) { partition(t, f) })
	t.Run("API server away", func(t *testing.T) { apiServerAway(t, f) })
}

// frozenAgent stops the announcing agent for ten seconds: its node still forwards, and
// whoever takes over, one answers in the end. Other nodes' addresses stay where they are.
func frozenAgent(t *testing.T, f *l2.Field) {
	t.Helper()
	victim, err := f.Owner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.FreezeAgent(t.Context(), l2.Load{Rate: steadyRate, For: 14 * time.Second}, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(o)
	// What is under way in the takeover is lost, and the agent that goes on may answer what
	// was asked meanwhile until it has heard the others.
	if _, sent := o.Failed(); o.Lost() > sent/100 {
		t.Errorf("%s; want hardly a failed request:%s", o, o.Errors())
	}
	seen := map[string]bool{}
	for _, c := range o.Changes {
		if c.From != victim || seen[c.Address] {
			t.Errorf("%s: want only addresses of %s to move, each once", c, victim)
		}
		seen[c.Address] = true
	}
	if err := f.OneAnswer(t.Context(), 5*time.Second); err != nil {
		t.Error(err)
	}
}

// linkDown pulls the announcing node's cable and plugs it in again; with restart its agent
// just said that it restarts.
func linkDown(t *testing.T, f *l2.Field, restart bool) {
	t.Helper()
	o, err := f.LinkDown(t.Context(), l2.Load{For: 5 * time.Second, Delay: time.Second}, restart)
	if err != nil {
		t.Fatal(err)
	}
	tookOver(t, f, o)
}

// tookOver checks a failover: quick, to another node, with one answer for both families.
func tookOver(t *testing.T, f *l2.Field, o *l2.Outcome) {
	t.Helper()
	t.Log(o)
	blackout, err := o.Blackout()
	if limit := float64(blackoutLimit.Milliseconds()); err != nil || blackout > limit {
		t.Errorf("blackout %.0f ms, %v; want at most %.0f", blackout, err, limit)
	}
	if err := f.OneAnswer(t.Context(), 5*time.Second); err != nil {
		t.Error(err)
	}
	owner, err := f.Owner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if owner == o.Node {
		t.Errorf("%s announces the address still or again", owner)
	}
	pinged(t, f.Six[0], owner)
}

// pinged checks what a client's own kernel makes of an IPv6 address: who answers its
// neighbour solicitation. Nobody need answer the ping: kube-proxy forwards ports.
func pinged(t *testing.T, address, node string) {
	t.Helper()
	mac, err := lab.MAC(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	res, err := lab.Exec(t.Context(), "mypc2", "sh", "-c", "ip -6 neigh flush to "+address+" dev eth0; ping -6 -c 1 -W 1 "+address+" >/dev/null; ip -6 neigh show to "+address+" dev eth0")
	if err != nil || !strings.Contains(res.Stdout, mac) {
		t.Errorf("after a ping the client's neighbour table says %q, %v; want %s", strings.TrimSpace(res.Stdout), err, mac)
	}
}

// apiServerAway stops the API server: addresses go on answering, an agent restarts
// without a change, and a power cut is survived as well. The node that is back takes
// nothing back.
func apiServerAway(t *testing.T, f *l2.Field) {
	t.Helper()
	calm, err := f.APIServerAway(t.Context(), l2.Load{Rate: steadyRate, For: 8 * time.Second}, 8*time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(calm)
	if _, sent := calm.Failed(); calm.Lost() > sent/500 || len(calm.Changes) > 0 {
		t.Errorf("%s; want hardly a failure and no change with the API server away and an agent restarted:%s", calm, calm.Errors())
	}
	cut, err := f.PowerCutWithoutAPI(t.Context(), l2.Load{For: 6 * time.Second, Delay: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	tookOver(t, f, cut)
}

// partition cuts the announcing node off from its peers while clients reach all nodes.
func partition(t *testing.T, f *l2.Field) {
	t.Helper()
	owner, err := f.Owner(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Partition(t.Context(), l2.FromPeers, owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s cut off from its peers: %d addresses answered on both sides, %d silent, %d owner changes, healed within %s", owner, s.Doubled, s.Silent, len(s.Changes), s.Healed)
	if len(s.Faults) > 0 || s.Silent > 0 {
		t.Errorf("faults %v, %d addresses silent; want none", s.Faults, s.Silent)
	}
	if limit := 3 * time.Second; s.Healed > limit {
		t.Errorf("a second answer %s after the heal, want none after %s", s.Healed, limit)
	}
	if err := f.OneAnswer(t.Context(), 5*time.Second); err != nil {
		t.Error(err)
	}
}
