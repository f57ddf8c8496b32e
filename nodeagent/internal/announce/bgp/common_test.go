// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
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

// lab is a next hop for each family.
func lab(netip.Addr) (four, six netip.Addr) {
	return netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
}

// fakeDetector is a Detector that tests steer.
type fakeDetector struct {
	mu      sync.Mutex
	changed chan struct{}
	watched map[string]loadbalancer.BFDSession
	state   string
	falls   uint64
}

func newFakeDetector() *fakeDetector {
	return &fakeDetector{changed: make(chan struct{}, 1), watched: make(map[string]loadbalancer.BFDSession), state: "Down"}
}

func (f *fakeDetector) Watch(key string, _, _ netip.Addr, s loadbalancer.BFDSession) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched[key] = s
}

func (f *fakeDetector) Forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, key)
}

func (f *fakeDetector) State(key string) (string, uint64, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.watched[key]; !ok {
		return "", f.falls, ""
	}
	return f.state, f.falls, "as the test says"
}

func (f *fakeDetector) Changed() <-chan struct{} { return f.changed }

func (f *fakeDetector) set(state string, falls uint64) {
	f.mu.Lock()
	f.state, f.falls = state, falls
	f.mu.Unlock()
	poke(f.changed)
}

func (f *fakeDetector) watches(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.watched[key]
	return ok
}

func fmtPort(p uint16) string { return fmt.Sprint(p) }
