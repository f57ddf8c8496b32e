// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// moveTimeout bounds a planned move of all addresses of a node.
const moveTimeout = 30 * time.Second

// Cordon takes the owner out of scheduling under a load and waits until it announces
// nothing, then lets it back in. A node that is back gets nothing back.
func (f *Field) Cordon(ctx context.Context, load Load) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.evacuate(ctx, "cordon", owner, load, "cordon", owner)
}

// Drain evicts the owner's pods under a load, which cordons it, and waits until it
// announces nothing, then lets it back in.
func (f *Field) Drain(ctx context.Context, load Load) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.evacuate(ctx, "drain", owner, load, "drain", owner, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
}

func (f *Field) evacuate(ctx context.Context, name, node string, load Load, args ...string) (o *Outcome, err error) {
	defer func() {
		uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTimeout)
		defer cancel()
		_, uerr := f.lab.Kubectl(uctx, "uncordon", node)
		err = errors.Join(err, uerr)
	}()
	return f.Disturb(ctx, name, node, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if _, err := f.lab.Kubectl(ctx, args...); err != nil {
			return began, err
		}
		_, err := harness.Eventually(ctx, moveTimeout, func(ctx context.Context) error {
			owners, err := f.Owners(ctx)
			if err != nil {
				return err
			}
			for a, n := range owners {
				if n == node {
					return fmt.Errorf("%s is still %s's", a, node)
				}
			}
			return nil
		})
		return began, err
	})
}

// populate makes a node announce something, and that the first address: what went away
// does not come back by itself, so new Services are made until the node has one.
func (f *Field) populate(ctx context.Context, node string) error {
	if err := f.Focus(ctx, node); err == nil {
		return nil
	}
	if err := f.renew(ctx, len(f.Addresses)/len(harness.Workers())); err != nil {
		return err
	}
	return f.Focus(ctx, node)
}

// renew deletes the last n Services and makes them again: the controller's balance gives
// their addresses to the nodes that have least.
func (f *Field) renew(ctx context.Context, n int) error {
	total := len(f.Addresses)
	args := []string{"delete", "service", "-n", Namespace, "--timeout=60s"}
	for i := total - n; i < total; i++ {
		args = append(args, serviceName(i))
	}
	if _, err := f.lab.Kubectl(ctx, args...); err != nil {
		return err
	}
	if _, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		claims, err := f.lab.Claims(ctx)
		if err != nil {
			return err
		}
		left := 0
		for i := range claims {
			if claims[i].Spec.Pool == Namespace {
				left++
			}
		}
		if want := total - n; left > 2*want {
			return fmt.Errorf("%d claims are left, want those of %d Services", left, want)
		}
		return nil
	}); err != nil {
		return err
	}
	f.Addresses = f.Addresses[:total-n]
	return f.grow(ctx, total, len(f.Six) > 0)
}

// holders are n nodes that announce something, the first address's owner first.
func (f *Field) holders(ctx context.Context, n int) ([]string, error) {
	first, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	owners, err := f.Owners(ctx)
	if err != nil {
		return nil, err
	}
	out := []string{first}
	for _, node := range harness.Workers() {
		if len(out) < n && node != first && slices.Contains(slices.Collect(maps.Values(owners)), node) {
			out = append(out, node)
		}
	}
	for _, node := range harness.Workers() {
		if len(out) < n && !slices.Contains(out, node) {
			out = append(out, node)
		}
	}
	return out, nil
}

// controllers sets the number of controllers and waits for them.
func (f *Field) controllers(ctx context.Context, n int) error {
	_, err := f.lab.Kubectl(ctx, "scale", "-n", harness.Namespace, "deployment/fairlead-controller", fmt.Sprintf("--replicas=%d", n))
	if err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, wholeTimeout, func(ctx context.Context) error {
		pods, err := f.lab.Pods(ctx, harness.Namespace, "app.kubernetes.io/component=controller")
		if err == nil && len(pods) != n {
			err = fmt.Errorf("%d controllers, want %d", len(pods), n)
		}
		return err
	})
	return err
}

// ControllerAway has no controller for a while.
func (f *Field) ControllerAway(ctx context.Context, load Load, length time.Duration) (*Outcome, error) {
	return f.Disturb(ctx, "no controller for "+length.String(), "all nodes", load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		err := f.controllers(ctx, 0)
		if err == nil {
			err = harness.Pause(ctx, length)
		}
		return began, errors.Join(err, f.controllers(context.WithoutCancel(ctx), 2))
	})
}

// APIServerAway pauses the API server for a while, and ends the owner's agent by SIGTERM
// at the beginning if restart says so: the kubelet starts it again, without an API server.
func (f *Field) APIServerAway(ctx context.Context, load Load, length time.Duration, restart bool) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	name := "no API server for " + length.String()
	if restart {
		name += ", an agent restarted"
	}
	return f.Disturb(ctx, name, owner, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		err := f.lab.Pause(ctx, "apiserver")
		if err == nil && restart {
			err = f.stopAgent(ctx, owner)
		}
		if err == nil {
			err = harness.Pause(ctx, length-time.Since(began))
		}
		err = errors.Join(err, f.lab.Resume(context.WithoutCancel(ctx), "apiserver"))
		return began, errors.Join(err, f.Whole(ctx))
	})
}

// Starve keeps the owner's processors busy for a while.
func (f *Field) Starve(ctx context.Context, load Load, loops int, length time.Duration) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.Disturb(ctx, fmt.Sprintf("%d busy loops for %s", loops, length), owner, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if err := f.lab.Burn(ctx, owner, loops, length); err != nil {
			return began, err
		}
		return began, harness.Pause(ctx, length)
	})
}

// Throttle limits the CPU of the owner's agent for a while.
func (f *Field) Throttle(ctx context.Context, load Load, limit string, length time.Duration) (*Outcome, error) {
	owner, err := f.victim(ctx)
	if err != nil {
		return nil, err
	}
	return f.Disturb(ctx, fmt.Sprintf("agent at %s for %s", limit, length), owner, load, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		if err := f.lab.LimitAgent(ctx, owner, limit); err != nil {
			return began, err
		}
		perr := harness.Pause(ctx, length)
		return began, errors.Join(perr, f.lab.LimitAgent(context.WithoutCancel(ctx), owner, "none"))
	})
}
