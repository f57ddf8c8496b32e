// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"cmp"
	"fmt"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// State is a session as it stands. Values are comparable.
type State struct {
	// Local and Remote are AdminDown, Down, Init or Up (RFC 5880 §4.1). Remote is Down while
	// the peer is not heard.
	Local, Remote string
	// Diag and RemoteDiag are the diagnostic codes that either side tells, in words.
	Diag, RemoteDiag string
	// Since is when Local became what it is.
	Since time.Time
	// Interval between packets that are sent, before jitter; Detection is after how long
	// without a packet the peer is down, 0 while it is not heard.
	Interval, Detection time.Duration
	// Fault is why the session cannot run at all, "" if it can.
	Fault string
	// Why the session is not Up, or what ended it last, in words.
	Why string
	// Ups and Downs count how often it came into and fell out of Up; Falls are the Downs that
	// mean that the peer, or the way to it, is gone (not its AdminDown, RFC 5882 §4.2).
	Ups, Downs, Falls uint64
	// In counts packets that were taken, Out those sent, Unsent those that the kernel refused.
	In, Out, Unsent uint64
	// Dropped packets by [Cause]; what belongs to no session is in [Detector.Strangers].
	Dropped Drops
}

// Drops counts dropped packets by their [Cause].
type Drops [causes]uint64

// Each calls f for every cause.
func (d *Drops) Each(f func(cause string, count uint64)) {
	for c, n := range d {
		f(Cause(c).String(), n)
	}
}

func stateWord(s wire.StateType) string {
	switch s {
	case wire.StateAdminDown:
		return "AdminDown"
	case wire.StateDown:
		return "Down"
	case wire.StateInit:
		return "Init"
	case wire.StateUp:
		return "Up"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// diagWord is a code in the words of RFC 5880 §4.1.
func diagWord(d wire.DiagnosticType) string {
	if d >= wire.DiagnosticReservedStart {
		return fmt.Sprintf("diagnostic %d", uint8(d))
	}
	return d.String()
}

// why says in words why a machine has just left Init or Up.
func why(m *machine, detection time.Duration) string {
	switch {
	case m.diag == wire.DiagnosticControlDetectionTimeExpired:
		return fmt.Sprintf("the peer was not heard for %v", detection)
	case m.remoteState == wire.StateAdminDown:
		return "the peer has ended BFD (AdminDown)"
	case m.remoteDiag == wire.DiagnosticNoDiagnostic:
		return "the peer says that the session is down"
	}
	return "the peer says that the session is down: " + diagWord(m.remoteDiag)
}

func (s *session) state() State {
	out := s.counters
	out.Local, out.Remote = stateWord(s.m.state), stateWord(s.m.remoteState)
	out.Diag, out.RemoteDiag = diagWord(s.m.diag), diagWord(s.m.remoteDiag)
	out.Interval, out.Falls = s.m.interval(), s.m.falls
	if s.m.remote != 0 {
		out.Detection = s.m.detection()
	}
	out.Fault = cmp.Or(s.barred, s.fault)
	switch {
	case out.Fault != "":
		out.Why = out.Fault
	case s.objection != "":
		out.Why = s.objection
	}
	return out
}
