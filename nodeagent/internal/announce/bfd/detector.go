// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// farewell bounds how long [Detector.Run] goes on saying AdminDown when it is to end.
const farewell = time.Second

// patience bounds how long a new session listens before it speaks: twice the interval in
// which a peer that holds it for Up speaks, if that is not more.
const patience = time.Second

// Options of a Detector. The zero value is fine.
type Options struct {
	// Random is uniform in [0,1); nil for math/rand's.
	Random func() float64
}

// Detector runs BFD sessions. Its methods are safe for concurrent use and do not block.
type Detector struct {
	random  func() float64
	wake    chan struct{}
	changed chan struct{}

	mu        sync.Mutex
	sessions  map[string]*session // guarded by mu
	leaving   []*session          // guarded by mu; they say goodbye
	listeners map[kind]*listener  // guarded by mu
	// faults and retry are of listeners that could not be opened.
	faults    map[kind]string    // guarded by mu
	retry     map[kind]time.Time // guarded by mu
	strangers Drops              // guarded by mu
	order     uint64             // guarded by mu; of the youngest session
	// issued are the discriminators of all sessions of this run.
	issued map[uint32]struct{} // guarded by mu
	armed  time.Time           // guarded by mu; when Run looks next
}

// New makes a detector that watches nobody.
func New(o Options) *Detector {
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return &Detector{
		random: o.Random, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		sessions: make(map[string]*session), listeners: make(map[kind]*listener),
		faults: make(map[kind]string), retry: make(map[kind]time.Time), issued: make(map[uint32]struct{}),
	}
}

// Watch begins to watch a peer, or goes on with other settings, which the peer is told by a
// Poll Sequence. A source that is not valid is the kernel's choice. A MinTTL below 255 is a
// session over several hops (RFC 5883), 0 means 255. A link-local peer has a zone.
func (d *Detector) Watch(key string, peer, source netip.Addr, b loadbalancer.BFDSession) {
	d.mu.Lock()
	defer d.mu.Unlock()
	minTTL := int(b.MinTTL)
	if minTTL == 0 {
		minTTL = maxTTL
	}
	t := target{peer: peer.Unmap(), source: source.Unmap(), multi: minTTL < maxTTL}
	s, ok := d.sessions[key]
	if ok && s.target == t && s.minTTL == minTTL && s.m.settings == settingsOf(b) {
		return
	}
	if ok && s.target != t {
		s.m.end()
		d.leave(s)
		ok = false
	}
	if !ok {
		d.order++
		s = newSession(t, d.discriminator(), d.random, time.Now())
		s.order = d.order
		s.m.quiet = time.Now().Add(min(2*b.Receive, patience))
		d.sessions[key] = s
		d.rivals()
	}
	s.minTTL = minTTL
	s.m.configure(settingsOf(b))
	d.poke()
}

// Forget ends a session. The peer is told AdminDown, which is no reason for it to hold this
// side for gone (RFC 5882 §4.2).
func (d *Detector) Forget(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sessions[key]
	if !ok {
		return
	}
	delete(d.sessions, key)
	s.m.end()
	d.leave(s)
	d.rivals()
	d.poke()
}

// Suspend ends a session of this run for the next one to take up: the peer is asked to wait
// for a minute, and holds the session for Up meanwhile. It is for restarts that are meant
// to go unnoticed: routers take AdminDown for the end of BGP too, RFC 5882 §4.2 or not. A
// session that is not Up is forgotten.
func (d *Detector) Suspend(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sessions[key]
	if !ok {
		return
	}
	delete(d.sessions, key)
	s.m.suspend()
	d.leave(s)
	d.rivals()
	d.poke()
}

// State is AdminDown, Down, Init or Up, "" for what is not watched. Falls counts how often
// the session left Up in a way that says that the peer, or the way to it, is gone. Why says
// in words what ended it last, or why it cannot be.
func (d *Detector) State(key string) (state string, falls uint64, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sessions[key]
	if !ok {
		return "", 0, ""
	}
	st := s.state()
	return st.Local, st.Falls, st.Why
}

// States are all sessions by key.
func (d *Detector) States() map[string]State {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]State, len(d.sessions))
	for key, s := range d.sessions {
		out[key] = s.state()
	}
	return out
}

// Strangers counts packets that were dropped and belong to no session.
func (d *Detector) Strangers() Drops {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.strangers
}

// Changed has a token when an answer of [Detector.State] has changed. It has one receiver.
func (d *Detector) Changed() <-chan struct{} { return d.changed }

// Run runs the sessions until ctx ends, then tells their peers AdminDown, three times in
// about 200 ms, and returns. It is called once.
func (d *Detector) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(d.round(ctx, time.Now()))
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
	}
	d.mu.Lock()
	for key, s := range d.sessions {
		s.m.end()
		d.leave(s)
		delete(d.sessions, key)
	}
	d.mu.Unlock()
	for deadline := time.Now().Add(farewell); ; <-timer.C {
		wait := d.round(context.WithoutCancel(ctx), time.Now())
		d.mu.Lock()
		left := len(d.leaving)
		d.mu.Unlock()
		if left == 0 || time.Now().After(deadline) {
			break
		}
		timer.Reset(min(wait, farewell))
	}
	d.mu.Lock()
	for _, s := range d.leaving {
		s.close()
	}
	d.leaving = nil
	d.mu.Unlock()
	d.round(context.WithoutCancel(ctx), time.Now()) // closes what listens
	return nil
}

// round does what is due and returns how long there is nothing more to do.
func (d *Detector) round(ctx context.Context, now time.Time) time.Duration {
	for _, l := range d.listen(ctx, now) {
		// Not with the lock held: the reader may wait for it, and is waited for here.
		if err := l.conn.Close(); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot close a socket", "port", l.kind.port())
		}
		<-l.done
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		d.bar(s)
		d.tick(s, now)
	}
	for _, s := range d.leaving {
		d.tick(s, now)
	}
	d.leaving = slices.DeleteFunc(d.leaving, func(s *session) bool {
		if s.m.ended {
			s.close()
			d.poke() // its listener may be needed no more
		}
		return s.m.ended
	})
	d.armed = d.next(now)
	return time.Until(d.armed)
}

// tick has a session do what is due. Before a peer is held for gone, what lies in the socket
// is read: this process may have been stalled, and the peer alive.
func (d *Detector) tick(s *session, now time.Time) {
	if l := d.listeners[s.kind()]; l != nil && s.m.due(now) {
		err := l.raw.Control(func(fd uintptr) {
			_, err := l.drain(fd, func(a arrival) { d.take(l, now, &a) })
			if err != nil && l.broken == nil {
				l.broken = err
			}
		})
		if err != nil && l.broken == nil {
			l.broken = err
		}
	}
	d.follow(s, now, s.tick(now))
}

// follow does what a session asks for.
func (d *Detector) follow(s *session, now time.Time, out output) {
	fault, objection := s.fault, s.objection
	if out.send {
		s.send(now, &out.packet)
	}
	if out.changed || s.fault != fault || s.objection != objection {
		d.tell()
	}
}

// take takes a packet from a socket; d.mu is held.
func (d *Detector) take(l *listener, now time.Time, a *arrival) {
	for _, s := range d.sessions {
		if s.kind() != l.kind || s.rival != "" || !s.owns(a) {
			continue
		}
		d.follow(s, now, s.take(now, a, d.own))
		if at, ok := s.m.next(); ok && at.Before(d.armed) {
			d.poke()
		}
		return
	}
	d.strangers[Stranger]++
}

// bar finds out whether a session may send. Without a socket to hear answers it must not:
// another program on this node may have a session with the same peer, which that would
// break. A session that may not goes on counting time, so that one that was Up ends.
func (d *Detector) bar(s *session) {
	barred := d.faults[s.kind()]
	if s.rival != "" {
		barred = fmt.Sprintf("peer %q is watched at the same address", s.rival)
	}
	if !s.peer.IsValid() {
		barred = "the peer has no address"
	}
	if s.barred != barred {
		s.barred = barred
		d.tell()
	}
}

// next is when to look again, in an hour at most.
func (d *Detector) next(now time.Time) time.Time {
	at := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	for _, s := range d.sessions {
		if t, ok := s.m.next(); ok {
			sooner(t)
		}
	}
	for _, s := range d.leaving {
		if t, ok := s.m.next(); ok {
			sooner(t)
		}
	}
	for _, t := range d.retry {
		sooner(t)
	}
	return at
}

// listen opens the sockets that sessions need. It returns those that nobody needs and that
// are broken, which are to be closed.
func (d *Detector) listen(ctx context.Context, now time.Time) []*listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	needed := make(map[kind]bool)
	for _, s := range d.sessions {
		if s.peer.IsValid() {
			needed[s.kind()] = true
		}
	}
	for _, s := range d.leaving {
		needed[s.kind()] = true
	}
	var unneeded []*listener
	for k, l := range d.listeners {
		if l.broken != nil {
			d.faults[k], d.retry[k] = l.broken.Error(), now.Add(againListener)
		}
		if l.broken != nil || !needed[k] {
			unneeded = append(unneeded, l)
			delete(d.listeners, k)
		}
	}
	for k := range d.retry {
		if !needed[k] {
			delete(d.retry, k)
			delete(d.faults, k)
		}
	}
	for k := range needed {
		if d.listeners[k] == nil && !now.Before(d.retry[k]) {
			d.open(ctx, k, now)
		}
	}
	return unneeded
}

func (d *Detector) open(ctx context.Context, k kind, now time.Time) {
	l, err := listen(ctx, k)
	if err != nil {
		if d.faults[k] == "" {
			klog.FromContext(ctx).Error(err, "Cannot listen for BFD", "port", k.port(), "ipv6", k.six)
		}
		d.faults[k], d.retry[k] = err.Error(), now.Add(againListener)
		return
	}
	delete(d.faults, k)
	delete(d.retry, k)
	d.listeners[k] = l
	go d.read(l)
}

// read reads a socket until it is closed.
func (d *Detector) read(l *listener) {
	defer close(l.done)
	var broken error
	err := l.raw.Read(func(fd uintptr) bool {
		for {
			empty, err := l.drain(fd, func(a arrival) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.take(l, time.Now(), &a)
			})
			if err != nil {
				broken = err
				return true
			}
			if empty {
				return false
			}
		}
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if broken == nil {
		broken = err // of a socket that was closed: nobody looks at it any more
	}
	l.broken = broken
	d.poke()
}

// leave lets a session say its goodbyes, if it has any.
func (d *Detector) leave(s *session) {
	if s.m.ended {
		s.close()
		return
	}
	d.leaving = append(d.leaving, s)
}

// rivals finds sessions with the same target: the oldest runs.
func (d *Detector) rivals() {
	for _, s := range d.sessions {
		s.rival = ""
		oldest := s.order
		for key, o := range d.sessions {
			if o.order < oldest && s.clashes(o.target) {
				s.rival, oldest = key, o.order
			}
		}
	}
}

// discriminator is random, not 0 and of no other session (RFC 5880 §6.8.1).
func (d *Detector) discriminator() uint32 {
	for {
		var b [4]byte
		_, _ = crand.Read(b[:]) // never fails
		n := binary.BigEndian.Uint32(b[:])
		if n == 0 || d.own(n) {
			continue
		}
		d.issued[n] = struct{}{}
		return n
	}
}

// own says whether a discriminator is, or was, of a session of this run.
func (d *Detector) own(n uint32) bool {
	_, ok := d.issued[n]
	for _, s := range d.sessions {
		ok = ok || s.m.local == n
	}
	return ok
}

func (d *Detector) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Detector) tell() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}
