// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"math"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
)

const (
	// maxSessions is what NodeAgent.status.bgp holds, maxPeerAddress what an address there does.
	maxSessions    = 64
	maxPeerAddress = 64
	// boardBurst is how many changes of sessions are told at once, boardRefill how long until
	// one more is: a session that goes up and down is not to be written each time.
	boardBurst  = 8
	boardRefill = 15 * time.Second
	// boardSpare changes are left to states by those of figures and words, which are told
	// after boardRest at the earliest.
	boardSpare = 2
	boardRest  = 5 * time.Second
	// boardLasts is when a session that is not established counts as being in another state:
	// one that tries again and again goes through several each time.
	boardLasts = 15 * time.Second
	// boardStart is how long a new run leaves what an earlier one told, while its sessions
	// come up.
	boardStart = 10 * time.Second
)

// board is what the NodeAgent says of BGP sessions: what there is, calmed down.
type board struct {
	shown    []v1alpha1.BGPSessionStatus
	shownAt  time.Time
	started  time.Time
	settled  bool
	tokens   int
	refilled time.Time
	// states of sessions and since when they are in them.
	states map[string]seenState
	next   time.Time
}

type seenState struct {
	state v1alpha1.BGPSessionState
	since time.Time
}

// show returns what to tell, where this is how it is. It is nil, for what an earlier run
// told, until sessions had the time to come up.
func (b *board) show(now time.Time, is []v1alpha1.BGPSessionStatus) []v1alpha1.BGPSessionStatus {
	b.next = time.Time{}
	if b.started.IsZero() {
		b.started, b.refilled, b.tokens = now, now, boardBurst
	}
	for ; b.tokens < boardBurst && now.Sub(b.refilled) >= boardRefill; b.tokens++ {
		b.refilled = b.refilled.Add(boardRefill)
	}
	if b.tokens == boardBurst {
		b.refilled = now
	}
	up := !slices.ContainsFunc(is, func(s v1alpha1.BGPSessionStatus) bool {
		return s.State != v1alpha1.BGPEstablished && s.State != v1alpha1.BGPRefused
	})
	if !b.settled && !up && now.Sub(b.started) < boardStart {
		b.due(b.started.Add(boardStart))
		return nil
	}
	b.settled = true
	is = b.calm(now, is)
	if slices.EqualFunc(is, b.shown, equalSessions) {
		return b.told()
	}
	grave := !slices.EqualFunc(is, b.shown, similarSessions)
	switch {
	case grave && b.tokens > 0 || b.tokens > boardSpare && now.Sub(b.shownAt) >= boardRest:
		b.tokens--
		b.shown, b.shownAt = is, now
	case !grave && b.tokens > boardSpare:
		b.due(b.shownAt.Add(boardRest))
	default:
		b.due(b.refilled.Add(boardRefill))
	}
	return b.told()
}

// told is never nil: that there is none is told too.
func (b *board) told() []v1alpha1.BGPSessionStatus {
	if b.shown == nil {
		return []v1alpha1.BGPSessionStatus{}
	}
	return b.shown
}

// due notes when there may be something to tell.
func (b *board) due(at time.Time) {
	if b.next.IsZero() || at.Before(b.next) {
		b.next = at
	}
}

// overdue says whether there may be.
func (b *board) overdue(now time.Time) bool { return !b.next.IsZero() && !now.Before(b.next) }

// calm leaves sessions that are not established in the state in which they are shown, until
// they are in another one for a while.
func (b *board) calm(now time.Time, is []v1alpha1.BGPSessionStatus) []v1alpha1.BGPSessionStatus {
	out := slices.Clone(is)
	states := make(map[string]seenState, len(is))
	for i := range out {
		s := &out[i]
		seen, known := b.states[s.Peer]
		if !known || seen.state != s.State {
			seen = seenState{s.State, now}
		}
		states[s.Peer] = seen
		n := slices.IndexFunc(b.shown, func(o v1alpha1.BGPSessionStatus) bool { return o.Peer == s.Peer })
		if n < 0 || !trying(s.State) || !trying(b.shown[n].State) || b.shown[n].Reason != s.Reason || s.State == b.shown[n].State {
			continue
		}
		if now.Sub(seen.since) < boardLasts {
			s.State = b.shown[n].State
			b.due(seen.since.Add(boardLasts))
		}
	}
	b.states = states
	return out
}

// trying says whether a session is on its way to be established.
func trying(s v1alpha1.BGPSessionState) bool {
	return s != v1alpha1.BGPEstablished && s != v1alpha1.BGPRefused
}

func equalSessions(a, b v1alpha1.BGPSessionStatus) bool {
	return similarSessions(a, b) && a.Prefixes == b.Prefixes && a.Message == b.Message && (a.Since == nil) == (b.Since == nil) && (a.Since == nil || a.Since.Equal(b.Since))
}

// similarSessions says whether two differ in nothing but figures and words.
func similarSessions(a, b v1alpha1.BGPSessionStatus) bool {
	return a.Peer == b.Peer && a.Address == b.Address && a.ASN == b.ASN && a.State == b.State && a.Reason == b.Reason && a.Draining == b.Draining && a.BFD == b.BFD
}

// sessionStatuses is how the sessions are, ascending by peer, those that cannot be among
// them.
func sessionStatuses(states []bgp.SessionState, faults []loadbalancer.BGPFault, draining string) []v1alpha1.BGPSessionStatus {
	out := make([]v1alpha1.BGPSessionStatus, 0, len(states))
	for i := range states {
		s := &states[i]
		one := v1alpha1.BGPSessionStatus{
			Peer: s.Peer, Address: s.Address[:min(len(s.Address), maxPeerAddress)], ASN: int64(s.ASN), State: v1alpha1.BGPSessionState(s.State),
			Reason: s.Reason.String(), Message: short(s.Message), Prefixes: int32(min(s.Prefixes, math.MaxInt32)), //nolint:gosec // bounded
			Draining: draining, BFD: s.BFD,
		}
		if !s.Since.IsZero() {
			since := metav1.NewTime(s.Since).Rfc3339Copy()
			one.Since = &since
		}
		out = append(out, one)
	}
	for _, f := range faults {
		if f.Peer == "" {
			continue
		}
		message := f.Message
		if f.Advertisement != "" {
			message = "BGPAdvertisement " + f.Advertisement + ": " + message
		}
		i := slices.IndexFunc(out, func(s v1alpha1.BGPSessionStatus) bool { return s.Peer == f.Peer })
		switch {
		case i < 0:
			out = append(out, v1alpha1.BGPSessionStatus{Peer: f.Peer, State: v1alpha1.BGPRefused, Reason: f.Reason, Message: short(message)})
		case out[i].Reason == "":
			out[i].Reason, out[i].Message = f.Reason, short(message)
		case out[i].State == v1alpha1.BGPRefused:
			out[i].Message = short(out[i].Message + "; " + message)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.BGPSessionStatus) int { return cmp.Compare(a.Peer, b.Peer) })
	return out[:min(len(out), maxSessions)]
}

// bgpStatus is NodeAgent.status.bgp.
func (l *loop) bgpStatus(now time.Time) []v1alpha1.BGPSessionStatus {
	if l.bgp.stopped {
		return []v1alpha1.BGPSessionStatus{}
	}
	return l.bgp.board.show(now, sessionStatuses(l.a.speaker.States(), l.bgp.applied.Faults, l.bgp.drain.why.String()))
}
