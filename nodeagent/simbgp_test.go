// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// simRouter is what the peers know of one node. It outlives the node's agent.
type simRouter struct {
	mu    sync.Mutex
	rib   map[string]string       // guarded by mu: attributes by "peer prefix"
	log   []string                // guarded by mu
	since time.Time               // guarded by mu: times in the log count from here
	down  map[string]bool         // guarded by mu: peers that do not answer
	heard func(prefix, as string) // guarded by mu: called with each route that is told
}

// note needs mu.
func (r *simRouter) note(format string, args ...any) {
	at := time.Since(r.since).Truncate(100 * time.Millisecond)
	r.log = append(r.log, fmt.Sprintf("%s ", at)+fmt.Sprintf(format, args...))
}

// update makes what a peer was told the whole of what it knows.
func (r *simRouter) update(peer string, routes []loadbalancer.BGPRoute) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rib == nil {
		r.rib = make(map[string]string)
	}
	seen := make(map[string]bool)
	for i := range routes {
		key, as := peer+" "+routes[i].Prefix.String(), attributeWords(&routes[i].BGPAttributes)
		seen[key] = true
		if before, known := r.rib[key]; known && before == as {
			continue
		}
		r.rib[key] = as
		r.note("%s%s", key, as)
		if r.heard != nil {
			r.heard(routes[i].Prefix.String(), as)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.rib)) {
		if strings.HasPrefix(key, peer+" ") && !seen[key] {
			delete(r.rib, key)
			r.note("%s withdrawn", key)
		}
	}
}

// lose ends a session; the router keeps the routes only if it was a restart with grace.
func (r *simRouter) lose(peer, how string, keeps bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("%s %s", peer, how)
	for key := range r.rib {
		if !keeps && strings.HasPrefix(key, peer+" ") {
			delete(r.rib, key)
		}
	}
}

func attributeWords(a *loadbalancer.BGPAttributes) string {
	out := ""
	if slices.Contains(a.Communities, loadbalancer.GracefulShutdown()) {
		out += " draining"
	}
	return out
}

// begin forgets the log and counts times from now.
func (r *simRouter) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, r.since = nil, time.Now()
}

// story is the log since [simRouter.begin].
func (r *simRouter) story() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.log, "; ")
}

// knows lists what the routers know of the node.
func (r *simRouter) knows() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, key := range slices.Sorted(maps.Keys(r.rib)) {
		out = append(out, key+r.rib[key])
	}
	return strings.Join(out, "; ")
}

func (r *simRouter) setDown(peer string, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down == nil {
		r.down = make(map[string]bool)
	}
	r.down[peer] = down
}

// simSpeaker is a speaker whose peers are simRouters: sessions are established at once, but
// those with graceful restart, which wait for the plan to be complete.
type simSpeaker struct {
	r       *simRouter
	changed chan struct{}

	mu       sync.Mutex
	plan     loadbalancer.BGPPlan
	complete bool
	stopped  bool
	states   map[string]bgp.SessionState
	applies  int
	hops     bgp.NextHops
}

func newSimSpeaker(r *simRouter) *simSpeaker {
	return &simSpeaker{r: r, changed: make(chan struct{}, 1), states: make(map[string]bgp.SessionState)}
}

func (s *simSpeaker) Run(ctx context.Context) error {
	<-ctx.Done()
	return s.Stop(context.WithoutCancel(ctx), true)
}

func (s *simSpeaker) Apply(p loadbalancer.BGPPlan, hops bgp.NextHops) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan, s.hops = p, hops
	s.applies++
	s.sync()
}

func (s *simSpeaker) Complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete = true
	s.sync()
}

// sync needs mu.
func (s *simSpeaker) sync() {
	if s.stopped {
		return
	}
	wanted := make(map[string]bool)
	for i := range s.plan.Sessions {
		want := &s.plan.Sessions[i]
		wanted[want.Peer] = true
		st, known := s.states[want.Peer]
		if !known {
			st = bgp.SessionState{Peer: want.Peer, Address: want.Addr.String(), ASN: want.PeerASN, State: bgp.Active, Reason: reason.NotEstablished, Since: time.Now()}
		}
		s.r.mu.Lock()
		down := s.r.down[want.Peer]
		s.r.mu.Unlock()
		before := st.State
		switch {
		case down:
			st.State, st.Reason, st.Prefixes = bgp.Active, reason.NotEstablished, 0
		case !want.GracefulRestart || s.complete:
			st.State, st.Reason, st.Prefixes = bgp.Established, "", len(s.plan.Routes[want.Peer])
		}
		if before != st.State {
			st.Since = time.Now()
		}
		if before == bgp.Established && down {
			st.Flaps++
			s.r.lose(want.Peer, "lost", false)
		}
		if st.State == bgp.Established {
			s.r.update(want.Peer, s.plan.Routes[want.Peer])
		}
		s.states[want.Peer] = st
	}
	for peer := range s.states {
		if !wanted[peer] {
			delete(s.states, peer)
			s.r.lose(peer, "ceased", false)
		}
	}
	mark(s.changed)
}

// again has the sessions look at their peers again.
func (s *simSpeaker) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
}

func (s *simSpeaker) Strangers() uint64 { return 2 }

func (s *simSpeaker) States() []bgp.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []bgp.SessionState
	for _, peer := range slices.Sorted(maps.Keys(s.states)) {
		out = append(out, s.states[peer])
	}
	return out
}

func (s *simSpeaker) Routes(peer string) []loadbalancer.BGPRoute {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[peer].State != bgp.Established {
		return nil
	}
	return s.plan.Routes[peer]
}

func (s *simSpeaker) Changed() <-chan struct{} { return s.changed }

func (s *simSpeaker) Stop(_ context.Context, graceful bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	for i := range s.plan.Sessions {
		want := &s.plan.Sessions[i]
		switch {
		case s.states[want.Peer].State != bgp.Established:
		case graceful && want.GracefulRestart:
			s.r.lose(want.Peer, "restarts", true)
		case graceful:
			s.r.lose(want.Peer, "closed", false)
		default:
			s.r.lose(want.Peer, "ceased", false)
		}
	}
	clear(s.states)
	return nil
}

// noBFD is a detector without sessions.
type noBFD struct{}

func (noBFD) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (noBFD) States() map[string]bfd.State { return nil }

func (noBFD) Strangers() bfd.Drops { return bfd.Drops{} }

// simSession makes a session's configuration.
func simSession(peer string, graceful bool) loadbalancer.BGPSession {
	return loadbalancer.BGPSession{
		Peer: peer, MyASN: 64513, PeerASN: 64512, Addr: netip.MustParseAddr("10.0.0.254"), Port: 179, IPv4: true, IPv6: true, GracefulRestart: graceful,
	}
}

// configure has every node tell by BGP what the advertisement "bgp" selects.
func (s *sim) configure(sessions ...loadbalancer.BGPSession) {
	s.mu.Lock()
	s.bgp = loadbalancer.BGPConfig{
		Sessions: sessions, Advertisements: map[string]loadbalancer.BGPAdvertisement{"bgp": {Name: "bgp", Here: true, Bits4: 32, Bits6: 128}},
	}
	s.mu.Unlock()
	s.markAll()
}

// tellOnly makes a Service that BGP announces, and layer 2 does not.
func (s *sim) tellOnly(addr string, policy loadbalancer.TrafficPolicy) {
	s.bind(addr, policy, "a", "b", "c")
	s.record(addr, func(r *loadbalancer.Record) { r.Advertisements, r.BGPAdvertisements = nil, []string{"bgp"} })
}

// router is what the peers know of a node.
func (s *sim) router(name loadbalancer.NodeName) *simRouter { return &s.kernelOf(name).router }

func (s *sim) expectKnown(when string, name loadbalancer.NodeName, want string) {
	s.t.Helper()
	if got := s.router(name).knows(); got != want {
		s.t.Errorf("%s: of %s the routers know %q, want %q", when, name, got, want)
	}
}

func (s *sim) expectStory(when string, name loadbalancer.NodeName, want string) {
	s.t.Helper()
	if got := s.router(name).story(); got != want {
		s.t.Errorf("%s: the routers heard of %s\n%s, want\n%s", when, name, got, want)
	}
}

// sessions is what the API says of a node's sessions, in short.
func (s *sim) sessions(node string) string {
	n, ok := s.agents.Peek(node)
	if !ok {
		return ""
	}
	var out []string
	for _, b := range n.Status.BGP {
		one := fmt.Sprintf("%s %s", b.Peer, b.State)
		if b.Reason != "" {
			one += "/" + b.Reason
		}
		if b.State == v1alpha1.BGPEstablished {
			one += fmt.Sprintf(" %d", b.Prefixes)
		}
		if b.Draining != "" {
			one += " draining " + b.Draining
		}
		out = append(out, one)
	}
	return strings.Join(out, "; ")
}

func (n *simNode) BGP(context.Context, []loadbalancer.Interface) loadbalancer.BGPConfig {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.s.bgp
}

func (n *simNode) HasBGP() bool { return len(n.BGP(n.s.t.Context(), nil).Sessions) > 0 }

func (n *simNode) Own() ([]kernel.Link, error) { return n.Links() }

// mark is what the API says of a node from now on.
func (s *sim) mark(name loadbalancer.NodeName, is loadbalancer.Node) {
	s.mu.Lock()
	s.marks[name] = is
	s.mu.Unlock()
	s.markAll()
}
