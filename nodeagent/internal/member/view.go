// SPDX-License-Identifier: Apache-2.0

package member

import (
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// View is what this node knows of the others at one moment. It is immutable.
type View struct {
	// Up is false until the gossip key was there and the listener is open.
	Up bool
	// Settled: a peer answered, or none did for long enough to act alone.
	Settled bool
	// Members are the live nodes other than this one.
	Members map[loadbalancer.NodeName]plan.Member
	// Runs tells the runs of the members' agents apart, by the same keys.
	Runs map[loadbalancer.NodeName]Run
	// Gone are nodes that were members and are none now.
	Gone map[loadbalancer.NodeName]Gone
	// KeyIDs are digests of the keys in use, the primary first.
	KeyIDs []string
}

// Run is one membership of one run of a node's agent.
type Run struct {
	// Boot is the run, 0 while the agent has told nothing yet.
	Boot uint64
	// Joins counts the times that the node became a member.
	Joins uint64
	// Restarting says that the agent stops and will be back within this time, 0 that it
	// does not.
	Restarting time.Duration
}

// Gone is a node that the gossip lost, or that said goodbye to it.
type Gone struct {
	Run
	// Last is what it told last; not Known if that was nothing.
	Last plan.Member
	// At is when it went.
	At time.Time
}

// publishLocked makes a new view; l.mu is held.
func (l *Layer) publishLocked() {
	v := &View{
		Up: l.list != nil, Settled: l.settled, KeyIDs: l.keys,
		Members: make(map[loadbalancer.NodeName]plan.Member, len(l.live)),
		Runs:    make(map[loadbalancer.NodeName]Run, len(l.live)),
		Gone:    make(map[loadbalancer.NodeName]Gone, len(l.gone)),
	}
	for n := range l.live {
		v.Members[n], v.Runs[n] = l.peers[n].member(), l.runLocked(n)
	}
	for n, at := range l.gone {
		v.Gone[n] = Gone{Run: l.runLocked(n), Last: l.peers[n].member(), At: at}
	}
	l.view.Store(v)
}

func (l *Layer) runLocked(n loadbalancer.NodeName) Run {
	r := Run{Joins: l.joins[n]}
	if p := l.peers[n]; p != nil {
		r.Boot, r.Restarting = p.boot, p.restarting()
	}
	return r
}

// joinedLocked notes that a node became a member; l.mu is held.
func (l *Layer) joinedLocked(n loadbalancer.NodeName) {
	l.joins[n]++
	delete(l.gone, n)
	if p := l.peers[n]; p != nil {
		p.rejoined = true
	}
}

// goneLocked notes that a node is no member any longer; l.mu is held. What it told is
// kept: why it went may arrive after its goodbye, and it may be back with the same state.
func (l *Layer) goneLocked(n loadbalancer.NodeName, now time.Time) {
	delete(l.live, n)
	l.gone[n] = now
	for old, at := range l.gone {
		if _, known := l.addrs[old]; !known && now.Sub(at) > keepGone {
			delete(l.gone, old)
			delete(l.peers, old)
			delete(l.joins, old)
		}
	}
}

// member is nil-safe: of a node that told nothing yet nothing is known.
func (p *peer) member() plan.Member {
	if p == nil {
		return plan.Member{}
	}
	if p.told == nil {
		p.told = &plan.Member{
			Known: p.facts.Seq > 0, Leaving: p.facts.Leaving,
			Interfaces: p.facts.interfaces(), Gateways: p.facts.Gateways, Claims: p.live(),
		}
	}
	return *p.told
}

func (p *peer) restarting() time.Duration {
	return time.Duration(p.facts.Restarting) * time.Millisecond
}
