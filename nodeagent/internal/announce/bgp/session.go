// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// dialTime bounds an attempt to connect: a peer on a network takes milliseconds.
	dialTime = 5 * time.Second
	// quick is how long a session lives at least that is not damped after its end.
	quick = 10 * time.Second
	// A router that was just found may not have found us yet, and hangs up: for some tries the
	// wait is short, as our advertisements are seconds apart.
	strange = 10
	meet    = time.Second
)

// synced is what the server was last given. Plans are not written to, so that the same
// slice is the same routes.
type synced struct {
	hops     hops
	greeting greeting
	first    *loadbalancer.BGPRoute
	count    int
}

func first(routes []loadbalancer.BGPRoute) *loadbalancer.BGPRoute {
	if len(routes) == 0 {
		return nil
	}
	return &routes[0]
}

// totals outlive the sessions of a peer: one may end while the next is there already.
type totals struct{ flaps, updates atomic.Uint64 }

// session is one session, from New to end. Its connections come and go.
type session struct {
	spec loadbalancer.BGPSession
	// detector watches the peer, nil without BFD.
	detector Detector
	// door that the peer comes in by, nil where we connect to it.
	door *door
	// changed is called when the answer of snapshot changes.
	changed func()
	// gate is closed when the session may begin.
	gate <-chan struct{}
	// vacant is closed when what had the same peer is gone.
	vacant <-chan struct{}
	done   chan struct{}

	kick  chan struct{} // routes, next hops or BFD have changed
	retry chan struct{} // a wait between attempts may end

	ribMu  sync.Mutex // held to change rib; taken before mu
	rib    *rib       // guarded by ribMu
	synced synced     // guarded by ribMu

	mu       sync.Mutex
	idle     time.Duration // guarded by mu
	wait     time.Duration // guarded by mu: between attempts
	strict   bool          // guarded by mu
	state    SessionState  // guarded by mu
	totals   *totals
	want     []loadbalancer.BGPRoute
	at       NextHops
	line     *line
	greeting greeting
	falls    uint64
	bfd      string
	told     int // prefixes
	left     leftOut
	cancel   context.CancelFunc
	ended    string        // why it fell out of Established last
	before   cause         // why the last attempt ended
	last     *notification // what the peer is told at the end of the session
}

// snapshot of the session as it stands.
func (s *session) snapshot() SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state
	st.Flaps, st.Updates, st.BFD = s.totals.flaps.Load(), s.totals.updates.Load(), s.bfd
	if st.State != Established {
		st.Prefixes, st.LeftOut = 0, 0
		return st
	}
	st.Prefixes = s.told
	if st.LeftOut = s.left.count; st.LeftOut > 0 {
		st.Reason, st.Message = s.left.reason, s.left.why
	}
	return st
}

// routes that the peer was told.
func (s *session) routes() []loadbalancer.BGPRoute {
	s.mu.Lock()
	up, g := s.state.State == Established, s.greeting
	s.mu.Unlock()
	if !up {
		return nil // and the server may be busy with a new connection for long
	}
	s.ribMu.Lock()
	defer s.ribMu.Unlock()
	r := make([]loadbalancer.BGPRoute, 0, len(s.rib.told))
	for p, t := range s.rib.told {
		if p.Addr().Is4() && g.v4 || p.Addr().Is6() && g.v6 {
			r = append(r, t.route)
		}
	}
	slices.SortFunc(r, func(a, b loadbalancer.BGPRoute) int { return a.Prefix.Compare(b.Prefix) })
	return r
}

// apply says what is wanted; the session does it in its own time.
func (s *session) apply(spec loadbalancer.BGPSession, routes []loadbalancer.BGPRoute, at NextHops) {
	s.mu.Lock()
	s.idle, s.wait, s.strict = spec.IdleHold, spec.Connect, spec.BFD.Strict
	s.want, s.at = routes, at
	s.mu.Unlock()
	poke(s.kick)
}

// end ends the session; the peer is told n, or nothing. It does not wait: done does.
func (s *session) end(n *notification, why string) {
	s.mu.Lock()
	s.last = n
	l := s.line
	s.mu.Unlock()
	s.cancel()
	if l != nil {
		l.end(n, cause{reason.NotEstablished, why})
	}
}

// run serves the session until ctx ends, which end does.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	if s.door != nil {
		defer s.door.close()
	}
	for _, c := range []<-chan struct{}{s.vacant, s.gate} {
		select {
		case <-ctx.Done():
			return
		case <-c:
		}
	}
	r, err := newRIB(ctx, &s.spec)
	if err != nil {
		klog.FromContext(ctx).Error(err, "BGP session cannot begin", "peer", s.spec.Peer)
		s.refuse(reason.InvalidPeer, err.Error())
		<-ctx.Done()
		return
	}
	s.ribMu.Lock()
	s.rib = r
	s.ribMu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { s.keep(ctx) })
	s.attempts(ctx)
	wg.Wait()
	r.close()
}

func (s *session) refuse(why reason.Reason, message string) {
	s.mu.Lock()
	s.state.State, s.state.Reason, s.state.Message = Refused, why, message
	s.mu.Unlock()
	s.changed()
}

// attempts connects again and again.
func (s *session) attempts(ctx context.Context) {
	short, tries := 0, 0
	for ctx.Err() == nil {
		if !s.waitBFD(ctx) {
			return
		}
		drain(s.retry)
		lived, c := s.attempt(ctx)
		s.fell(ctx, c)
		s.mu.Lock()
		idle, wait := s.idle, s.wait
		s.mu.Unlock()
		var retry <-chan struct{}
		switch {
		case lived == 0 && s.door == nil:
			idle, retry = wait, s.retry
			if s.spec.Interface != "" && tries < strange {
				idle = min(wait, meet)
			}
			tries++
		case lived < quick && c.reason != reason.BFDDown:
			// What falls again and again costs the router more than us.
			idle, short = min(idle<<min(short, 5), max(idle, wait)), short+1
		default:
			short = 0
		}
		sleep(ctx, idle, retry)
	}
}

// waitBFD waits for a strict session's peer to be there.
func (s *session) waitBFD(ctx context.Context) bool {
	for {
		s.mu.Lock()
		blocked := s.detector != nil && s.strict && s.bfd != "Up"
		if blocked {
			s.state.State, s.state.Reason = Idle, reason.BFDDown
			s.state.Message = "waits for BFD, as the profile is strict"
		}
		s.mu.Unlock()
		if !blocked {
			return ctx.Err() == nil
		}
		s.changed()
		select {
		case <-ctx.Done():
			return false
		case <-s.retry:
		case <-time.After(time.Second):
		}
	}
}

// attempt connects once and serves the connection. It says how long the session was
// Established.
func (s *session) attempt(ctx context.Context) (time.Duration, cause) {
	outer, c := s.connection(ctx)
	if outer == nil {
		return 0, c
	}
	s.ribMu.Lock()
	inner, err := s.rib.connect(ctx)
	s.ribMu.Unlock()
	if err != nil {
		_ = outer.Close() // was not used
		return 0, cause{reason.NotEstablished, err.Error()}
	}
	local, _ := netip.ParseAddrPort(outer.LocalAddr().String())
	l := &line{spec: &s.spec, outer: outer, inner: inner, opened: s.opened, reached: s.reach, ended: make(chan struct{}), answered: make(chan struct{})}
	l.hangUp = func() { s.hangUp(context.WithoutCancel(ctx)) } // the neighbour must go all the same
	s.mu.Lock()
	s.line, s.greeting, s.state.Local, s.state.State = l, greeting{}, local.Addr(), OpenSent
	last := s.last
	s.mu.Unlock()
	s.changed()
	if ctx.Err() != nil {
		l.end(last, cause{reason.NotEstablished, "the session is ended"})
	}
	c = s.serve(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = nil
	if s.state.State != Established {
		return 0, c
	}
	return max(1, time.Since(s.state.Since)), c
}

// connection to the peer, or why there is none.
func (s *session) connection(ctx context.Context) (net.Conn, cause) {
	if s.door != nil {
		return s.await(ctx)
	}
	s.reach(Connect)
	dial, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	outer, err := kernel.DialTCP(dial, s.target())
	if err != nil {
		s.reach(Active)
		return nil, cause{reason.NotEstablished, s.noAnswer(err)}
	}
	return outer, cause{}
}

// serve serves a connection until it ends.
func (s *session) serve(l *line) cause {
	if s.door == nil {
		return l.run()
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.answerAgain(l, ended) })
	c := l.run()
	close(ended)
	wg.Wait()
	return c
}

// noAnswer says why there is no connection. A peer that checks passwords or TTLs is silent
// to who has the wrong one.
func (s *session) noAnswer(err error) string {
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		return err.Error()
	}
	switch {
	case s.spec.Password != "":
		return err.Error() + " (no answer: is the password the peer's?)"
	case s.spec.TTLSecurity > 0:
		return err.Error() + " (no answer: is the peer within the hops, and does it check them too?)"
	}
	return err.Error()
}

func (s *session) hangUp(ctx context.Context) {
	s.ribMu.Lock()
	defer s.ribMu.Unlock()
	s.rib.disconnect(ctx)
}

// target of the connection.
func (s *session) target() kernel.TCPDial {
	d := kernel.TCPDial{To: netip.AddrPortFrom(s.spec.Addr, s.spec.Port), Source: s.spec.Source, Password: s.spec.Password}
	switch {
	case s.spec.TTLSecurity > 0:
		d.TTL, d.MinTTL = 255, uint8(256-int(s.spec.TTLSecurity)) //nolint:gosec // 1 to 255
	case s.spec.MultiHop, s.spec.Interface != "": // whose router may check it (RFC 5082)
		d.TTL = 255
	case !s.spec.Internal():
		d.TTL = 1
	}
	return d
}

// opened has the routes ready before the server answers the peer's OPEN.
func (s *session) opened(g greeting) error {
	s.mu.Lock()
	s.greeting, s.state.ASN = g, g.asn
	s.mu.Unlock()
	s.sync()
	return nil
}

// sync has the server tell what is wanted.
func (s *session) sync() {
	s.ribMu.Lock()
	defer s.ribMu.Unlock()
	s.mu.Lock()
	want, at, g, local := s.want, s.at, s.greeting, s.state.Local
	up := s.state.State == Established
	s.mu.Unlock()
	if g.asn == 0 {
		return // No peer yet: its OPEN decides next hops.
	}
	now := synced{hopsOf(local, s.spec.Interface != "", g, at), g, first(want), len(want)}
	if now == s.synced {
		return // as most plans are
	}
	s.synced = now
	changed, err := s.rib.set(want, now.hops)
	if err != nil {
		s.synced = synced{} // and once more with the next plan
	}
	left := leaves(want, s.rib, now.hops, g)
	s.mu.Lock()
	s.told, s.left = len(want)-left.count, left
	if up {
		s.totals.updates.Add(uint64(changed)) //nolint:gosec // a count
	}
	if err != nil {
		s.state.Message = err.Error()
	}
	s.mu.Unlock()
	if changed > 0 {
		s.changed()
	}
}

// keep follows what is wanted, and BFD.
func (s *session) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		}
		s.watchBFD()
		s.sync()
	}
}

// watchBFD ends the connection when BFD fell, and begins one when it came up.
func (s *session) watchBFD() {
	if s.detector == nil {
		return
	}
	state, falls, why := s.detector.State(s.spec.Peer)
	s.mu.Lock()
	fell, came := falls > s.falls, state == "Up" && s.bfd != "Up"
	differs := s.bfd != state
	s.falls, s.bfd = falls, state
	l := s.line
	s.mu.Unlock()
	if fell && l != nil {
		l.end(&notification{code: codeCease, subcode: subBFDDown}, cause{reason.BFDDown, "BFD says that the peer is not there: " + why})
	}
	if came {
		poke(s.retry)
	}
	if differs {
		s.changed()
	}
}

// reach notes a state that is not the end of anything.
func (s *session) reach(st State) {
	s.mu.Lock()
	s.state.State = st
	if st == Established {
		s.state.Since, s.state.Reason = time.Now(), ""
		s.state.Message = ""
		if s.ended != "" { // not to be read as if it were so now
			s.state.Message = "before: " + s.ended
		}
		s.totals.updates.Add(uint64(s.told)) //nolint:gosec // a count
	}
	s.mu.Unlock()
	s.changed()
}

// fell notes the end of a connection, or of an attempt.
func (s *session) fell(ctx context.Context, c cause) {
	s.mu.Lock()
	was := s.state.State == Established
	if was {
		s.totals.flaps.Add(1)
		s.ended = c.why
		s.state.Since = time.Now()
		s.state.State = Idle
	} else {
		s.state.State = Active
	}
	fresh := s.before != c
	s.before = c
	s.state.Reason, s.state.Message = c.reason, c.why
	s.state.Local, s.greeting = netip.Addr{}, greeting{}
	s.mu.Unlock()
	s.changed()
	if was || fresh {
		klog.FromContext(ctx).Info("BGP session is down", "peer", s.spec.Peer, "reason", c.reason, "why", c.why)
	}
}

// sleep waits, or less if early has a token.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-early:
	}
}

// poke leaves a token.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drain takes a token away.
func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
