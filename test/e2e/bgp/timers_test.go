// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// knocked is when a router was asked that hangs up at once.
type knocked struct {
	mu sync.Mutex
	at []time.Time
}

func (k *knocked) times() []time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.at)
}

// knocks listens at a host until the part ends.
func (b *bed) knocks(h *rig.Host) *knocked {
	b.t.Helper()
	var l net.Listener
	b.must(h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(b.t.Context(), "tcp", netip.AddrPortFrom(h.IPv4(), knockPort).String())
		return err
	}))
	k := &knocked{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			k.mu.Lock()
			k.at = append(k.at, time.Now())
			k.mu.Unlock()
			_ = c.Close() // that is all it does
		}
	}()
	b.t.Cleanup(func() { _ = l.Close() })
	return k
}

// attempts are as far from each other as connectTime says.
func (b *bed) attempts(knocks *knocked) {
	b.t.Helper()
	b.eventually(func(context.Context) error {
		if len(knocks.times()) < 3 {
			return errors.New("fewer than 3 attempts")
		}
		return nil
	})
	at := knocks.times()
	for i := range at[1:] {
		gap := at[i+1].Sub(at[i])
		b.t.Logf("connectTime 2s: %s from attempt to attempt", gap.Round(time.Millisecond))
		// The default is 10 s.
		if gap < 1900*time.Millisecond || gap > 8*time.Second {
			b.t.Errorf("with a connectTime of 2s there are %s between attempts", gap)
		}
	}
}

// keepalives come as often as keepaliveTime says; a third of the hold time would be 3 s.
func (b *bed) keepalives(capture *routers.Capture, rows []field) {
	b.t.Helper()
	to := rows[slices.IndexFunc(rows, func(f field) bool { return f.name == "hold-time" })].at.Local
	var gaps []time.Duration
	b.eventually(func(context.Context) error {
		at, err := capture.Keepalives(b.Nodes()[0].IPv4(), to)
		if err != nil {
			return err
		}
		gaps = nil
		for i := range max(0, len(at)-2) { // the first one ends the handshake
			gaps = append(gaps, at[i+2].Sub(at[i+1]))
		}
		if len(gaps) < 3 {
			return fmt.Errorf("%d KEEPALIVEs", len(at))
		}
		return nil
	})
	slices.Sort(gaps)
	if middle := gaps[len(gaps)/2]; middle > 2*time.Second || middle < 500*time.Millisecond {
		b.t.Errorf("with a keepaliveTime of 1s KEEPALIVEs come every %s", middle)
	}
}

// idle is how long a node waits after a session was reset.
func (b *bed) idle(many *routers.BIRD) {
	b.t.Helper()
	for _, session := range []string{"frouter_id", "fhold_time"} {
		_, err := many.Show(b.t.Context(), "restart "+session)
		b.must(err)
	}
	began := time.Now()
	back := func(peer string) time.Duration {
		b.t.Helper()
		b.eventually(func(ctx context.Context) error {
			s, err := b.now(ctx, b.Nodes()[0], peer)
			if err == nil && (s.State != v1alpha1.BGPEstablished || s.Flaps == 0) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
		return time.Since(began)
	}
	soon, late := back("router-id"), back("hold-time")
	b.t.Logf("after a reset sessions are back in %s by default, in %s with an idleHoldTime of 4s", soon.Round(time.Millisecond), late.Round(time.Millisecond))
	if late < 3900*time.Millisecond {
		b.t.Errorf("with an idleHoldTime of 4s the session is back in %s", late)
	}
}
