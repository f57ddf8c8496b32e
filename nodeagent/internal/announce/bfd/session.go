// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"errors"
	"net/netip"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	// How long to wait before a socket that fails is made anew.
	againSender, againListener = 200 * time.Millisecond, 5 * time.Second
	// fresh is how old a socket may get while its peer is not heard: the kernel has chosen
	// its source address by routes and addresses that may have changed.
	fresh = 5 * time.Second
)

// target is whom a session watches. Another target is another session.
type target struct {
	peer, source netip.Addr
	multi        bool
}

func (t target) kind() kind { return kind{six: t.peer.Is6(), multi: t.multi} }

// clashes says that packets without a discriminator could be of either.
func (t target) clashes(o target) bool {
	return t.peer == o.peer && t.multi == o.multi && (t.source == o.source || !t.source.IsValid() || !o.source.IsValid())
}

// session is one session with its socket. All is guarded by Detector.mu.
type session struct {
	target
	m      *machine
	minTTL int
	// order in which sessions were made; rival is the key of an older one with this target.
	order uint64
	rival string
	// barred is why nothing may be sent, "" if it may.
	barred string

	sender *sender
	port   uint16    // of sender, and of the next one
	opened time.Time // when sender was, or could not be, opened

	counters State // what state does not compute
	// fault is what keeps packets from being sent; refused that the peer's kernel says that
	// nobody listens there.
	fault   string
	refused bool
}

func newSession(t target, local uint32, random func() float64, now time.Time) *session {
	return &session{target: t, m: newMachine(local, settings{}, random), counters: State{Since: now, Why: "the peer was not heard yet"}}
}

func settingsOf(b loadbalancer.BFDSession) settings {
	return settings{transmit: b.Transmit, receive: b.Receive, multiplier: max(b.Multiplier, 1), passive: b.Passive}
}

// owns says that a packet without a discriminator is this session's (RFC 5881 §3).
func (s *session) owns(a *arrival) bool {
	if s.peer.WithZone("") != a.from || s.source.IsValid() && s.source.WithZone("") != a.to {
		return false
	}
	return s.peer.Zone() == "" || s.sender != nil && s.sender.ifindex == a.ifindex
}

// take looks at a packet of the peer's address; answer is what is to be sent.
func (s *session) take(now time.Time, a *arrival) output {
	if a.ttl < s.minTTL {
		s.counters.Dropped[TTL]++
		return output{}
	}
	h, cause, ok := parse(a.payload)
	if ok && h.YourDiscriminator != 0 && h.YourDiscriminator != s.m.local {
		cause, ok = Discriminator, false
	}
	if !ok {
		s.counters.Dropped[cause]++
		return output{}
	}
	s.counters.In++
	s.refused = false
	before, detection := s.m.state, s.m.detection()
	out := s.m.receive(now, &h)
	s.note(now, before, detection)
	return out
}

// tick does what is due.
func (s *session) tick(now time.Time) output {
	before, detection := s.m.state, s.m.detection()
	out := s.m.tick(now)
	s.note(now, before, detection)
	return out
}

// note counts a change of state.
func (s *session) note(now time.Time, before wire.StateType, detection time.Duration) {
	if s.m.state == before {
		return
	}
	s.counters.Since = now
	switch {
	case s.m.state == wire.StateUp:
		s.counters.Ups++
	case before == wire.StateUp:
		s.counters.Downs++
	}
	if s.m.state == wire.StateDown {
		s.counters.Why = why(s.m, detection)
	}
}

// send sends a packet if that can be done now.
func (s *session) send(now time.Time, h *wire.BFDHeader) {
	if s.barred != "" {
		return
	}
	b, err := h.MarshalBinary()
	if err == nil {
		err = s.open(now)
	}
	if err == nil {
		var refused bool
		refused, err = s.sender.send(b)
		s.refused = s.refused || refused && s.m.remote == 0
	}
	switch {
	case err == nil:
		s.counters.Out++
		s.fault = ""
		return
	case errors.Is(err, errWaiting): // s.fault says what for
	default:
		s.fault = err.Error()
		if now.Sub(s.opened) >= againSender {
			s.close()
		}
	}
	s.counters.Unsent++
}

// errWaiting says that a socket could not be opened a moment ago.
var errWaiting = errors.New("waiting to open a socket")

// open makes sure of a socket.
func (s *session) open(now time.Time) error {
	stale := s.m.remote == 0 && now.Sub(s.opened) >= fresh
	if s.sender != nil && !stale {
		return nil
	}
	if s.sender == nil && now.Sub(s.opened) < againSender {
		return errWaiting
	}
	s.close()
	s.opened = now
	sender, port, err := openSender(s.peer, s.source, s.kind().port(), s.port)
	if err != nil {
		return err
	}
	s.sender, s.port = sender, port
	return nil
}

func (s *session) close() {
	if s.sender != nil {
		_ = s.sender.conn.Close() // nothing was read or written that this could lose
		s.sender = nil
	}
}
