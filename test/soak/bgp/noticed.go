// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// flows of the weights' part, and by how much the share may be off.
	flows     = 10000
	tolerance = 0.05
	// expiryRuns are BFD expiries in a row, each of which recovers within recovery.
	expiryRuns = 50
	recovery   = 3 * time.Second
	// look is how often a kernel's table is read.
	look = 5 * time.Millisecond
	// shortHold is the hold time of power cuts without BFD.
	shortHold = 9 * time.Second
)

// weights has FRR spread flows over nodes of which one has three pods and another one.
func weights(ctx context.Context, s *soak) error {
	r, end := s.row("weights: 3 pods beside 1", 1, "% of the flows to the node with 3", "75 % ± 5 %")
	defer end()
	n := s.Nodes()
	if err := s.SetEndpoints(ctx, "local", n[0], n[0], n[0], n[1]); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err := harness.Eventually(ctx, time.Minute, func(context.Context) error {
		all, err := routers.Kernel(s.FRRHost)
		if err == nil && len(all[field.Local]) != 2 {
			err = fmt.Errorf("FRR's kernel has %v", all[field.Local])
		}
		r.Said = fmt.Sprintf("FRR's kernel has %v", all[field.Local])
		return err //nolint:wrapcheck // says what it is
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	got, err := s.Spread(field.Local, flows)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	share := float64(got[n[0].Name()]) / flows
	r.add(100 * share)
	r.Said += fmt.Sprintf("; %d flows reached %v", flows, got)
	if share < 0.75*(1-tolerance) || share > 0.75*(1+tolerance) {
		r.fault("%.1f %% of the flows", 100*share)
	}
	return s.SetEndpoints(ctx, "local") //nolint:wrapcheck // says what it is
}

// cuts takes the power of one node after the other.
func cuts(ctx context.Context, s *soak) error {
	for _, how := range []struct {
		name         string
		watch        field.BFD
		hold         time.Duration
		runs         int
		median, most float64
		want         string
	}{
		{"power cut, BFD 50 ms × 3", field.FastBFD, field.Hold, s.c.Runs, 300, 1500, "median ≤ 300 ms"},
		{"power cut, BFD 300 ms × 3 (default)", field.DefaultBFD, field.Hold, s.c.Runs, 1100, 2500, "median ≤ 1,100 ms"},
		{"power cut, no BFD, hold time 9 s", field.NoBFD, shortHold, max(1, s.c.Runs/5), 9000, 10000, "≤ hold time"},
	} {
		if err := s.cutAll(ctx, how.name, how.want, how.watch, how.hold, how.runs, how.median, how.most); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) cutAll(ctx context.Context, name, want string, watch field.BFD, hold time.Duration, runs int, median, most float64) error {
	r, end := s.row(name, runs, "ms blackout", want)
	defer end()
	if err := s.Watch(ctx, watch, hold, false); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	others, noticed := 0, []float64(nil)
	for i := range runs {
		cut, err := s.PowerCutAgain(ctx, s.Nodes()[i%len(s.Nodes())], hold+10*time.Second)
		if err != nil {
			return fmt.Errorf("cut %d: %w", i+1, err)
		}
		r.add(cut.BlackoutMs)
		noticed, others = append(noticed, cut.NoticedMs), others+cut.Others
		r.Said = fmt.Sprintf("FRR's kernel without the node after %s ms; flows through other nodes with a gap over 100 ms: %d", field.NewStat(noticed), others)
	}
	r.limit(median, most)
	return nil
}

// expiries has BFD of one session expire again and again, nothing else being wrong.
func expiries(ctx context.Context, s *soak) error {
	r, end := s.row("BFD expiry (300 ms × 3), in a row", expiryRuns, "ms from the first packet let through until BFD is up and the route in FRR's kernel", "each < 3,000 ms")
	defer end()
	if err := s.Watch(ctx, field.DefaultBFD, field.Hold, false); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	n := s.Nodes()[0]
	var routed []float64
	for i := range expiryRuns {
		took, route, err := s.expiry(ctx, n)
		if err != nil {
			return fmt.Errorf("expiry %d: %w", i+1, err)
		}
		r.add(field.Ms(took))
		routed = append(routed, field.Ms(route))
		r.Said = fmt.Sprintf("the route alone was back after %s ms", field.NewStat(routed))
	}
	r.limit(3000, field.Ms(recovery))
	return nil
}

// expiry drops BFD of a node at FRR's host until FRR has taken its routes out, and returns
// after how long all was up again, and the route alone: without strict mode that is sooner.
func (s *soak) expiry(ctx context.Context, n *rig.Node) (all, route time.Duration, err error) {
	rules := fmt.Sprintf("add table inet soak\nadd chain inet soak in { type filter hook input priority 0; }\n"+
		"add chain inet soak out { type filter hook output priority 0; }\nadd rule inet soak in ip saddr %[1]s udp dport 3784 drop\nadd rule inet soak out ip daddr %[1]s udp dport 3784 drop\n", n.IPv4())
	if err := s.nft(ctx, rules); err != nil {
		return 0, 0, err
	}
	_, err = field.Until(ctx, look, 20*time.Second, func() error { return s.Hop(n, false) })
	start := time.Now()
	if err = errors.Join(err, s.nft(ctx, "delete table inet soak\n")); err != nil {
		return 0, 0, err
	}
	routed, err := field.Until(ctx, look, time.Minute, func() error { return s.Hop(n, true) })
	if err != nil {
		return 0, 0, err //nolint:wrapcheck // says what it is
	}
	up, err := field.Until(ctx, 50*time.Millisecond, time.Minute, func() error {
		// FRR's own words: the session that it watches, whatever BGP does.
		session, err := routers.SessionOf(ctx, s.FRR, n.IPv4())
		if err == nil && (session.BFD != "Up" || !session.Established) {
			err = fmt.Errorf("FRR says %+v", session)
		}
		return err //nolint:wrapcheck // says what it is
	})
	return up.Sub(start), routed.Sub(start), err //nolint:wrapcheck // says what it is
}

// nft reads rules at FRR's host.
func (s *soak) nft(ctx context.Context, rules string) error {
	return s.FRRHost.Do(func() error { //nolint:wrapcheck // says what it is
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return fmt.Errorf("run nft: %w", err)
		}
		go func() {
			_, _ = stdin.Write([]byte(rules)) // nft says what is missing
			_ = stdin.Close()
		}()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("run nft: %w: %s", err, out)
		}
		return nil
	})
}
