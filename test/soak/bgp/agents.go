// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// held connections stay open, with a request on each every 100 ms.
	held = 50
	// restartRuns and rollings of agents; away is how long an agent is gone.
	restartRuns = 10
	rollings    = 2
	away        = 500 * time.Millisecond
	drainRuns   = 5
	leaveRuns   = 3
)

// during has a stream go on while something is done and judges what became of it.
func (s *soak) during(ctx context.Context, r *Row, do func() error) error {
	stream, err := s.StartStream(ctx, s.c.Rate, held)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	err = do()
	stood, stopErr := stream.Stop()
	if err = errors.Join(err, stopErr); stood == nil {
		return err
	}
	if loss := stood.Lossless(); loss != nil {
		r.fault("%s", loss)
	}
	r.Said = fmt.Sprintf("%d of %d new connections failed within %s, %d of %d held ones broke; %d segments sent again, longest gap %.0f ms (prober late by up to %.0f ms), p99 %.0f ms",
		stood.Failed, stood.Sent, stood.Took.Round(time.Second), stood.Hold.Broken+stood.Hold.NotOpened, stood.Hold.Held,
		stood.Repeated, stood.LongestGapMs, stood.LatestStartMs, stood.LatencyP99Ms)
	return err
}

const lossless = "0 failed, 0 broken"

// restarts ends agents and starts them again, with graceful restart.
func restarts(ctx context.Context, s *soak) error {
	if err := s.Watch(ctx, field.NoBFD, field.Hold, true); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	r, end := s.row("nothing happens, for comparison", 1, "", lossless)
	err := s.during(ctx, r, func() error {
		r.Times++
		return harness.Pause(ctx, 10*time.Second)
	})
	end()
	errs := []error{
		err,
		s.again(ctx, "agent restart (SIGTERM), graceful restart", restartRuns, (*rig.Node).Terminate),
		s.again(ctx, "agent SIGKILL, graceful restart", restartRuns, (*rig.Node).Kill),
		s.rolling(ctx),
	}
	if err := s.Watch(ctx, field.DefaultBFD, field.Hold, true); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, s.again(ctx, "agent restart (SIGTERM), graceful restart and BFD 300 ms × 3", restartRuns, (*rig.Node).Terminate))...)
}

// again ends the agents of one node after the other.
func (s *soak) again(ctx context.Context, name string, runs int, kill func(*rig.Node) error) error {
	r, end := s.row(name, runs, "s until both routers have its routes afresh", lossless)
	defer end()
	return s.during(ctx, r, func() error {
		for i := range runs {
			n := s.Nodes()[i%len(s.Nodes())]
			if err := kill(n); err != nil {
				return err
			}
			if err := harness.Pause(ctx, away); err != nil {
				return err //nolint:wrapcheck // the end of ctx
			}
			start := time.Now()
			if err := n.StartAgent(ctx); err != nil {
				return err //nolint:wrapcheck // says what it is
			}
			if err := s.fresh(ctx, n); err != nil {
				return fmt.Errorf("time %d: %w", i+1, err)
			}
			r.add(time.Since(start).Seconds())
		}
		return nil
	})
}

// rolling replaces all agents one by one, as a DaemonSet does that waits until each is ready.
func (s *soak) rolling(ctx context.Context) error {
	r, end := s.row("rolling update of the agents, graceful restart", rollings, "s for all three", lossless)
	defer end()
	return s.during(ctx, r, func() error {
		for range rollings {
			start := time.Now()
			for _, n := range s.Nodes() {
				if err := n.Terminate(); err != nil {
					return err //nolint:wrapcheck // says what it is
				}
				if err := n.StartAgent(ctx); err != nil {
					return err //nolint:wrapcheck // says what it is
				}
				_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
					_, err := n.Get(ctx, "/readyz")
					return err //nolint:wrapcheck // says what it is
				})
				if err != nil {
					return err //nolint:wrapcheck // says what it is
				}
			}
			for _, n := range s.Nodes() {
				if err := s.fresh(ctx, n); err != nil {
					return err
				}
			}
			r.add(time.Since(start).Seconds())
		}
		return nil
	})
}

// fresh waits until both routers have a session with a node and its own route, not a stale one.
func (s *soak) fresh(ctx context.Context, n *rig.Node) error {
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		for _, r := range []routers.Router{s.FRR, s.BIRD} {
			if err := routers.WantEstablished(ctx, r, n.IPv4()); err != nil {
				return err //nolint:wrapcheck // says what it is
			}
			paths, err := r.Paths(ctx, field.OnPod)
			if err != nil {
				return err //nolint:wrapcheck // says what it is
			}
			found := false
			for i := range paths {
				found = found || paths[i].From == n.IPv4() && !paths[i].Stale
			}
			if !found {
				return fmt.Errorf("no fresh route by %s: %+v", n.Name(), paths)
			}
		}
		return nil
	})
	return err //nolint:wrapcheck // says what it is
}

// drains excludes nodes and cordons them, one after the other, and lets them come back.
func drains(ctx context.Context, s *soak) error {
	if err := s.Watch(ctx, field.DefaultBFD, field.Hold, false); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	var errs []error
	for _, how := range []struct{ name, on, off string }{
		{"drain: exclusion label", `{"metadata":{"labels":{"` + harness.ExcludeLabel + `":""}}}`, `{"metadata":{"labels":{"` + harness.ExcludeLabel + `":null}}}`},
		{"drain: cordon", `{"spec":{"unschedulable":true}}`, `{"spec":{"unschedulable":null}}`},
	} {
		r, end := s.row(how.name, drainRuns, "ms until FRR's kernel was without the node", lossless)
		errs = append(errs, s.during(ctx, r, func() error {
			for i := range drainRuns {
				if err := s.drained(ctx, r, s.Nodes()[i%len(s.Nodes())], how.on, how.off); err != nil {
					return fmt.Errorf("time %d: %w", i+1, err)
				}
			}
			return nil
		}))
		end()
	}
	return errors.Join(errs...)
}

func (s *soak) drained(ctx context.Context, r *Row, n *rig.Node, on, off string) error {
	patch := func(text string) error {
		_, err := s.Plane().Kubectl(ctx, "", "patch", "node", n.Name(), "--type=merge", "-p", text)
		return err //nolint:wrapcheck // says what it is
	}
	start := time.Now()
	if err := patch(on); err != nil {
		return err
	}
	out, err := s.WaitHops(ctx, time.Minute, s.others(n)...)
	if err != nil {
		return errors.Join(err, patch(off))
	}
	r.add(field.Ms(out.Sub(start)))
	// Past the end of the drain, when an excluded node's routes go.
	if err := errors.Join(harness.Pause(ctx, drain+time.Second), patch(off)); err != nil {
		return err
	}
	_, err = s.WaitHops(ctx, time.Minute, s.Nodes()...)
	return err //nolint:wrapcheck // says what it is
}

func (s *soak) others(n *rig.Node) []*rig.Node {
	var out []*rig.Node
	for _, x := range s.Nodes() {
		if x != n {
			out = append(out, x)
		}
	}
	return out
}

// leaves ends agents that will not come back: their DaemonSet is gone. It is made again
// before the next one.
func leaves(ctx context.Context, s *soak) error {
	r, end := s.row("agent stops and leaves (DaemonSet deleted)", leaveRuns, "s until the agent ended", lossless)
	defer end()
	sets := s.Kube().AppsV1().DaemonSets(harness.Namespace)
	set, err := sets.Get(ctx, harness.AgentProgram, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the DaemonSet: %w", err)
	}
	set.ObjectMeta = metav1.ObjectMeta{Name: set.Name, Namespace: set.Namespace, Labels: set.Labels}
	return s.during(ctx, r, func() error {
		for i := range leaveRuns {
			n := s.Nodes()[i%len(s.Nodes())]
			if err := sets.Delete(ctx, set.Name, metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete the DaemonSet: %w", err)
			}
			start := time.Now()
			err := n.Terminate()
			r.add(time.Since(start).Seconds())
			if err == nil {
				_, err = s.WaitHops(ctx, 5*time.Second, s.others(n)...)
			}
			if _, cerr := sets.Create(ctx, set, metav1.CreateOptions{}); cerr != nil {
				return errors.Join(err, fmt.Errorf("make the DaemonSet: %w", cerr))
			}
			if err := errors.Join(err, n.StartAgent(ctx)); err != nil {
				return err
			}
			if _, err := s.WaitHops(ctx, time.Minute, s.Nodes()...); err != nil {
				return err //nolint:wrapcheck // says what it is
			}
		}
		return nil
	})
}
