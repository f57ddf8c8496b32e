// SPDX-License-Identifier: Apache-2.0

package member

import (
	"maps"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// peer is what was heard of another node.
type peer struct {
	boot uint64
	// former is the run before, if its number was higher: what is still under way of it is
	// not to be taken for a later one.
	former uint64
	// rejoined says that the node became a member anew after its run had begun to tell.
	rejoined bool
	facts    facts
	claims   map[loadbalancer.Group]claim
	// asOf is the newest full message: entries up to it are known, also those that
	// it did not list because they were given up.
	asOf uint64
	// told is all of this as views have it, nil after a change.
	told *plan.Member
}

// merge takes over what is newer in m and says whether anything changed. It may be
// applied in any order and any number of times with the same outcome.
//
// A run counts as later by its number, or by its being the one that a node which became a
// member anew tells everything of: the clock that numbers runs goes back when a machine
// that has none of its own loses power.
func (p *peer) merge(m message) bool {
	if m.Boot == p.former || m.Boot < p.boot && (!m.Full || !p.rejoined) {
		return false
	}
	changed := false
	if m.Boot != p.boot {
		next := peer{boot: m.Boot, claims: make(map[loadbalancer.Group]claim)}
		if m.Boot < p.boot {
			next.former = p.boot
		}
		*p = next
		changed = true
	}
	if m.Facts != nil && m.Facts.Seq > p.facts.Seq {
		p.facts = *m.Facts
		changed = true
	}
	for _, c := range m.Claims {
		g := loadbalancer.Group(c.Group)
		if have, ok := p.claims[g]; c.Seq > p.asOf && (!ok || c.Seq > have.Seq) {
			p.claims[g] = c
			changed = true
		}
	}
	if m.Full {
		changed = p.prune(m) || changed
	}
	return changed
}

// prune drops the entries that a full message could have listed and did not.
func (p *peer) prune(m message) bool {
	listed := make(map[loadbalancer.Group]bool, len(m.Claims))
	for _, c := range m.Claims {
		listed[loadbalancer.Group(c.Group)] = true
	}
	before := len(p.claims)
	maps.DeleteFunc(p.claims, func(g loadbalancer.Group, c claim) bool { return !listed[g] && c.Seq <= m.Seq })
	p.asOf = max(p.asOf, m.Seq)
	return len(p.claims) != before
}

// live returns the claims that are in force.
func (p *peer) live() map[loadbalancer.Group]uint64 {
	out := make(map[loadbalancer.Group]uint64, len(p.claims))
	for g, c := range p.claims {
		if c.Epoch > 0 {
			out[g] = c.Epoch
		}
	}
	return out
}

// own is this node's state with the sequence number of each part.
type own struct {
	node   loadbalancer.NodeName
	boot   uint64
	seq    uint64
	state  State
	facts  uint64
	claims map[loadbalancer.Group]claim
}

// update moves to a new state and returns the message that tells the difference, or
// false when there is none.
func (o *own) update(s State) (message, bool) {
	m := message{Node: string(o.node), Boot: o.boot}
	if o.facts == 0 || !sameFacts(o.state, s) {
		o.seq++
		o.facts = o.seq
		m.Facts = factsOf(s, o.seq)
	}
	for g, e := range s.Claims {
		if o.claims[g].Epoch != e {
			m.Claims = append(m.Claims, o.set(g, e))
		}
	}
	for g, c := range o.claims {
		if _, kept := s.Claims[g]; !kept && c.Epoch != 0 {
			m.Claims = append(m.Claims, o.set(g, 0))
			delete(o.claims, g)
		}
	}
	o.state = State{Leaving: s.Leaving, Restarting: s.Restarting, Interfaces: slices.Clone(s.Interfaces), Gateways: slices.Clone(s.Gateways), Claims: maps.Clone(s.Claims)}
	m.Seq = o.seq
	return m, m.Facts != nil || len(m.Claims) > 0
}

func (o *own) set(g loadbalancer.Group, epoch uint64) claim {
	o.seq++
	c := claim{Group: string(g), Epoch: epoch, Seq: o.seq}
	o.claims[g] = c
	return c
}

// full returns the message with everything.
func (o *own) full() message {
	m := message{Node: string(o.node), Boot: o.boot, Seq: o.seq, Full: true}
	if o.facts > 0 {
		m.Facts = factsOf(o.state, o.facts)
	}
	for _, c := range o.claims {
		m.Claims = append(m.Claims, c)
	}
	return m
}
