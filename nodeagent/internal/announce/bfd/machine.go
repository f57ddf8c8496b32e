// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"math"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

const (
	// slow is the least interval between packets while a session is not Up (RFC 5880 §6.8.3).
	slow = time.Second
	// goodbyes is how often a session that ends says so, goodbyeGap how far apart at most.
	goodbyes   = 3
	goodbyeGap = 100 * time.Millisecond
	// absence is how long a peer is asked to wait for the next run of this program.
	absence = 60 * time.Second
)

// settings are what is configured of a session.
type settings struct {
	transmit, receive time.Duration
	multiplier        uint8
	passive           bool
}

// machine is one session. Its times are of the caller's clock; nothing in it waits. The
// variables of RFC 5880 §6.8.1 have their names as comments.
type machine struct {
	settings settings
	// random is uniform in [0,1).
	random func() float64

	state, remoteState wire.StateType      // bfd.SessionState, bfd.RemoteSessionState
	diag, remoteDiag   wire.DiagnosticType // bfd.LocalDiag
	local, remote      uint32              // bfd.LocalDiscr, bfd.RemoteDiscr; remote is 0 while the peer is not heard
	// What is told: bfd.DesiredMinTxInterval and bfd.RequiredMinRxInterval.
	desiredTx, requiredRx time.Duration
	// What is used, which lags behind until a Poll Sequence ends (RFC 5880 §6.8.3).
	usedTx, usedRx time.Duration
	// remoteMinRx is bfd.RemoteMinRxInterval; remoteMinTx and remoteMultiplier are as last received.
	remoteMinRx, remoteMinTx time.Duration
	remoteMultiplier         uint8
	// polling says that packets carry P; again that another Poll Sequence must follow.
	polling, again bool

	// sent and heard are when the last packet went and came; zero for never.
	sent, heard time.Time
	// jitter of the interval after the last packet that was sent.
	jitter float64
	// quiet is until when nothing is sent, so that a session that the peer still has may be
	// taken up first.
	quiet time.Time
	// byes is how many times the end is still to be told, ended that all were.
	byes  int
	ended bool
	// falls counts ends of Up that mean that the peer, or the way to it, is gone.
	falls uint64
}

// output is what a call asks for.
type output struct {
	packet wire.BFDHeader
	send   bool
	// changed says that state is another one now.
	changed bool
}

// newMachine makes a session that is Down. local is not 0 and of no other session.
func newMachine(local uint32, s settings, random func() float64) *machine {
	m := &machine{
		settings: s, random: random, local: local,
		state: wire.StateDown, remoteState: wire.StateDown, remoteMinRx: time.Microsecond, jitter: 1,
		desiredTx: max(s.transmit, slow), requiredRx: s.receive,
	}
	m.usedTx, m.usedRx = m.desiredTx, m.requiredRx
	return m
}

// interval between packets, before jitter (RFC 5880 §6.8.2, §6.8.7).
func (m *machine) interval() time.Duration { return max(m.usedTx, m.remoteMinRx) }

// detection is after how long without a packet the peer is down (RFC 5880 §6.8.4).
func (m *machine) detection() time.Duration {
	return time.Duration(m.remoteMultiplier) * max(m.usedRx, m.remoteMinTx)
}

// silent says that nothing may be sent unasked (RFC 5880 §6.8.7).
func (m *machine) silent() bool {
	return m.remoteMinRx == 0 || m.settings.passive && m.remote == 0
}

// next is when tick is to be called; false for not before something else happens.
func (m *machine) next() (time.Time, bool) {
	if m.ended {
		return time.Time{}, false
	}
	transmit, ok := m.transmitAt()
	if expiry, detecting := m.expiry(); detecting && (!ok || expiry.Before(transmit)) {
		return expiry, true
	}
	return transmit, ok
}

func (m *machine) transmitAt() (time.Time, bool) {
	if m.byes > 0 {
		return m.sent.Add(min(m.interval(), goodbyeGap)), true
	}
	if m.silent() {
		return time.Time{}, false
	}
	if m.sent.IsZero() {
		return m.quiet, true
	}
	return m.sent.Add(time.Duration(float64(m.interval()) * m.jitter)), true
}

// expiry is when the peer has not been heard for too long.
func (m *machine) expiry() (time.Time, bool) {
	if m.remote == 0 || m.byes > 0 {
		return time.Time{}, false
	}
	return m.heard.Add(m.detection()), true
}

// due says that tick would hold the peer for gone.
func (m *machine) due(now time.Time) bool {
	at, ok := m.expiry()
	return ok && !now.Before(at)
}

// tick does what is due.
func (m *machine) tick(now time.Time) output {
	if m.ended {
		return output{}
	}
	if m.due(now) {
		// RFC 5880 §6.8.1: a peer that is not heard has no discriminator. Nor may what it said last
		// about intervals keep this side from speaking.
		m.remote, m.remoteState, m.remoteMinRx, m.polling, m.again = 0, wire.StateDown, time.Microsecond, false, false
		if m.state == wire.StateInit || m.state == wire.StateUp {
			m.enter(wire.StateDown, wire.DiagnosticControlDetectionTimeExpired)
			if m.silent() {
				return output{changed: true}
			}
			return m.emit(now, output{changed: true})
		}
	}
	if at, ok := m.transmitAt(); !ok || now.Before(at) {
		return output{}
	}
	return m.emit(now, output{})
}

// receive takes a packet of this session's peer that parse let through (RFC 5880 §6.8.6).
func (m *machine) receive(now time.Time, h *wire.BFDHeader) output {
	if m.byes > 0 || m.ended {
		return output{}
	}
	m.remote, m.remoteState, m.remoteDiag = h.MyDiscriminator, h.State, h.Diagnostic
	m.remoteMinRx, m.remoteMinTx = micros(h.RequiredMinRxInterval), micros(h.DesiredMinTxInterval)
	m.remoteMultiplier, m.heard = h.DetectTimeMultiplier, now
	if h.Final {
		m.pollEnded()
	}
	before := m.state
	m.follow(h.State)
	out := output{changed: m.state != before}
	if !h.Poll && !out.changed {
		return out
	}
	if !h.Poll {
		return m.emit(now, out)
	}
	// The answer to P has F and never P (RFC 5880 §6.5): an own poll goes with the next packet,
	// whose time this one does not put off.
	out.send, out.packet = true, m.packet()
	out.packet.Poll, out.packet.Final = false, true
	return out
}

// follow is the state machine of RFC 5880 §6.2.
func (m *machine) follow(remote wire.StateType) {
	switch {
	case remote == wire.StateAdminDown:
		if m.state != wire.StateDown {
			m.enter(wire.StateDown, wire.DiagnosticNeighborSignaledSessionDown)
		}
	case m.state == wire.StateDown && remote == wire.StateDown:
		m.enter(wire.StateInit, m.diag)
	case m.state == wire.StateDown && remote == wire.StateInit, m.state == wire.StateInit && remote != wire.StateDown:
		m.enter(wire.StateUp, wire.DiagnosticNoDiagnostic)
	case m.state == wire.StateUp && remote == wire.StateDown:
		m.enter(wire.StateDown, wire.DiagnosticNeighborSignaledSessionDown)
	}
}

func (m *machine) enter(state wire.StateType, diag wire.DiagnosticType) {
	if m.state == wire.StateUp && state == wire.StateDown && m.remoteState != wire.StateAdminDown {
		m.falls++
	}
	m.state, m.diag = state, diag
	m.retime()
}

// configure changes what is configured, without an end of the session.
func (m *machine) configure(s settings) {
	m.settings = s
	m.retime()
}

// retime tells what is configured, slower while not Up (RFC 5880 §6.8.3).
func (m *machine) retime() {
	tx, rx := m.settings.transmit, m.settings.receive
	if m.state != wire.StateUp {
		tx = max(tx, slow)
	}
	if tx != m.desiredTx || rx != m.requiredRx {
		m.desiredTx, m.requiredRx = tx, rx
		if m.remote != 0 {
			m.again = m.polling
			m.polling = true
		}
	}
	// While Up, sending less often and waiting for less time must be agreed on first.
	if m.state != wire.StateUp || tx < m.usedTx {
		m.usedTx = tx
	}
	if m.state != wire.StateUp || rx > m.usedRx {
		m.usedRx = rx
	}
}

// pollEnded is told that the peer answered a poll. What changed since the poll began takes
// another one, because the answer may be older than the change.
func (m *machine) pollEnded() {
	switch {
	case !m.polling:
	case m.again:
		m.again = false
	default:
		m.polling = false
		m.usedTx, m.usedRx = m.desiredTx, m.requiredRx
	}
}

// end has the session say AdminDown, several times, for packets get lost; m.ended says when
// that is done. A peer that is not heard is told nothing.
func (m *machine) end() {
	if m.byes > 0 || m.ended {
		return
	}
	heard := m.remote != 0
	m.polling, m.again = false, false
	m.state, m.diag = wire.StateAdminDown, wire.DiagnosticAdministrativelyDown
	m.byes, m.sent, m.ended = goodbyes, time.Time{}, !heard
}

// suspend has a session that is Up fall silent without an end: the peer is told a detection
// time of absence, several times, for a multiplier may change at any time (RFC 5880
// §6.8.12). Any other session ends.
func (m *machine) suspend() {
	if m.state != wire.StateUp {
		m.end()
		return
	}
	// The peer's detection time is the multiplier times the slower of both sides' intervals.
	m.desiredTx = max(m.desiredTx, absence/math.MaxUint8+time.Microsecond) // it is told in whole ones
	each := max(m.desiredTx, m.remoteMinRx)
	m.settings.multiplier = uint8(min(max(int64((absence+each-1)/each), int64(m.settings.multiplier)), math.MaxUint8)) //nolint:gosec // within bounds
	m.polling, m.again = false, false
	m.byes, m.sent = goodbyes, time.Time{}
}

// resumes says that a packet is of a session that an earlier run of this program has left:
// the peer holds it for Up, and this side has neither heard nor said anything.
func (m *machine) resumes(h *wire.BFDHeader) bool {
	return m.sent.IsZero() && m.heard.IsZero() && h.State == wire.StateUp && h.YourDiscriminator != 0
}

// resume goes on with that session: it gets the discriminator that the peer knows.
func (m *machine) resume(now time.Time, h *wire.BFDHeader) output {
	m.local, m.remote = h.YourDiscriminator, h.MyDiscriminator
	m.enter(wire.StateUp, wire.DiagnosticNoDiagnostic)
	out := m.receive(now, h)
	out.changed = true
	if !out.send {
		out = m.emit(now, out)
	}
	return out
}

// packet as it is now (RFC 5880 §6.8.7).
func (m *machine) packet() wire.BFDHeader {
	return wire.BFDHeader{
		Version: version, Diagnostic: m.diag, State: m.state, Poll: m.polling, DetectTimeMultiplier: m.settings.multiplier,
		MyDiscriminator: m.local, YourDiscriminator: m.remote,
		DesiredMinTxInterval: toMicros(m.desiredTx), RequiredMinRxInterval: toMicros(m.requiredRx),
	}
}

// emit makes the packet that goes now, from which the time of the next one counts.
func (m *machine) emit(now time.Time, out output) output {
	out.send, out.packet, m.sent = true, m.packet(), now
	// At most 25 % are taken off; with a multiplier of 1, 10 % at least.
	m.jitter = 1 - m.random()/4
	if m.settings.multiplier == 1 {
		m.jitter = 0.9 - m.random()*0.15
	}
	if m.byes > 0 {
		m.byes--
		m.ended = m.byes == 0
	}
	return out
}

func micros(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }

func toMicros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}
