// SPDX-License-Identifier: Apache-2.0

package member

import (
	"bytes"
	"context"
	"log"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// label keeps our gossip apart from any other memberlist on the same port.
const label = "fairlead"

// maxBroadcast bounds a broadcast in bytes: with what memberlist puts around it, it has
// to fit a UDP packet of 1400 bytes. Longer ones would lie in the queue for ever.
const maxBroadcast = 1200

// chunk is the number of claims in one broadcast, at most 70 bytes each.
const chunk = 12

// bulk is the number of changed claims from which on a change goes to every member
// directly: broadcasts of 50 ms each would take too long.
const bulk = 5 * chunk

func (l *Layer) memberlistConfig(ctx context.Context, ring *memberlist.Keyring) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(l.cfg.Node)
	c.BindAddr, c.AdvertiseAddr = l.cfg.Addr.String(), l.cfg.Addr.String()
	c.BindPort, c.AdvertisePort = l.cfg.Port, l.cfg.Port
	c.ProbeInterval, c.ProbeTimeout = l.timing.ProbeInterval, l.timing.ProbeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = l.timing.SuspicionMult, l.timing.SuspicionMaxMult
	c.GossipInterval, c.PushPullInterval, c.TCPTimeout = l.timing.GossipInterval, l.timing.PushPull, l.timing.TCPTimeout
	// A node that died may come back with another address at once.
	c.DeadNodeReclaimTime = time.Nanosecond
	c.Keyring = ring
	c.Label = label
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.Delegate, c.Events = (*delegate)(l), (*events)(l)
	c.LogOutput, c.Logger = nil, log.New(logWriter{klog.FromContext(ctx)}, "", 0)
	return c
}

// Publish tells the others this node's state, if it changed: by broadcasts, or to each
// directly if it is too much for those or the last that they will hear.
func (l *Layer) Publish(s State) {
	l.mu.Lock()
	goes := s.Leaving && !l.own.state.Leaving || s.Restarting > 0 && l.own.state.Restarting == 0
	m, changed := l.own.update(s)
	list := l.list
	members := slices.Collect(maps.Values(l.live))
	l.mu.Unlock()
	if !changed || list == nil {
		return
	}
	parts, ok := packets(m)
	for _, p := range parts {
		l.queue.QueueBroadcast(p)
	}
	if ok && !goes {
		return
	}
	for _, n := range members {
		l.send(list, n, m)
	}
}

// Ask has every member tell all of its state. It is for a node that was deaf for a while.
func (l *Layer) Ask() {
	l.mu.Lock()
	m, list := l.own.full(), l.list
	members := slices.Collect(maps.Values(l.live))
	l.mu.Unlock()
	if list == nil {
		return
	}
	m.Want = true
	for _, n := range members {
		l.send(list, n, m)
	}
}

// packets encodes a change for broadcasting, or says that it is too long for that.
func packets(m message) (out []broadcast, ok bool) {
	if len(m.Claims) > bulk {
		return nil, false
	}
	for _, part := range split(m) {
		b, err := encode(part)
		if err != nil || len(b) > maxBroadcast {
			return nil, false
		}
		out = append(out, b)
	}
	return out, true
}

// split cuts a change into messages that fit a packet.
func split(m message) []message {
	var out []message
	claims := m.Claims
	for first := true; first || len(claims) > 0; first = false {
		part := message{Node: m.Node, Boot: m.Boot, Seq: m.Seq}
		if first {
			part.Facts = m.Facts
		}
		n := min(chunk, len(claims))
		part.Claims, claims = claims[:n], claims[n:]
		out = append(out, part)
	}
	return out
}

// send delivers a message over TCP, in the background.
func (l *Layer) send(list *memberlist.Memberlist, to *memberlist.Node, m message) {
	b, err := encode(m)
	if err != nil {
		return
	}
	l.sends.Go(func() {
		l.slots <- struct{}{}
		defer func() { <-l.slots }()
		if err := list.SendReliable(to, b); err != nil {
			klog.FromContext(l.ctx()).V(2).Info("Cannot send state to peer", "peer", to.Name, "cause", err.Error())
		}
	})
}

// broadcast is a queued message; none makes an earlier one superfluous.
type broadcast []byte

func (broadcast) Invalidates(memberlist.Broadcast) bool { return false }
func (b broadcast) Message() []byte                     { return b }
func (broadcast) Finished()                             {}

// receive merges a message from a peer and says whether it told anything new.
func (l *Layer) receive(b []byte) bool {
	m, err := decode(b)
	if err != nil {
		klog.FromContext(l.ctx()).V(2).Info("Ignoring gossip message", "cause", err.Error())
		return false
	}
	name := loadbalancer.NodeName(m.Node)
	if name == l.cfg.Node {
		return false
	}
	l.mu.Lock()
	p := l.peers[name]
	if p == nil {
		p = &peer{claims: make(map[loadbalancer.Group]claim)}
		l.peers[name] = p
	}
	changed := p.merge(m)
	if changed {
		p.told = nil
		l.publishLocked()
	}
	to, list := l.live[name], l.list
	var answer message
	if m.Want {
		answer = l.own.full()
	}
	l.mu.Unlock()
	if m.Want && to != nil && list != nil {
		l.send(list, to, answer)
	}
	switch {
	case changed && l.cfg.NewClaims != nil && m.onlyNew():
		l.cfg.NewClaims()
	case changed:
		l.notify()
	}
	return changed
}

// delegate is the part of a Layer that memberlist calls for user data.
type delegate Layer

var _ memberlist.Delegate = (*delegate)(nil)

// NodeMeta is not used: 512 bytes are too few.
func (*delegate) NodeMeta(int) []byte { return nil }

// NotifyMsg takes a peer's change, and passes it on if it was news: memberlist sends a
// broadcast to a few members only, and what a member hears it does not repeat by
// itself. Longer messages went to everybody directly.
func (d *delegate) NotifyMsg(b []byte) {
	if (*Layer)(d).receive(b) && len(b) <= maxBroadcast {
		d.queue.QueueBroadcast(broadcast(bytes.Clone(b))) // b is memberlist's
	}
}

// GetBroadcasts hands out queued changes.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.queue.GetBroadcasts(overhead, limit)
}

// LocalState is this node's full state, for joins and the exchange every ten seconds.
func (d *delegate) LocalState(bool) []byte {
	d.mu.Lock()
	m := d.own.full()
	d.mu.Unlock()
	b, err := encode(m)
	if err != nil {
		return nil
	}
	return b
}

// MergeRemoteState takes a peer's full state.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	if len(b) > 0 {
		(*Layer)(d).receive(b)
	}
}

// events is the part of a Layer that memberlist calls about members. It is called with
// memberlist's own lock held: nothing here may call memberlist but in the background.
type events Layer

var _ memberlist.EventDelegate = (*events)(nil)

// NotifyJoin notes a new member, tells it everything and asks for its own.
func (e *events) NotifyJoin(n *memberlist.Node) {
	l := (*Layer)(e)
	if n.Name == string(l.cfg.Node) {
		return
	}
	member := *n
	l.mu.Lock()
	l.live[loadbalancer.NodeName(n.Name)] = &member
	l.joinedLocked(loadbalancer.NodeName(n.Name))
	l.publishLocked()
	m, list := l.own.full(), l.list
	l.mu.Unlock()
	if list != nil {
		m.Want = true
		l.send(list, &member, m)
	}
	klog.FromContext(l.ctx()).Info("Peer joined", "peer", n.Name, "address", n.Address())
	l.notify()
}

// NotifyLeave forgets a member that died or left.
func (e *events) NotifyLeave(n *memberlist.Node) {
	l := (*Layer)(e)
	if n.Name == string(l.cfg.Node) {
		return
	}
	name := loadbalancer.NodeName(n.Name)
	l.mu.Lock()
	l.goneLocked(name, time.Now())
	l.publishLocked()
	g := l.View().Gone[name]
	l.mu.Unlock()
	// Of n's own state memberlist tells nothing here.
	klog.FromContext(l.ctx()).Info("Peer is gone", "peer", n.Name, "left", g.Last.Leaving, "restarting", g.Restarting)
	l.notify()
}

// NotifyUpdate is about the meta data that we do not use, or a new address.
func (e *events) NotifyUpdate(n *memberlist.Node) {
	l := (*Layer)(e)
	member := *n
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live[loadbalancer.NodeName(n.Name)] != nil {
		l.live[loadbalancer.NodeName(n.Name)] = &member
	}
}

// logWriter passes memberlist's log lines on.
type logWriter struct{ logger klog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := 6
	if strings.HasPrefix(line, "[ERR]") || strings.HasPrefix(line, "[WARN]") {
		level = 3
	}
	w.logger.V(level).Info("memberlist", "line", line)
	return len(b), nil
}
