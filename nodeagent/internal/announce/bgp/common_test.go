// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// patience is how long anything may take on a slow machine.
const patience = 30 * time.Second

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// begin runs a speaker until the end of the test.
func begin(t *testing.T, o Options) *Speaker {
	t.Helper()
	s := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.Complete()
	return s
}

// stateOf a session; the zero value if there is none.
func stateOf(s *Speaker, peer string) SessionState {
	for _, st := range s.States() {
		if st.Peer == peer {
			return st
		}
	}
	return SessionState{}
}

func awaitState(t *testing.T, s *Speaker, peer string, want State) SessionState {
	t.Helper()
	var st SessionState
	eventually(t, fmt.Sprintf("%s is %s", peer, want), func() bool {
		st = stateOf(s, peer)
		return st.State == want
	})
	return st
}

// planOf sessions that are told the same routes.
func planOf(routes []loadbalancer.BGPRoute, sessions ...loadbalancer.BGPSession) loadbalancer.BGPPlan {
	p := loadbalancer.BGPPlan{Sessions: sessions, Routes: make(map[string][]loadbalancer.BGPRoute)}
	routes = slices.SortedFunc(slices.Values(routes), func(a, b loadbalancer.BGPRoute) int { return a.Prefix.Compare(b.Prefix) })
	for i := range sessions {
		p.Routes[sessions[i].Peer] = routes
	}
	return p
}

func route(prefix string) loadbalancer.BGPRoute {
	p := netip.MustParsePrefix(prefix)
	return loadbalancer.BGPRoute{Prefix: p, Addrs: []netip.Addr{p.Addr()}}
}

// many routes of IPv4.
func many(n int) []loadbalancer.BGPRoute {
	r := make([]loadbalancer.BGPRoute, 0, n)
	for i := range n {
		a := netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
		r = append(r, loadbalancer.BGPRoute{Prefix: netip.PrefixFrom(a, 32), Addrs: []netip.Addr{a}})
	}
	return r
}
