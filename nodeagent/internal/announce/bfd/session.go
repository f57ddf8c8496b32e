// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"errors"
	"fmt"
	"net"
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
	// ifindex of a link-local peer's interface, 0 if not known.
	ifindex int
	port    uint16    // of sender, and of the next one
	opened  time.Time // when sender was, or could not be, opened

	counters State // what state does not compute
	// fault is what keeps packets from being sent.
	fault string
	// objection is what is wrong with a peer that is not heard, as far as that is known.
	objection string
	// told is the address that the peer speaks to: it knows this side by it.
	told netip.Addr
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
	if s.peer.Zone() == "" {
		return true
	}
	// Until something was sent, the interface is not known by its number.
	if s.ifindex == 0 {
		if link, err := net.InterfaceByName(s.peer.Zone()); err == nil {
			s.ifindex = link.Index
		}
	}
	return s.ifindex == a.ifindex
}

// take looks at a packet of the peer's address. own says whether a discriminator is, or was,
// of a session of this run of the program.
func (s *session) take(now time.Time, a *arrival, own func(uint32) bool) output {
	h, cause, ok := parse(a.payload)
	resumes := ok && s.m.resumes(&h) && !own(h.YourDiscriminator)
	if ok && !resumes && (h.YourDiscriminator != 0 && h.YourDiscriminator != s.m.local || h.MyDiscriminator == s.m.local) {
		cause, ok = Discriminator, false // or an own packet that came back
	}
	if a.ttl < s.minTTL { // before all else
		cause, ok = TTL, false
	}
	if !ok {
		s.drop(cause, a)
		return output{}
	}
	s.counters.In++
	s.objection = ""
	if !a.to.IsMulticast() {
		s.told = a.to
	}
	before, detection := s.m.state, s.m.detection()
	var out output
	if resumes {
		out = s.m.resume(now, &h)
	} else {
		out = s.m.receive(now, &h)
	}
	s.note(now, before, detection)
	return out
}

// drop counts a packet. While nothing better is heard, its fault is worth telling.
func (s *session) drop(cause Cause, a *arrival) {
	s.counters.Dropped[cause]++
	if s.m.remote != 0 {
		return
	}
	switch cause {
	case TTL:
		s.objection = fmt.Sprintf("the peer's packets come with TTL %d, %d is the least that is taken", a.ttl, s.minTTL)
	case Authenticated:
		s.objection = "the peer asks for authentication, which is not served"
	case Malformed, Stranger, Discriminator, causes: // of an older session, or of anybody
	}
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
		if refused && s.m.remote == 0 {
			s.objection = fmt.Sprintf("nothing listens on the peer's UDP port %d", s.kind().port())
		}
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

// open makes sure of a socket with the right source address. Once a session is Up, it is.
func (s *session) open(now time.Time) error {
	source := s.source
	if !source.IsValid() {
		source = s.told
	}
	if s.sender != nil && (s.m.state == wire.StateUp || now.Sub(s.opened) < againSender) {
		return nil
	}
	wrong := source.IsValid() && s.sender != nil && s.sender.local != source.WithZone("").WithZone("")
	if s.sender != nil && !wrong && now.Sub(s.opened) < fresh {
		return nil
	}
	if s.sender == nil && now.Sub(s.opened) < againSender {
		return errWaiting
	}
	s.close()
	s.opened = now
	sender, port, err := openSender(s.peer, source, s.kind().port(), s.port)
	if err != nil {
		s.told = netip.Addr{} // the next attempt may choose freely
		return err
	}
	s.sender, s.port, s.ifindex = sender, port, sender.ifindex
	return nil
}

func (s *session) close() {
	if s.sender != nil {
		_ = s.sender.conn.Close() // nothing was read or written that this could lose
		s.sender = nil
	}
}
