// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	routerRuns   = 5
	passwordRuns = 10
)

// routerRestarts kills a router and starts it again; the other one must not notice.
func routerRestarts(ctx context.Context, s *soak) error {
	if err := s.Watch(ctx, field.NoBFD, field.Hold, false); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	r, end := s.row("router restart (FRR killed)", routerRuns, "s from its start to all sessions and routes", "reported")
	defer end()
	for range routerRuns {
		if err := s.FRR.Stop(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		if err := harness.Pause(ctx, time.Second); err != nil {
			return err //nolint:wrapcheck // the end of ctx
		}
		start := time.Now()
		if err := s.FRR.Start(ctx); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		back, err := s.WaitHops(ctx, time.Minute, s.Nodes()...)
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		r.add(back.Sub(start).Seconds())
		if err := s.birdEstablished(ctx); err != nil {
			r.fault("BIRD: %v", err)
		}
	}
	return nil
}

func (s *soak) birdEstablished(ctx context.Context) error {
	var errs []error
	for _, n := range s.Nodes() {
		errs = append(errs, routers.WantEstablished(ctx, s.BIRD, n.IPv4()))
	}
	return errors.Join(errs...)
}

//nolint:gosec // a test's own, with a place for the word
const passwordSecret = `
apiVersion: v1
kind: Secret
metadata: {name: bird, namespace: fairlead-system}
type: kubernetes.io/basic-auth
stringData: {username: "", password: %q}
`

// passwords changes the password of the sessions with BIRD; those with FRR must not notice.
func passwords(ctx context.Context, s *soak) error {
	r, end := s.row("password change (TCP-MD5, both sides)", passwordRuns, "s from the Secret's change to all sessions", "others undisturbed")
	defer end()
	dropped := func() (n int, err error) {
		all, err := s.FRR.Sessions(ctx)
		for i := range all {
			n += all[i].Dropped
		}
		return n, err //nolint:wrapcheck // says what it is
	}
	before, err := dropped()
	if err != nil {
		return err
	}
	for i := range passwordRuns {
		word := fmt.Sprintf("word-%d", i)
		if err := s.birdPassword(ctx, word); err != nil {
			return err
		}
		start := time.Now()
		if err := s.Apply(ctx, fmt.Sprintf(passwordSecret, word)); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		if i == 0 {
			if err := s.PatchPeer(ctx, field.BIRDPeer, `{"passwordSecret":{"name":"bird"}}`); err != nil {
				return err //nolint:wrapcheck // says what it is
			}
		}
		if _, err := harness.Eventually(ctx, time.Minute, s.birdEstablished); err != nil {
			return fmt.Errorf("time %d: %w", i+1, err)
		}
		r.add(time.Since(start).Seconds())
	}
	after, err := dropped()
	if err == nil && after != before {
		r.fault("sessions with FRR ended %d times meanwhile", after-before)
	}
	return err
}

// birdPassword changes it at BIRD, which ends its sessions.
func (s *soak) birdPassword(ctx context.Context, word string) error {
	c := s.BIRD.Config()
	c.Neighbors = slices.Clone(c.Neighbors)
	for i := range c.Neighbors {
		c.Neighbors[i].Password = word
	}
	if err := s.BIRD.Configure(ctx, c); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err := harness.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
		if s.birdEstablished(ctx) == nil {
			return errors.New("the sessions are up with the old password")
		}
		return nil
	})
	return err //nolint:wrapcheck // says what it is
}
