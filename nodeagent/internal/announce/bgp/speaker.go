// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// defaultRestartWait is how long routes may take after a start, see [Options].
const defaultRestartWait = 3 * time.Second

// wanted is what was applied last.
type wanted struct {
	plan loadbalancer.BGPPlan
	hops NextHops
}

// Speaker has this node's sessions.
type Speaker struct {
	options  Options
	house    *house
	changed  chan struct{}
	applied  chan struct{}
	complete chan struct{} // closed: sessions with graceful restart may begin
	stop     chan struct{} // closed: sessions end
	stopped  chan struct{} // closed: they have ended

	mu       sync.Mutex
	want     *wanted             // guarded by mu
	finished bool                // guarded by mu: Complete was called
	stopping bool                // guarded by mu
	graceful bool                // guarded by mu: how
	running  bool                // guarded by mu
	sessions map[string]*session // guarded by mu; written by Run only
	totals   map[string]*totals  // guarded by mu
}

// New makes a speaker without sessions.
func New(o Options) *Speaker {
	if o.RestartWait == 0 {
		o.RestartWait = defaultRestartWait
	}
	return &Speaker{
		options: o, house: newHouse(o.ListenPort), changed: make(chan struct{}, 1), applied: make(chan struct{}, 1),
		complete: make(chan struct{}), stop: make(chan struct{}), stopped: make(chan struct{}),
		sessions: make(map[string]*session), totals: make(map[string]*totals),
	}
}

// Run serves until ctx ends, and returns when nothing of it runs any more. If
// [Speaker.Stop] was not called before, sessions end as by Stop with graceful.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	again := s.running
	s.running = true
	s.mu.Unlock()
	if again {
		return fmt.Errorf("the BGP speaker runs already")
	}
	// Sessions outlive ctx for as long as their end takes.
	work := context.WithoutCancel(ctx)
	var bfd <-chan struct{}
	if s.options.Detector != nil {
		bfd = s.options.Detector.Changed()
	}
	var found <-chan struct{}
	if s.options.Routers != nil {
		found = s.options.Routers.Changed()
	}
	var late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			s.endAll()
			return nil
		case <-s.stop:
			s.endAll()
			<-ctx.Done()
			return nil
		case <-bfd:
			s.each(func(x *session) { poke(x.kick) })
		case <-found:
			s.reconcile(work)
		case <-late:
			s.Complete()
			late = nil
		case <-s.applied:
			if late == nil && !s.isComplete() {
				t := time.NewTimer(s.options.RestartWait)
				defer t.Stop()
				late = t.C
			}
			s.reconcile(work)
		}
	}
}

func (s *Speaker) isComplete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finished
}

func (s *Speaker) each(f func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		f(x)
	}
}

// Apply replaces what is wanted. It does not block; the latest wins. The plan must not be
// written to afterwards.
func (s *Speaker) Apply(plan loadbalancer.BGPPlan, at NextHops) {
	s.mu.Lock()
	s.want = &wanted{plan, at}
	s.mu.Unlock()
	poke(s.applied)
}

// Complete says that what was applied last is all that there is to tell after a start:
// sessions with graceful restart begin now and say so by End-of-RIB (RFC 4724 §4.1). The
// others, and those that come later, do not wait for it.
func (s *Speaker) Complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished {
		s.finished = true
		close(s.complete)
	}
}

// States of all sessions, ascending by peer.
func (s *Speaker) States() []SessionState {
	var all []SessionState
	s.each(func(x *session) { all = append(all, x.snapshot()) })
	slices.SortFunc(all, func(a, b SessionState) int { return cmp.Compare(a.Peer, b.Peer) })
	return all
}

// Routes that a peer was told, ascending by prefix. The caller must not write to them.
func (s *Speaker) Routes(peer string) []loadbalancer.BGPRoute {
	s.mu.Lock()
	x, ok := s.sessions[peer]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	return x.routes()
}

// Changed has a token when an answer of [Speaker.States] has changed.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

// Stop ends all sessions, for good: graceful closes connections without a NOTIFICATION, so
// that peers keep the routes of those with graceful restart (RFC 4724 §4.2); else peers get
// Cease/Administrative Shutdown and forget them. BFD is suspended before, or ended after. Stop
// returns when that is done, or with the error of ctx. Without Run nothing is to be done.
func (s *Speaker) Stop(ctx context.Context, graceful bool) error {
	s.mu.Lock()
	if !s.stopping {
		s.stopping, s.graceful = true, graceful
		close(s.stop)
	}
	running := s.running
	s.mu.Unlock()
	if !running {
		return nil
	}
	select {
	case <-s.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end BGP sessions: %w", ctx.Err())
	}
}

// endAll ends all sessions and waits for it. Only Run calls it, at its end.
func (s *Speaker) endAll() {
	s.mu.Lock()
	quiet := s.graceful || !s.stopping
	s.stopping = true
	var all []*session
	for _, x := range s.sessions {
		all = append(all, x)
	}
	s.mu.Unlock()
	var watched []*session
	for _, x := range all {
		switch {
		case x.detector == nil:
		case quiet && x.spec.GracefulRestart:
			x.detector.Suspend(x.spec.Peer)
		default:
			watched = append(watched, x)
		}
	}
	for _, x := range all {
		if quiet {
			x.end(nil, "this node's agent restarts")
		} else {
			x.end(shutdown(adminDown, "the node leaves"), "this node leaves")
		}
	}
	forget(watched)
	for _, x := range all {
		<-x.done
	}
	s.house.wg.Wait()
	close(s.stopped)
}

// hearing is how long peers have to hear why a session ended before they hear that BFD has,
// too. Both come by different ways, and a peer takes what it reads first for the cause.
const hearing = 100 * time.Millisecond

// forget ends BFD of sessions that were ended.
func forget(ended []*session) {
	if len(ended) == 0 {
		return
	}
	<-time.After(hearing)
	for _, x := range ended {
		x.detector.Forget(x.spec.Peer)
	}
}

// reconcile makes the sessions those that are wanted.
func (s *Speaker) reconcile(ctx context.Context) {
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	if want == nil {
		return // a router was found before there is a plan
	}
	sessions := s.resolve(want.plan.Sessions)
	named := make(map[string]*resolved, len(sessions))
	for i := range sessions {
		named[sessions[i].Peer] = &sessions[i]
	}
	ended := s.retire(named)
	for i := range sessions {
		spec := sessions[i].BGPSession
		s.mu.Lock()
		x := s.sessions[spec.Peer]
		s.mu.Unlock()
		if x == nil {
			x = s.make(ctx, &sessions[i], ended[spec.Peer])
		} else if x.detector != nil {
			x.detector.Watch(spec.Peer, spec.Addr, spec.Source, spec.BFD)
		}
		if sessions[i].missing != "" {
			x.lacks(&sessions[i])
		}
		x.apply(spec, want.plan.Routes[spec.Peer], want.hops)
	}
	s.notify()
}

// retire ends sessions that are not wanted as they are, and says by peer when they are gone.
func (s *Speaker) retire(named map[string]*resolved) map[string]<-chan struct{} {
	ended := make(map[string]<-chan struct{})
	var old, watched []*session
	s.mu.Lock()
	for name, x := range s.sessions {
		now, ok := named[name]
		if ok && identity(&now.BGPSession) == identity(&x.spec) {
			continue
		}
		delete(s.sessions, name)
		if !ok {
			delete(s.totals, name)
		}
		ended[name] = x.done
		old = append(old, x)
		if x.detector != nil && (!ok || now.BFD.Profile == "" || now.Addr != x.spec.Addr) {
			watched = append(watched, x)
		}
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, x := range old {
		wg.Go(func() { x.end(farewell(&x.spec, named[x.spec.Peer])) })
	}
	wg.Wait()
	forget(watched)
	return ended
}

// farewell is what a peer is told when its session becomes another, or none.
func farewell(old *loadbalancer.BGPSession, now *resolved) (*notification, string) {
	change := &notification{code: codeCease, subcode: 6}
	switch {
	case now == nil:
		return &notification{code: codeCease, subcode: 3}, "the peer is not configured any more"
	case now.missing != "":
		return change, now.missing
	case now.Interface != "" && now.Interface == old.Interface && now.Addr != old.Addr:
		return change, fmt.Sprintf("the router's address on %s has changed from %s to %s", now.Interface, old.Addr.WithZone(""), now.Addr.WithZone(""))
	case now.GracefulRestart && old.GracefulRestart && now.Addr == old.Addr && ownASN(&now.BGPSession) == ownASN(old):
		return nil, "the configuration changed" // and routes stay meanwhile
	default:
		return change, "the configuration changed"
	}
}

// identity is a session without what can change while it is up.
func identity(s *loadbalancer.BGPSession) loadbalancer.BGPSession {
	id := *s
	id.Connect, id.IdleHold, id.BFD = 0, 0, loadbalancer.BFDSession{}
	if s.BFD.Profile != "" {
		id.BFD.Profile = "some"
	}
	return id
}

// make begins a session.
func (s *Speaker) make(ctx context.Context, what *resolved, before <-chan struct{}) *session {
	spec := what.BGPSession
	if before == nil {
		before = closed()
	}
	x := &session{
		spec: spec, changed: s.notify, vacant: before, gate: closed(), done: make(chan struct{}),
		kick: make(chan struct{}, 1), retry: make(chan struct{}, 1),
	}
	x.state = SessionState{Peer: spec.Peer, Address: address(&spec), ASN: spec.PeerASN, State: Idle, Since: time.Now(), Reason: reason.NotEstablished}
	if spec.GracefulRestart {
		x.gate = s.complete
	}
	s.mu.Lock()
	if s.totals[spec.Peer] == nil {
		s.totals[spec.Peer] = &totals{}
	}
	x.totals = s.totals[spec.Peer]
	s.sessions[spec.Peer] = x
	s.mu.Unlock()
	if what.missing != "" {
		x.cancel = func() {}
		close(x.done)
		return x
	}
	if why, message := s.refusal(&spec); why != "" {
		x.cancel = func() {}
		x.refuse(why, message)
		close(x.done)
		return x
	}
	if spec.BFD.Profile != "" {
		x.detector = s.options.Detector
		x.detector.Watch(spec.Peer, spec.Addr, spec.Source, spec.BFD)
		_, x.falls, _ = x.detector.State(spec.Peer) // those before are not ours
	}
	ctx, x.cancel = context.WithCancel(ctx)
	if spec.Passive {
		// At once, so that the socket that an earlier session leaves stays open.
		x.door = s.house.door(&x.spec, x.target())
		x.waits(x.door.open(ctx))
	}
	go x.run(ctx)
	return x
}

// refusal says why a session cannot begin, "" if it can.
func (s *Speaker) refusal(spec *loadbalancer.BGPSession) (why reason.Reason, message string) {
	switch {
	case !spec.Addr.IsValid():
		message = "the peer has no address"
	case !spec.RouterID.Is4():
		message = "the session has no router id"
	case !spec.IPv4 && !spec.IPv6:
		message = "the session carries no address family"
	case spec.BFD.Profile != "" && s.options.Detector == nil:
		message = "BFD is not available on this node"
	case spec.Passive && s.options.ListenPort == 0:
		return reason.PassiveNotEnabled, "the peer is passive, and this node's agent does not listen for peers: deploy the overlay bgp-listen " +
			"(--bgp-listen-port=179 and the capability NET_BIND_SERVICE), or remove passive"
	default:
		return "", ""
	}
	return reason.InvalidPeer, message
}

// Strangers counts connections of nobody that is a peer.
func (s *Speaker) Strangers() uint64 { return s.house.strangers.Load() }

func (s *Speaker) notify() { poke(s.changed) }

func address(s *loadbalancer.BGPSession) string {
	if !s.Addr.IsValid() {
		return s.Interface
	}
	return s.Addr.String()
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
