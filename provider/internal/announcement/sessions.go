// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// fallGrace is how long a BGP session may be down before anybody is told here: a router or
// an agent that restarts is back by then, and no record is written for it. One that falls
// again and again has to stay up for longer each time before it counts as up, by the same
// measure as records that go back to kube-proxy (firstHold, lastHold, memory).
const fallGrace = 10 * time.Second

// session is what is told of one session of a node.
type session struct {
	node loadbalancer.NodeName
	peer string
	// up is whether it is established, without the flapping.
	up bool
	// live says that the node's agent runs, as far as is known.
	live bool
	// v4 and v6 are the families of the routes that it carries.
	v4, v6 bool
	// why it is not up, in one word, or not all that is configured.
	why string
}

// carries reports whether routes to an address can be told by the session.
func (s session) carries(addr netip.Addr) bool { return addr.Is4() && s.v4 || addr.Is6() && s.v6 }

// sessions are those of all nodes, ascending by node and peer. Immutable.
type sessions struct {
	all    []session
	byNode map[loadbalancer.NodeName][]session
}

// of returns a node's sessions.
func (s *sessions) of(node loadbalancer.NodeName) []session {
	if s == nil {
		return nil
	}
	return s.byNode[node]
}

// to returns the sessions to one peer.
func (s *sessions) to(peer string) []session {
	var out []session
	for _, e := range s.all {
		if e.peer == peer {
			out = append(out, e)
		}
	}
	return out
}

type sessionKey struct {
	node loadbalancer.NodeName
	peer string
}

// sessionPast is what is remembered of a session.
type sessionPast struct {
	// raw is what its agent said last, since when; up is what is told.
	raw   bool
	since time.Time
	up    bool
	// falls are the times that it counted as fallen.
	falls relapses
}

// settle brings what is told up to date. It returns when that may change by the mere
// passing of time, 0 for never.
func (p *sessionPast) settle(raw bool, now time.Time) time.Duration {
	if raw != p.raw {
		p.raw, p.since = raw, now
	}
	if p.raw == p.up {
		return 0
	}
	grace := fallGrace
	if p.raw {
		grace = p.falls.steady(now)
	}
	if rest := grace - now.Sub(p.since); rest > 0 {
		return rest
	}
	p.up = p.raw
	if !p.up {
		p.falls = p.falls.again(now)
	}
	return 0
}

// steady returns for how long what has relapsed must be well before it counts as well: not
// at all after the first time.
func (r relapses) steady(now time.Time) time.Duration {
	if r.count < 2 || now.Sub(r.last) > memory {
		return 0
	}
	return min(firstHold<<min(r.count-2, 8), lastHold)
}

// sessionsCache follows the sessions of all nodes.
type sessionsCache struct {
	informers Informers

	mu sync.Mutex
	// The fields below are guarded by mu.
	current *sessions
	past    map[sessionKey]*sessionPast
}

// get returns what is told now.
func (s *sessionsCache) get() *sessions {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.refreshLocked(time.Now())
	}
	return s.current
}

// refresh reads the agents' words anew, and reports whether what is told has changed and
// when to look again, 0 for never.
func (s *sessionsCache) refresh(now time.Time) (changed bool, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.current
	again = s.refreshLocked(now)
	return before == nil || !slices.Equal(before.all, s.current.all), again
}

func (s *sessionsCache) refreshLocked(now time.Time) (again time.Duration) {
	out := &sessions{byNode: map[loadbalancer.NodeName][]session{}}
	next := make(map[sessionKey]*sessionPast, len(s.past))
	peers := map[string]*v1alpha1.BGPPeer{}
	for _, p := range list[v1alpha1.BGPPeer](s.informers.BGP.Peers) {
		peers[p.Name] = p
	}
	for _, a := range list[v1alpha1.NodeAgent](s.informers.NodeAgents) {
		n := client.Get[corev1.Node](s.informers.Nodes, a.Name)
		if n == nil {
			continue
		}
		live := agentReady(a) && convert.Node(n).Ready
		for i := range a.Status.BGP {
			said := &a.Status.BGP[i]
			peer := peers[said.Peer]
			if peer == nil {
				continue // it is being deleted, and the session with it
			}
			raw := live && established(*said)
			key := sessionKey{loadbalancer.NodeName(a.Name), said.Peer}
			past := s.past[key]
			if past == nil {
				past = &sessionPast{raw: raw, since: now, up: raw}
			}
			next[key] = past
			if wait := past.settle(raw, now); wait > 0 && (again == 0 || wait < again) {
				again = wait
			}
			e := session{node: key.node, peer: key.peer, up: past.up, live: live, why: said.Reason}
			e.v4, e.v6 = families(peer, said.Address)
			out.all = append(out.all, e)
		}
	}
	slices.SortFunc(out.all, func(a, b session) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.peer, b.peer)) })
	for _, e := range out.all {
		out.byNode[e.node] = append(out.byNode[e.node], e)
	}
	s.current, s.past = out, next
	return again
}

// families returns the families whose routes a session with this peer carries, as
// convert.BGPSession has them.
func families(peer *v1alpha1.BGPPeer, address string) (v4, v6 bool) {
	addr, err := netip.ParseAddr(address)
	if err != nil || peer.Spec.DualStackAddressFamily || peer.Spec.Interface != "" {
		return true, true
	}
	return addr.Is4(), addr.Is6()
}

// syncSessions tells of what has changed in the sessions.
func (c *Controller) syncSessions() time.Duration {
	changed, again := c.sessions.refresh(time.Now())
	if changed {
		c.markToldByBGP()
	}
	c.markPeers()
	return again
}
