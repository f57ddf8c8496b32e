// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/pulse"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

const (
	// silentBefore is how long before its peers' patience ends the kernel's answers do:
	// timers of addresses are up to 1.25 s late.
	silentBefore = 2 * time.Second
	// unheard is for how long the kernel answers at most when the peers cannot be told.
	unheard = 5 * time.Second
	// flushTime is how long the word of a restart has to reach the peers, and the last
	// status the API server.
	flushTime = 250 * time.Millisecond
	// takeBackEvery is how often to look whether the kernel's answers are still needed.
	takeBackEvery = 300 * time.Millisecond
	// dropAtOnce is how many addresses are taken from the kernel in one round: it takes
	// up to 0.1 ms for each.
	dropAtOnce = 500
)

// restart leaves what is announced to the kernel and tells the peers that the agent will be
// back. An error means that the agent has to hand over instead.
// The addresses come first: who is told of the restart counts on them. An agent that is
// killed at any point in between looks like one that crashed.
func (l *loop) restart(work context.Context, online bool) error {
	for _, a := range l.held.addrs() {
		if h := l.held[a]; !h.withdrawing.IsZero() && !h.patient {
			l.release(work, a, reason.Restarting)
		}
	}
	l.apply()
	list := l.keepAgain()
	if err := l.a.d.kernel.Keep(list, l.lifetime()); err != nil {
		return err //nolint:wrapcheck // says what failed
	}
	l.restarting = l.a.o.RestartGrace
	l.apply()
	ctx, cancel := context.WithTimeout(work, flushTime)
	defer cancel()
	if online {
		l.a.report.SetHealth(l.healthOf(l.gossip.View(), ""))
		if err := l.a.report.WriteNow(ctx); err != nil {
			klog.FromContext(ctx).V(2).Info("Cannot write the last status", "cause", err.Error())
		}
	}
	<-ctx.Done()
	if l.read(work).Nodes[l.a.name()].ShuttingDown {
		l.restarting, l.kept = 0, list
		return errClosing
	}
	return nil
}

// errClosing says that the kubelet told the agent to stop before it told the API server why.
var errClosing = errors.New("the node is shutting down")

// lifetime is for how long the kernel is to answer. An agent whose node lost the address
// that it gossips from cannot tell its peers that it will be back: they are to take over
// soon, as after any death.
func (l *loop) lifetime() time.Duration {
	d := l.a.o.RestartGrace - silentBefore
	for _, k := range l.links {
		if slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Addr() == l.addr }) {
			return d
		}
	}
	if l.moved {
		return min(d, unheard)
	}
	return d
}

// keep is what the kernel answers for while the agent restarts: what is on the wire now.
func (hs holdings) keep() []kernel.Kept {
	var out []kernel.Kept
	for an := range hs.announcements() {
		out = append(out, kernel.Kept{Link: an.Interface, Addr: an.Addr})
	}
	return out
}

// keepAgain is what the kernel is to answer for: what this run announces, and what an
// earlier one left to it that this run did not get to yet.
func (l *loop) keepAgain() []kernel.Kept {
	out := l.held.keep()
	for _, k := range l.kept {
		if l.held[k.Addr] == nil {
			out = append(out, k)
		}
	}
	return out
}

// restartingHealth is the health of an agent that will be back.
func restartingHealth(grace time.Duration) status.Health {
	return status.Health{Reason: reason.Restarting, Message: "the agent restarts; the node's kernel answers for up to " + grace.String()}
}

// takeBack takes addresses that an earlier run of this agent left to the kernel from it,
// as soon as they are answered from here or are no longer this node's to answer for.
func (l *loop) takeBack(ctx context.Context, objs intake.Objects, state plan.NodeState, settled bool) {
	if len(l.kept) == 0 {
		return
	}
	var drop, keep, needed []kernel.Kept
	claims := make(map[netip.Addr]loadbalancer.Claim, len(objs.Claims))
	for _, c := range objs.Claims {
		claims[c.Addr] = c
	}
	for _, k := range l.kept {
		c, ok := claims[k.Addr]
		switch {
		case ok && !c.Releasing && l.kernelAnswers(k, c, state.Groups[c.Group], settled):
			keep, needed = append(keep, k), append(needed, k)
		case len(drop) == dropAtOnce:
			keep = append(keep, k)
		default:
			drop = append(drop, k)
		}
	}
	l.drop(ctx, drop)
	l.kept = keep
	l.shorten(ctx, needed)
	if len(drop) == dropAtOnce {
		mark(l.a.dirty)
	}
}

// shorten has the kernel answer for no longer than peers wait for an agent that crashed:
// once this run is in the gossip, that is what it looks like if it ends.
func (l *loop) shorten(ctx context.Context, list []kernel.Kept) {
	if l.shortened || len(list) == 0 || !l.gossip.View().Up {
		return
	}
	l.shortened = true
	if err := l.a.d.kernel.Keep(list, crashGrace); err != nil {
		klog.FromContext(ctx).V(2).Info("Cannot shorten the kernel's answers", "cause", err.Error())
	}
}

// kernelAnswers says whether the kernel is to go on answering for an address: until the
// agent does, while it does not know the others yet, and while it would take the address
// over but may not. It ends by itself in any case.
func (l *loop) kernelAnswers(k kernel.Kept, c loadbalancer.Claim, st plan.GroupState, settled bool) bool {
	if h := l.held[k.Addr]; h != nil {
		return slices.Contains(h.interfaces, k.Link) && !l.a.arp.Answers(k.Link, k.Addr) && !l.a.ndp.Answers(k.Link, k.Addr)
	}
	switch {
	case st.Owner.Node == l.a.name():
		return st.Action == placement.Wait || l.gate.waits(k.Addr)
	case st.Owner.Epoch > 0 || c.Persisted.Node != "" && c.Persisted.Node != l.a.name():
		return false
	default:
		return !settled
	}
}

func (l *loop) drop(ctx context.Context, list []kernel.Kept) {
	if len(list) == 0 {
		return
	}
	if err := l.a.d.kernel.Drop(list); err != nil {
		// They are listed again with the links.
		klog.FromContext(ctx).Error(err, "Cannot take addresses back from the kernel")
		return
	}
	klog.FromContext(ctx).V(2).Info("Took addresses back from the kernel", "addresses", len(list))
}

// await notes which nodes have groups in the API, are ready there, and have not been heard
// of by this run, which has just started. Their agents may be away for a moment, as this
// one was: what is theirs stays theirs while their kernels answer, for as long as they may
// answer for its addresses too; or as long as a crash is forgiven, if nobody can ask them.
func (l *loop) await(now time.Time, objs intake.Objects, view member.View) map[loadbalancer.NodeName]struct{} {
	clear(l.awaited)
	l.awaitDue = time.Time{}
	soon, late := l.started.Add(crashGrace), l.started.Add(max(l.a.o.RestartGrace, crashGrace))
	if !now.Before(late) {
		return nil
	}
	out := make(map[loadbalancer.NodeName]struct{})
	for _, c := range objs.Claims {
		n := c.Persisted.Node
		if _, done := l.awaited[n]; done {
			continue
		}
		node := objs.Nodes[n]
		_, gone := view.Gone[n]
		if n == l.a.name() || !node.Ready || node.ShuttingDown || gone || view.Members[n].Known {
			continue
		}
		until := soon
		switch l.a.pulse.State(n) {
		case pulse.Dead:
			until = now
		case pulse.Alive:
			until = late
		case pulse.Unknown, pulse.Silent:
		}
		l.awaited[n] = hostOf(node)
		if now.Before(until) {
			out[n] = struct{}{}
			if l.awaitDue.IsZero() || until.Before(l.awaitDue) {
				l.awaitDue = until
			}
		}
	}
	return out
}

// hostOf is what is known of a node of which only the API tells.
func hostOf(node loadbalancer.Node) plan.Member {
	var i loadbalancer.Interface
	for _, a := range node.InternalIPs {
		i.Prefixes = append(i.Prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return plan.Member{Interfaces: []loadbalancer.Interface{i}}
}

// awaitOver says whether a node has been awaited for long enough.
func (l *loop) awaitOver(now time.Time) bool {
	return !l.awaitDue.IsZero() && !now.Before(l.awaitDue)
}
