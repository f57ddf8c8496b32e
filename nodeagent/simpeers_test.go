// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
)

// simPeer is one node as another's gossip sees it.
type simPeer struct {
	visible bool
	joins   uint64
	gone    time.Time
	last    *simNode
}

// View is the node as the agent's gossip: instant, but for those that are cut off.
func (n *simNode) View() member.View {
	n.run4ever()
	v := member.View{
		Up: true, Settled: true, Members: map[loadbalancer.NodeName]plan.Member{},
		Runs: map[loadbalancer.NodeName]member.Run{}, Gone: map[loadbalancer.NodeName]member.Gone{},
	}
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if n.seen == nil {
		n.seen = map[loadbalancer.NodeName]*simPeer{}
	}
	for name, other := range n.s.nodes {
		if name == n.name {
			continue
		}
		p := n.seen[name]
		if p == nil {
			p = &simPeer{}
			n.seen[name] = p
		}
		visible := n.s.cut[name] == n.s.cut[n.name] && n.s.apart[name] == n.s.apart[n.name]
		if visible && !p.visible {
			p.joins++
		}
		if !visible && p.visible {
			p.gone = time.Now()
		}
		p.visible = visible
		if visible {
			p.last = other
			v.Members[name], v.Runs[name] = other.asMember(p.joins)
		} else if p.last != nil {
			m, run := p.last.asMember(p.joins)
			v.Gone[name] = member.Gone{Run: run, Last: m, At: p.gone}
		}
	}
	return v
}

func (n *simNode) asMember(joins uint64) (plan.Member, member.Run) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := plan.Member{
		Known: n.told, Leaving: n.state.Leaving, Interfaces: n.state.Interfaces,
		Gateways: n.state.Gateways, Claims: n.state.Claims,
	}
	return m, member.Run{Boot: n.agent.boot, Joins: joins, Restarting: n.state.Restarting}
}

func (n *simNode) Ask() {}

// run4ever blocks while the agent is stopped.
func (n *simNode) run4ever() {
	n.mu.Lock()
	stopped := n.stopped
	n.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
}

// sigstop stops an agent without its knowing; sigcont lets it go on.
func (s *sim) sigstop(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.mu.Lock()
	n.stopped = make(chan struct{})
	n.mu.Unlock()
	mark(n.agent.dirty)
}

func (s *sim) sigcont(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.mu.Lock()
	close(n.stopped)
	n.stopped = nil
	n.mu.Unlock()
}

// sigkill ends an agent; its node goes on. The others' gossip loses it after the
// detection time.
func (s *sim) sigkill(name loadbalancer.NodeName) {
	s.nodes[name].stop()
	s.wait(detection)
	s.setCut(name, true)
}

// part cuts the LAN in parts, for the kernels at once and for the gossip after the
// detection time.
func (s *sim) part(parts ...[]loadbalancer.NodeName) {
	s.mu.Lock()
	for i, names := range parts {
		for _, n := range names {
			s.apart[n] = i
		}
	}
	s.mu.Unlock()
	s.markAll()
}

// unplugged cuts nodes' wires off without the gossip's noticing yet.
func (s *sim) kernelReply(from loadbalancer.NodeName, f []byte) []byte {
	if f[12] != 8 || f[21] != 1 || [4]byte(f[28:32]) == [4]byte{} {
		return nil
	}
	addr := netip.AddrFrom4([4]byte(f[38:42]))
	s.mu.Lock()
	var node *simNode
	for _, n := range s.nodes {
		if n.ip == addr && s.apart[n.name] == s.apart[from] {
			node = n
		}
	}
	s.mu.Unlock()
	if node == nil || node.name == from {
		return nil
	}
	dead := false
	node.set(func() { dead = node.dead })
	if dead || node.links == nil {
		return nil
	}
	reply := claimFrame(addr, node.links[0].MAC)
	copy(reply, f[6:12])
	return reply
}
