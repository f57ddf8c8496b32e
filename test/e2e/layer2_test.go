// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
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
	occupied := false
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
			if !occupied {
				// MetalLB's and kube-vip's ports are taken: the new agent must start all the same.
				(&scenario{t: t, name: l2.Namespace}).occupy(owner, "7946", "7472", "7473", "9120", "10258") //nolint:contextcheck // it takes the test's, which is this one
				occupied = true
			}
			return f.ReplaceAgent(ctx, load(10*time.Second))
		}},
		{name: "rolling update", disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Rollout(ctx, load(30*time.Second)) }},
		{name: "cordon", moves: true, disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Cordon(ctx, load(5*time.Second)) }},
		{name: "drain", moves: true, disturb: func(ctx context.Context) (*l2.Outcome, error) { return f.Drain(ctx, load(8*time.Second)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
				o, err := tc.disturb(ctx)
				if err != nil {
					return o, nil, err
				}
				return o, unhurt(o, tc.moves), f.OneAnswer(ctx, patience)
			})
		})
	}
	t.Run("agent frozen", func(t *testing.T) { frozenAgent(t, f) })
	t.Run("link down", func(t *testing.T) { linkDown(t, f, false) })
	t.Run("link down in a restart", func(t *testing.T) { linkDown(t, f, true) })
	t.Run("partition", func(t *testing.T) { partition(t, f) })
	t.Run("API server away", func(t *testing.T) { apiServerAway(t, f) })
}

// faults collects what is wrong.
type faults []string

// add notes what is wrong, if it is.
func (f *faults) add(wrong bool, format string, args ...any) {
	if wrong {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// unhurt says what is wrong with something planned: addresses move if they have to, and
// nothing else happens.
func unhurt(o *l2.Outcome, moves bool) []string {
	var bad faults
	lost := o.Lost()
	if moves { // what is under way at that moment is as lost as an open connection
		lost -= o.Reset() + underWay(o)
	}
	_, sent := o.Failed()
	bad.add(lost > 0 || sent == 0 || o.Reset() > sent/100, "want no failed request:%s", o.Errors())
	bad.add(moves != (len(o.Changes) > 0), "owner changes %v, want some: %t", o.Changes, moves)
	bad.add(!moves && o.Broken() > 0, "%d open connections broke, want none:%s", o.Broken(), o.Errors())
	return bad
}

// underWay is how many requests may hang when an address moves: the next node drops what it
// knows nothing of. So many are begun while one takes its time.
func underWay(o *l2.Outcome) int {
	n := 0.0
	for _, r := range o.Reports {
		n += steadyRate * r.LatencyP99Ms / 1000
	}
	return int(n)
}

// frozenAgent stops the announcing agent for ten seconds: its node still forwards, and
// whoever takes over, one answers in the end. Other nodes' addresses stay where they are.
func frozenAgent(t *testing.T, f *l2.Field) {
	t.Helper()
	try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
		victim, err := f.Owner(ctx)
		if err != nil {
			return nil, nil, err
		}
		o, err := f.FreezeAgent(ctx, l2.Load{Rate: steadyRate, For: 14 * time.Second}, 10*time.Second)
		if err != nil {
			return o, nil, err
		}
		var bad faults
		// What is under way in the takeover is lost, and the agent that goes on may answer what
		// was asked meanwhile until it has heard the others.
		_, sent := o.Failed()
		bad.add(o.Lost() > sent/100, "want hardly a failed request:%s", o.Errors())
		seen := map[string]bool{}
		for _, c := range o.Changes {
			bad.add(c.From != victim || seen[c.Address], "%s: want only addresses of %s to move, each once", c, victim)
			seen[c.Address] = true
		}
		return o, bad, f.OneAnswer(ctx, patience)
	})
}

// linkDown pulls the announcing node's cable and plugs it in again; with restart its agent
// just said that it restarts.
func linkDown(t *testing.T, f *l2.Field, restart bool) {
	t.Helper()
	try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
		o, err := f.LinkDown(ctx, l2.Load{For: 5 * time.Second, Delay: time.Second, Witness: true}, restart)
		if err != nil {
			return o, nil, err
		}
		bad, err := tookOver(ctx, f, o)
		return o, bad, err
	})
}

// tookOver says what is wrong with a failover, which is quick, to another node, with one
// answer for both families.
func tookOver(ctx context.Context, f *l2.Field, o *l2.Outcome) ([]string, error) {
	var bad faults
	blackout, err := o.Blackout()
	limit := float64(blackoutLimit.Milliseconds())
	bad.add(err != nil || blackout > limit, "blackout %.0f ms, %v; want at most %.0f", blackout, err, limit)
	if err := f.OneAnswer(ctx, patience); err != nil {
		return bad, err
	}
	owner, err := f.Owner(ctx)
	if err != nil {
		return bad, err
	}
	bad.add(owner == o.Node, "%s announces the address still or again; owner changes %v", owner, o.Changes)
	return bad, pinged(ctx, f.Six[0], owner)
}

// pinged checks what a client's own kernel makes of an IPv6 address: who answers its
// neighbour solicitation. Nobody need answer the ping: kube-proxy forwards ports.
func pinged(ctx context.Context, address, node string) error {
	mac, err := lab.MAC(ctx, node)
	if err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, patience, func(ctx context.Context) error {
		res, err := lab.Exec(ctx, "mypc2", "sh", "-c", "ip -6 neigh flush to "+address+" dev eth0; ping -6 -c 1 -W 1 "+address+" >/dev/null; ip -6 neigh show to "+address+" dev eth0")
		if err == nil && !strings.Contains(res.Stdout, mac) {
			err = fmt.Errorf("after a ping the client's neighbour table says %q, want %s", strings.TrimSpace(res.Stdout), mac)
		}
		return err
	})
	return err
}

// apiServerAway stops the API server: addresses go on answering, an agent restarts
// without a change, and a power cut is survived as well. The node that is back takes
// nothing back.
func apiServerAway(t *testing.T, f *l2.Field) {
	t.Helper()
	try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
		calm, err := f.APIServerAway(ctx, l2.Load{Rate: steadyRate, For: 8 * time.Second}, 8*time.Second, true)
		if err != nil {
			return calm, nil, err
		}
		var bad faults
		_, sent := calm.Failed()
		bad.add(calm.Lost() > sent/500 || len(calm.Changes) > 0,
			"want hardly a failure and no change with the API server away and an agent restarted: %v%s", calm.Changes, calm.Errors())
		return calm, bad, nil
	})
	try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
		cut, err := f.PowerCutWithoutAPI(ctx, l2.Load{For: 6 * time.Second, Delay: time.Second, Witness: true})
		if err != nil {
			return cut, nil, err
		}
		bad, err := tookOver(ctx, f, cut)
		return cut, bad, err
	})
}

// partition cuts the announcing node off from its peers while clients reach all nodes.
func partition(t *testing.T, f *l2.Field) {
	t.Helper()
	try(t, f, func(ctx context.Context) (*l2.Outcome, []string, error) {
		owner, err := f.Owner(ctx)
		if err != nil {
			return nil, nil, err
		}
		var s *l2.Split
		// Nobody is asked but the plain pod: a partition is looked at by ARP.
		o, err := f.Beside(ctx, "partition", owner, 20*time.Second, func(ctx context.Context) error {
			var err error
			s, err = f.Partition(ctx, l2.FromPeers, owner)
			return err
		})
		if err != nil {
			return o, nil, err
		}
		t.Logf("%s cut off from its peers: %d addresses answered on both sides, %d silent, %d owner changes, healed within %s", owner, s.Doubled, s.Silent, len(s.Changes), s.Healed)
		var bad faults
		bad.add(len(s.Faults) > 0 || s.Silent > 0, "faults %v, %d addresses silent; want none", s.Faults, s.Silent)
		limit := 3 * time.Second
		bad.add(s.Healed > limit, "a second answer %s after the heal, want none after %s", s.Healed, limit)
		return o, bad, f.OneAnswer(ctx, patience)
	})
}
