// SPDX-License-Identifier: Apache-2.0

package pulse

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// spacing bounds the questions of one agent to 100 a second, whomever it watches: with
	// more targets each is asked less often.
	spacing = 10 * time.Millisecond
	// quickInterval and quickMisses are for a node that the gossip has just lost.
	quickInterval = 50 * time.Millisecond
	quickMisses   = 3
	// distrust is how long a silence counts against a node that is a member of the gossip:
	// by then the gossip would have lost a dead node. It is the questions or the answers
	// that get lost, so they prove nothing any more until one is answered.
	distrust = 5 * time.Second
	// grace divides the interval: that long after an answer was due it is looked for once
	// more, because it may lie in the socket while this process did not run.
	grace = 10
)

// Timing is how often to ask.
type Timing struct {
	// Interval between two questions to one node.
	Interval time.Duration
	// Misses in a row are a death; 0 watches nobody.
	Misses int
}

// Target is a node and how to ask for it. Equal targets are asked alike.
type Target struct {
	Node loadbalancer.NodeName
	// Run tells memberships of the node apart: what an earlier one showed does not count.
	Run uint64
	// Link to ask on, Addr to ask for, To the host to ask (the zero MAC asks all), Source
	// this node's own address there.
	Link         string
	Addr, Source netip.Addr
	To           kernel.MAC
	// Lost says that the gossip lost the node: it is asked quickly until it answers, and is
	// dead if it does not, though it may never have answered.
	Lost bool
}

// State is what the questions show of a node.
type State uint8

const (
	// Unknown nodes are not watched or have not been asked for long enough.
	Unknown State = iota
	// Alive nodes answer.
	Alive
	// Silent nodes do not, but nobody else on the link does either: it may be this node
	// that is cut off.
	Silent
	// Dead nodes do not while others do, or there are no others.
	Dead
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Unknown:
		return "Unknown"
	case Alive:
		return "Alive"
	case Silent:
		return "Silent"
	case Dead:
		return "Dead"
	default:
		return "State(?)"
	}
}

// Machine is the state of all questions. It is not safe for concurrent use.
type Machine struct {
	timing Timing
	// base is what the grid of questions counts from, so that one wake-up serves all.
	base      time.Time
	watched   map[loadbalancer.NodeName]*watched
	witnesses map[loadbalancer.NodeName]*witness
}

type watched struct {
	Target
	// asked is when the last question went out, zero before the first; due is when its
	// answer is judged, waited says that it has been put off once.
	asked, due time.Time
	waited     bool
	// heard is the last sign of life, zero if there was none.
	heard time.Time
	// misses in a row: the first question that was not answered went out at since, the
	// last that was judged at judged.
	misses        int
	since, judged time.Time
	// dead stays true until a sign of life.
	dead bool
}

type witness struct {
	Target
	heard time.Time
}

// New makes a machine that watches nobody.
func New(t Timing, now time.Time) *Machine {
	return &Machine{
		timing: t, base: now,
		watched: make(map[loadbalancer.NodeName]*watched), witnesses: make(map[loadbalancer.NodeName]*witness),
	}
}

// Watch replaces whom to watch, and the witnesses: other members, which are asked while a
// node on the same link does not answer. What is known of a target that stays is kept, as
// long as its run is the same. It says whether a state changed.
func (m *Machine) Watch(targets, witnesses []Target) (changed bool) {
	if m.timing.Misses == 0 {
		return false
	}
	old := m.watched
	m.watched = make(map[loadbalancer.NodeName]*watched, len(targets))
	for _, t := range targets {
		w := old[t.Node]
		if w == nil || w.Run != t.Run || w.Link != t.Link || w.Addr != t.Addr {
			w = &watched{}
		}
		if t.Lost && !w.Lost {
			// What it showed before does not prove that it lives now: it is asked at once.
			w.asked, w.due, w.heard = time.Time{}, time.Time{}, time.Time{}
		}
		w.Target = t
		m.watched[t.Node] = w
	}
	before := m.witnesses
	m.witnesses = make(map[loadbalancer.NodeName]*witness, len(witnesses))
	for _, t := range witnesses {
		w := &witness{Target: t}
		if b := before[t.Node]; b != nil && b.Link == t.Link && b.Addr == t.Addr {
			w.heard = b.heard
		}
		m.witnesses[t.Node] = w
	}
	for _, w := range m.watched {
		changed = m.settle(w) || changed
	}
	return changed
}

// Unasked notes that a question could not be asked: that it is not answered means nothing.
func (m *Machine) Unasked(n loadbalancer.NodeName) {
	if w := m.watched[n]; w != nil {
		w.asked = time.Time{}
	}
}

// Heard notes a sign of life of addr on a link and says whether that changed a state.
func (m *Machine) Heard(now time.Time, link string, addr netip.Addr) (changed bool) {
	for _, w := range m.witnesses {
		if w.Link == link && w.Addr == addr {
			w.heard = now
		}
	}
	for _, w := range m.watched {
		switch {
		case w.Link != link:
		case w.Addr == addr:
			changed = changed || w.heard.IsZero() || w.dead || w.missed(m.timing)
			w.heard, w.misses, w.dead = now, 0, false
		default:
			changed = m.settle(w) || changed
		}
	}
	return changed
}

// Next is when Tick is to be called next; false is never.
func (m *Machine) Next() (next time.Time, ok bool) {
	for _, w := range m.watched {
		if !ok || w.due.Before(next) {
			next, ok = w.due, true
		}
	}
	return next, ok
}

// Tick judges the answers that are due and returns the questions to ask now, and whether
// a state changed. A machine that is called late judges nothing: it did not run, so it
// cannot tell who was silent.
func (m *Machine) Tick(now time.Time) (ask []Target, changed bool) {
	for _, w := range m.watched {
		if w.due.After(now) {
			continue
		}
		news, more := m.judge(w, now)
		if more {
			continue
		}
		changed = changed || news
		w.asked, w.waited = now, false
		w.due = m.grid(now, m.interval(w))
		ask = append(ask, w.Target)
	}
	if len(ask) > 0 {
		ask = append(ask, m.testify(ask)...)
	}
	return ask, changed
}

// judge looks for the answer to the last question and says whether the state changed, and
// whether to wait a little more.
func (m *Machine) judge(w *watched, now time.Time) (changed, more bool) {
	interval := m.interval(w)
	switch {
	case w.asked.IsZero() || !w.heard.Before(w.asked):
		return false, false
	case now.Sub(w.due) > interval/2:
		// For a node that the gossip lost too, what was missed before still counts: otherwise
		// a busy process would never come to a verdict on a dead one. An answer ends it anyway.
		if !w.Lost && !w.missed(m.timing) {
			w.misses = 0
		}
		return false, false
	case !w.waited:
		w.waited, w.due = true, now.Add(interval/grace)
		return false, true
	}
	if w.misses == 0 {
		w.since = w.asked
	}
	before := w.missed(m.timing)
	w.misses++
	w.judged = w.asked
	if !w.Lost && now.Sub(w.since) > distrust {
		w.heard, w.misses, w.dead = time.Time{}, 0, false
	}
	changed = m.settle(w)
	return changed || before != w.missed(m.timing), false
}

// settle turns a silence into a death if another host on the link vouches for the link,
// or there is none that could, and says whether it did.
func (m *Machine) settle(w *watched) bool {
	if w.dead || !w.missed(m.timing) || !m.vouched(w) {
		return false
	}
	w.dead = true
	return true
}

// grid is the next moment at which questions of this interval go out, at least half an
// interval ahead: all that have the same interval go out together.
func (m *Machine) grid(now time.Time, interval time.Duration) time.Time {
	next := now.Add(interval - now.Sub(m.base)%interval)
	if next.Sub(now) < interval/2 {
		next = next.Add(interval)
	}
	return next
}

// interval grows with the number of nodes that are watched.
func (m *Machine) interval(w *watched) time.Duration {
	i := m.timing.Interval
	if w.Lost && w.heard.IsZero() {
		i = min(i, quickInterval)
	}
	return max(i, time.Duration(len(m.watched))*spacing)
}

// testify returns the witnesses to ask: those on a link on which an answer stays away.
func (m *Machine) testify(asked []Target) []Target {
	silent := make(map[string]bool)
	already := make(map[loadbalancer.NodeName]bool, len(asked))
	for _, t := range asked {
		already[t.Node] = true
		if m.watched[t.Node].misses > 0 {
			silent[t.Link] = true
		}
	}
	var out []Target
	for n, w := range m.witnesses {
		if silent[w.Link] && !already[n] {
			out = append(out, w.Target)
		}
	}
	return out
}

// missed says whether enough answers stayed away.
func (w *watched) missed(t Timing) bool {
	switch {
	case w.Lost:
		return w.misses >= min(t.Misses, quickMisses)
	case w.heard.IsZero():
		return false
	default:
		return w.misses >= t.Misses
	}
}

// State says what is known of a node.
func (m *Machine) State(n loadbalancer.NodeName) State {
	w := m.watched[n]
	switch {
	case w == nil:
		return Unknown
	case w.dead:
		return Dead
	case w.missed(m.timing):
		return Silent
	case w.heard.IsZero():
		return Unknown
	default:
		return Alive
	}
}

// vouched says whether a witness answered as late as the node was last asked in vain, or
// there is none.
func (m *Machine) vouched(w *watched) bool {
	none := true
	for n, other := range m.witnesses {
		if n == w.Node || other.Link != w.Link {
			continue
		}
		if !other.heard.IsZero() && !other.heard.Before(w.judged) {
			return true
		}
		none = false
	}
	return none
}
