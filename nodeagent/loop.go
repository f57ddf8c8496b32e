// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

const (
	// tick is how often the loop comes round when nothing happens.
	tick = 100 * time.Millisecond
	// resync is how often it plans and lists links although nothing changed.
	resync = 10 * time.Second
	// linger is how long a node that may not announce any longer goes on answering
	// for a successor to take over.
	linger = 2 * time.Second
	// clearTimeout bounds the last writes of a leaving agent.
	clearTimeout = 3 * time.Second
)

// loop is the state of the owner loop; only its goroutine touches it.
type loop struct {
	a      *Agent
	gossip gossip
	// addr is where the gossip listens.
	addr netip.Addr

	held   holdings
	epochs epochs
	// objs are the objects of this round; changed is what became of them since the last plan.
	objs    intake.Objects
	changed *loadbalancer.Changes
	links   []kernel.Link
	cables  cables
	nodes   map[loadbalancer.NodeName]loadbalancer.Node
	routes  kernel.DefaultRoutes
	macs    macs
	quorum  *quorum
	living  *living
	rivals  rivals
	// kept are addresses that an earlier run left to the kernel.
	kept []kernel.Kept
	// shortened says that the kernel was told to answer for them for a shorter time.
	shortened bool
	// settings are the kernel's; prepared says that they are as forwarding needs them.
	settings  settings
	prepared  bool
	revisions revisions
	gate      gate
	memory    plan.Memory
	// own are all of the node's addresses by link, also of links that cannot announce, where
	// anybody needs them; ownKnown says that they are as of the last look at the links.
	own      []kernel.Link
	ownKnown bool
	bgp      telling

	leaving bool
	moved   bool
	pace    pace
	// restarting is how long the peers are to wait for the agent, once it stops.
	restarting time.Duration
	// started is when the first round was; awaited are nodes that this run has not heard
	// of since, awaitDue is when one of them has been awaited for long enough.
	awaited   map[loadbalancer.NodeName]plan.Member
	awaitDue  time.Time
	started   time.Time
	lastBeat  time.Time
	holdUntil time.Time
	muteUntil time.Time
	lastPlan  time.Time
	lastAll   time.Time
	lastLinks time.Time
}

func newLoop(a *Agent, gs gossip) *loop {
	return &loop{
		a: a, gossip: gs, quorum: newQuorum(), living: newLiving(), rivals: make(rivals), awaited: make(map[loadbalancer.NodeName]plan.Member),
		held: make(holdings), macs: make(macs),
	}
}

// run plans and applies until ctx ends, then leaves, or leaves everything to the kernel
// for its next run; work is the context of what goes on until the agent is gone.
func (l *loop) run(ctx, work context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for ctx.Err() == nil && !l.moved {
		l.round(work, time.Now())
		l.wait(ctx, ticker)
	}
	if work.Err() != nil {
		return nil // Another part failed: there is nothing to hand over with.
	}
	moved := l.moved
	l.stop(work, ticker)
	if moved {
		return fmt.Errorf("%w: the gossip listens on %s", errMoved, l.addr)
	}
	return nil
}

// errMoved ends the agent when its node has another address: its sockets are bound to
// the old one, where no peer looks for it any more. It is started again.
var errMoved = errors.New("the node's address changed")

// wait returns when something changed or is due.
func (l *loop) wait(ctx context.Context, ticker *time.Ticker) {
	calm := l.a.calm
	var rested <-chan time.Time
	if rest := l.pace.rest(time.Now()); rest > 0 {
		timer := time.NewTimer(rest)
		defer timer.Stop()
		calm, rested = nil, timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-rested:
			calm = l.a.calm
		case <-calm:
			return
		case <-l.a.dirty:
			return
		case <-l.a.speaker.Changed():
			mark(l.a.calm)
		case <-l.a.linksDirty:
			l.lastLinks = time.Time{}
			return
		case now := <-ticker.C:
			if l.beat(now) {
				return
			}
		}
	}
}

// beat notes that the loop is alive and says whether something is due. A gap means
// that this process was starved: its peers' answers may lie unread, so that verdicts
// of death are held for the time that the detector needs to reach a new one.
func (l *loop) beat(now time.Time) bool {
	l.a.health.beat.Store(now.UnixNano())
	held, mute := l.lastBeat.Before(l.holdUntil), l.lastBeat.Before(l.muteUntil)
	if !l.lastBeat.IsZero() && now.Sub(l.lastBeat) > tick+l.a.timing.ProbeInterval {
		l.stalled(now, now.Sub(l.lastBeat))
	}
	l.lastBeat = now
	l.a.fence.extend(now)
	if held && !now.Before(l.holdUntil) || mute && !now.Before(l.muteUntil) {
		return true
	}
	if len(l.kept) > 0 && now.Sub(l.lastPlan) >= takeBackEvery || l.gate.due(now) {
		return true
	}
	if l.bgp.gate.due(now) || l.bgp.damper.due(now) || l.bgp.drain.due(now, l.a.o.BGPDrain) || l.bgp.board.overdue(now) {
		return true
	}
	return l.awaitOver(now) || l.living.due(now) || l.held.overdue(now) || now.Sub(l.lastPlan) >= resync
}

// round plans and applies once.
func (l *loop) round(ctx context.Context, now time.Time) {
	begin := time.Now()
	defer func() { l.pace.worked(begin, time.Now()) }()
	l.beat(now)
	l.lastPlan = now
	if l.started.IsZero() {
		l.started = now
	}
	l.refreshLinks(ctx, now)
	objs, view := l.read(ctx), l.gossip.View()
	l.nodes = objs.Nodes
	s := l.snapshot(ctx, now, objs, view)
	state := l.plan(now, s)
	l.silence(ctx, objs.Claims, slices.ContainsFunc(state.Forwarding.VIPs, netip.Addr.Is4))
	l.forward(ctx, s, state)
	l.macs.learn(s.Members, s.Nodes)
	l.decide(ctx, now, state)
	l.tellPeers(ctx, now, state)
	l.split(ctx, now, view)
	l.apply()
	l.watch(view, state)
	l.takeBack(ctx, objs, state, view.Settled)
	l.gossip.SetPeers(l.peers(objs))
	own := objs.Nodes[l.a.name()].InternalIPs
	l.moved = l.a.o.NodeIP == "" && len(own) > 0 && !slices.Contains(own, l.addr)
	h := l.healthOf(view, s.Guard)
	l.tell(objs, state, view, h)
	members := maps.Clone(s.Members)
	members[l.a.name()] = l.self()
	l.a.health.state.Store(&debugState{ready: h, members: members, state: state})
}

// read reads the objects and notes what changed.
func (l *loop) read(ctx context.Context) intake.Objects {
	l.objs = l.a.objects.Objects(ctx)
	switch is := l.objs.Changed; {
	case is == nil:
		l.changed = &loadbalancer.Changes{All: true}
	case l.changed == nil:
		l.changed = is
	default:
		l.changed.Then(is)
	}
	return l.objs
}

// plan plans for what changed, and now and then for all.
func (l *loop) plan(now time.Time, s plan.Snapshot) plan.NodeState {
	if now.Sub(l.lastAll) >= resync {
		l.lastAll, s.Changed.All = now, true
	}
	l.changed = nil
	l.a.health.planning.Lock()
	defer l.a.health.planning.Unlock()
	return l.memory.For(s)
}

// refreshLinks lists links after a change, and now and then anyway.
func (l *loop) refreshLinks(ctx context.Context, now time.Time) {
	if now.Sub(l.lastLinks) < resync {
		return
	}
	l.lastLinks = now
	links, err := l.a.d.kernel.Links()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot list links, keeping the old ones")
		return
	}
	l.links = l.links[:0:0]
	for _, k := range links {
		if !l.a.exclude.MatchString(k.Name) {
			l.links = append(l.links, k)
		}
	}
	if l.cables.look(now, l.links) && l.holdUntil.Before(now.Add(listenAgain)) {
		l.holdUntil = now.Add(listenAgain)
	}
	routes, err := l.a.d.kernel.DefaultRoutes()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the default routes, keeping the old ones")
		return
	}
	l.routes = routes
	l.ownKnown = false
	kept, err := l.a.d.kernel.Kept()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot list the addresses that an earlier run left")
		return
	}
	l.kept = kept
}

// self is this node as a member.
func (l *loop) self() plan.Member {
	m := plan.Member{Known: true, Leaving: l.leaving, Gateways: l.routes.Gateways, Claims: l.held.claims()}
	for _, k := range l.links {
		if i, ok := l.usable(k); ok {
			m.Interfaces = append(m.Interfaces, i)
		}
	}
	return m
}

// usable is a link as far as it can announce; false if it cannot at all. The prefixes of a
// family that it cannot announce are left out, for those who look at nothing else.
func (l *loop) usable(k kernel.Link) (loadbalancer.Interface, bool) {
	i := loadbalancer.Interface{Name: k.Name, MAC: k.MAC, NoIPv4: l.a.arp.Failed(k.Name), NoIPv6: l.a.ndp.Failed(k.Name)}
	for _, p := range k.Prefixes {
		if p.Addr().Is4() && !i.NoIPv4 || p.Addr().Is6() && !i.NoIPv6 {
			i.Prefixes = append(i.Prefixes, p)
		}
	}
	return i, !i.NoIPv4 || !i.NoIPv6
}

func (l *loop) snapshot(ctx context.Context, now time.Time, objs intake.Objects, view member.View) plan.Snapshot {
	s := plan.Snapshot{
		Self: l.a.name(), Claims: objs.Claims, Records: objs.Records, Advertisements: objs.Advertisements,
		Nodes: objs.Nodes, Endpoints: objs.Endpoints, Hold: now.Before(l.holdUntil), Awaited: l.await(now, objs, view),
		BGP: l.configured(ctx), Drain: l.bgp.drain.look(now, objs.Nodes[l.a.name()], l.leaving, l.a.o.BGPDrain),
		Members: l.members(ctx, now, view), InCluster: l.a.o.ClusterCIDRs, Forwards: l.a.forward.State().forwards,
	}
	if view.Settled {
		l.quorum.expect(now, maps.Keys(l.awaited))
	}
	minority := l.quorum.minority(now, l.living.confirmed(s.Members), s.Nodes)
	s.Hold = s.Hold || l.living.gathering(now, minority, view.Members) || minority && l.cables.fresh(now)
	switch {
	case !view.Up:
		s.Guard = reason.NoGossipKey
	case !view.Settled:
		s.Guard = reason.Listening
	case minority:
		s.Guard = reason.Minority
	}
	s.Dead = l.living.mourn(s.Hold, minority, s.Nodes)
	l.epochs.learn(l.changed, objs.Claims, view.Members, s.Members)
	s.Highest, s.Changed = l.epochs.highest, l.changed
	return s
}

// apply makes the network and the gossip match the holdings. The network comes first.
func (l *loop) apply() {
	nodes := l.macs.all(l.links)
	l.a.arp.SetNodes(nodes)
	l.a.ndp.SetNodes(nodes)
	l.a.probes.setNodes(nodes)
	want := l.held.announcements()
	if time.Now().Before(l.muteUntil) {
		clear(want)
	}
	l.a.arp.Apply(l.links, want)
	l.a.ndp.Apply(l.links, want)
	self := l.self()
	l.gossip.Publish(member.State{Leaving: self.Leaving, Restarting: l.restarting, Interfaces: self.Interfaces, Gateways: self.Gateways, Claims: self.Claims})
}

// peers are the other nodes' addresses, of the family that this node gossips on if
// they have one.
func (l *loop) peers(objs intake.Objects) map[loadbalancer.NodeName]netip.Addr {
	out := make(map[loadbalancer.NodeName]netip.Addr, len(objs.Nodes))
	for n, node := range objs.Nodes {
		if n != l.a.name() && len(node.InternalIPs) > 0 {
			out[n] = node.InternalIPs[0]
		}
	}
	return out
}

func (l *loop) healthOf(view member.View, guard reason.Reason) status.Health {
	switch {
	case l.restarting > 0:
		return restartingHealth(l.restarting)
	case l.leaving:
		return status.Health{Reason: reason.Leaving, Message: "the agent is leaving"}
	case guard == reason.NoGossipKey:
		return status.Health{Reason: guard, Message: "the Secret fairlead-gossip is not there yet, or holds no usable key"}
	case guard == reason.Listening:
		return status.Health{Reason: guard, Message: "the agent listens to its peers before it acts"}
	case guard == reason.Minority:
		return status.Health{Reason: guard, Message: fmt.Sprintf(
			"the agent sees %d members, fewer than half of those known lately: it takes nothing over", len(view.Members)+1)}
	default:
		return status.Health{Ready: true, Reason: reason.Running, Message: "the agent announces what it owns"}
	}
}

// stop finds out why the agent is to stop while all goes on, and acts on it.
func (l *loop) stop(work context.Context, ticker *time.Ticker) {
	logger := klog.FromContext(work)
	facts := stopFacts{grace: l.a.o.RestartGrace, closing: l.read(work).Nodes[l.a.name()].ShuttingDown}
	asking, answered := context.WithCancel(work)
	defer answered()
	result := make(chan stopFacts, 1)
	go func() {
		defer answered()
		result <- ask(work, l.a.d.cluster, facts)
	}()
	for asking.Err() == nil {
		l.wait(asking, ticker)
		l.round(work, time.Now())
	}
	facts = <-result
	leave, cause := decideStop(facts)
	if !leave {
		logger.Info("Restarting", "addresses", len(l.held), "cause", cause, "grace", facts.grace)
		err := l.restart(work, facts.daemonSetErr == nil)
		if err == nil {
			l.endSessions(work, true)
			return
		}
		cause = causeNoAddresses
		if errors.Is(err, errClosing) {
			cause = causeShutdown
		}
		logger.Info("Not restarting", "cause", err.Error())
	}
	logger.Info("Leaving", "addresses", len(l.held), "cause", cause)
	l.leave(work, ticker)
}

// leave lets peers take over while this node still answers, and routers choose other
// nodes, withdraws, and takes its name off what nobody took over. Nothing answers
// afterwards, not even the kernel.
func (l *loop) leave(ctx context.Context, ticker *time.Ticker) {
	l.leaving = true
	names := claimNames(l.held.addrs())
	told := l.bgp.told()
	l.round(ctx, time.Now())
	for (len(l.held) > 0 || l.bgp.told() && !l.bgp.drain.over) && ctx.Err() == nil {
		l.wait(ctx, ticker)
		l.round(ctx, time.Now())
	}
	l.stopTelling(ctx, ticker, told)
	l.drop(ctx, l.kept)
	l.stopForwarding(ctx)
	l.restoreKernel(ctx)
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	if err := l.a.owners.ClearNow(ctx, names); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot clear the owner of every claim")
	}
	if err := l.a.report.WriteNow(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot write the last status")
	}
}
