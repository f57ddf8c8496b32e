// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Speaker has this node's sessions.
type Speaker struct{ changed chan struct{} }

// New makes a speaker without sessions.
func New(Options) *Speaker { return &Speaker{changed: make(chan struct{}, 1)} }

// Run serves until ctx ends, and returns when nothing of it runs any more. If
// [Speaker.Stop] was not called before, sessions end as by Stop with graceful.
func (s *Speaker) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Apply replaces what is wanted. It does not block; the latest wins.
func (s *Speaker) Apply(loadbalancer.BGPPlan, NextHops) {}

// Complete says that what was applied last is all that there is to tell after a start:
// sessions with graceful restart begin now and say so by End-of-RIB (RFC 4724 §4.1). The
// others, and those that come later, do not wait for it.
func (s *Speaker) Complete() {}

// States of all sessions, ascending by peer.
func (s *Speaker) States() []SessionState { return nil }

// Routes that a peer was told, ascending by prefix. The caller must not write to them.
func (s *Speaker) Routes(peer string) []loadbalancer.BGPRoute { _ = peer; return nil }

// Changed has a token when an answer of [Speaker.States] has changed.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

// Stop ends all sessions, for good: graceful keeps the routes of those with graceful
// restart at the peer (RFC 4724 §4.2: the connection is closed without a NOTIFICATION);
// else, and for all others, the peer gets Cease/Administrative Shutdown and forgets them.
// It returns when that is done, or with the error of ctx.
func (s *Speaker) Stop(ctx context.Context, graceful bool) error { _ = graceful; return ctx.Err() }
