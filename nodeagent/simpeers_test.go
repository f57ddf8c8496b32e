// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
)

// simPeer is one node as another's gossip sees it.
type simPeer struct {
	visible bool
	joins   uint64
	gone    time.Time
	last    plan.Member // what was heard last
	run     member.Run
	knownAt time.Time // its first state arrives a little after it was heard of
}

// View is the node as the agent's gossip: instant, but for those that are cut off.
func (n *simNode) View() member.View {
	n.run4ever()
	time.Sleep(n.s.latency) //nolint:forbidigo // a bubble's clock
	v := member.View{
		Up: true, Settled: !n.s.unsettled.Load() && !time.Now().Before(n.settledAt), Members: map[loadbalancer.NodeName]plan.Member{},
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
		if n.s.deafTo[name] == n.s.deafTo[n.name] {
			p.last, p.run = other.asMember(p.joins)
		}
		visible := n.s.cut[name] == n.s.cut[n.name] && n.s.lostBy[name] == n.s.lostBy[n.name]
		if visible && !p.visible {
			p.joins++
		}
		if !visible && p.visible {
			p.gone = time.Now()
		}
		p.visible, p.run.Joins = visible, p.joins
		if visible && p.knownAt.IsZero() {
			p.knownAt = time.Now().Add(n.s.gap(20 * time.Millisecond))
		}
		switch {
		case visible && time.Now().Before(p.knownAt):
			v.Members[name], v.Runs[name] = plan.Member{}, member.Run{Joins: p.joins}
		case visible:
			v.Members[name], v.Runs[name] = p.last, p.run
		case !p.gone.IsZero():
			v.Gone[name] = member.Gone{Run: p.run, Last: p.last, At: p.gone}
		}
	}
	return v
}

// gap is a random time of up to d in a storm, else none.
func (s *sim) gap(d time.Duration) time.Duration {
	if s.latency == 0 {
		return 0
	}
	d = rand.N(d)
	time.AfterFunc(d, s.markAll)
	return d
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

// partKernels cuts the LAN in parts for the kernels, partGossip for the gossip, which
// notices after the detection time.
func (s *sim) partKernels(parts ...[]loadbalancer.NodeName) { s.part(s.apart, parts) }

func (s *sim) partGossip(parts ...[]loadbalancer.NodeName) {
	s.part(s.deafTo, parts)
	s.wait(detection)
	s.part(s.lostBy, parts)
}

func (s *sim) part(in map[loadbalancer.NodeName]int, parts [][]loadbalancer.NodeName) {
	s.mu.Lock()
	for i, names := range parts {
		for _, n := range names {
			in[n] = i
		}
	}
	s.mu.Unlock()
	s.markAll()
}

// kernelReply is how the kernel answers that has the address which an ARP request asks for.
func (s *sim) kernelReply(from loadbalancer.NodeName, f []byte) []byte {
	if f[12] != 8 || f[21] != 1 || [4]byte(f[28:32]) == [4]byte{} {
		return nil
	}
	addr := netip.AddrFrom4([4]byte(f[38:42]))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		dead := false
		n.set(func() { dead = n.dead })
		if dead || n.name == from || s.apart[n.name] != s.apart[from] || !n.owns(addr) {
			continue
		}
		reply := claimFrame(addr, n.links[0].MAC)
		copy(reply, f[6:12])
		return reply
	}
	return nil
}

// owns says whether an address is one of the node's own.
func (n *simNode) owns(addr netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.links, func(k kernel.Link) bool {
		return slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Addr() == addr })
	})
}

func sameInterface(a, b loadbalancer.Interface) bool {
	return a.Name == b.Name && a.NoIPv6 == b.NoIPv6 && slices.Equal(a.Prefixes, b.Prefixes)
}
