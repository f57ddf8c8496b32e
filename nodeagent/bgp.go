// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// routersTime is how long routers have to forget what was withdrawn, before the data
	// plane goes: the slowest one measured took half a second for ten thousand routes.
	routersTime = time.Second
	// ceaseTimeout bounds the end of the sessions.
	ceaseTimeout = 2 * time.Second
)

// speaker tells BGP peers what it is given; *bgp.Speaker does. See there.
type speaker interface {
	Run(ctx context.Context) error
	Apply(p loadbalancer.BGPPlan, hops bgp.NextHops)
	Complete()
	States() []bgp.SessionState
	Routes(peer string) []loadbalancer.BGPRoute
	Strangers() uint64
	Changed() <-chan struct{}
	Stop(ctx context.Context, graceful bool) error
}

// telling is what the owner loop remembers of BGP.
type telling struct {
	drain  drain
	gate   gate
	damper damper
	// passed are the routes of which all have passed the gate, nil if some have not: then open
	// are the addresses that have.
	passed map[string][]loadbalancer.BGPRoute
	open   map[netip.Addr]struct{}
	// applied is what the speaker was given, and own are the node's addresses as of then.
	applied loadbalancer.BGPPlan
	own     []kernel.Link
	began   bool
	// complete says that the speaker knows that it has all there is to tell after a start.
	complete bool
	// stopped says that the sessions were ended for good.
	stopped bool
	board   board
}

// tellPeers passes the plan to the speaker, without what the data plane does not have yet:
// packets that a route attracts must not fail.
func (l *loop) tellPeers(ctx context.Context, now time.Time, state plan.NodeState) {
	t, p := &l.bgp, state.BGP
	t.gate.begin(state.Forwarding)
	plane := l.a.forward.State()
	var waits bool
	p.Routes, waits = t.pass(p.Routes, func(a netip.Addr) bool {
		if t.gate.shut(now, a, plane) {
			return true
		}
		t.gate.opened(ctx, now, a)
		return false
	})
	p.Routes = t.damper.pass(now, p.Routes, t.drain.told)
	if !slices.Equal(p.Faults, t.applied.Faults) {
		logFaults(ctx, p.Faults, t.applied.Faults)
	}
	if !t.began || !sameTold(&p, &t.applied) || !slices.EqualFunc(l.own, t.own, kernel.Link.Equal) {
		l.a.speaker.Apply(p, hopsOf(l.own))
	}
	l.a.teller.plan.Store(&p)
	t.began, t.applied, t.own = true, p, l.own
	if !t.complete && !waits {
		t.complete = true
		l.a.speaker.Complete()
	}
}

// pass leaves the routes out of which no address has passed the gate, and says whether it
// did. What was told stays told.
func (t *telling) pass(routes map[string][]loadbalancer.BGPRoute, shut func(netip.Addr) bool) (told map[string][]loadbalancer.BGPRoute, waits bool) {
	if t.passed != nil {
		if maps.EqualFunc(routes, t.passed, shared) || !t.anyShut(routes, shut) {
			t.passed = routes
			return routes, false // as most plans are
		}
		t.open = addressesOf(t.passed)
	}
	open := make(map[netip.Addr]struct{}, len(t.open))
	closed := make(map[netip.Addr]struct{})
	passes := func(a netip.Addr) bool {
		if _, known := open[a]; known {
			return true
		}
		if _, known := closed[a]; known {
			return false
		}
		if _, before := t.open[a]; !before && shut(a) {
			closed[a] = struct{}{}
			return false
		}
		open[a] = struct{}{}
		return true
	}
	silent := func(r loadbalancer.BGPRoute) bool {
		some := len(r.Addrs) == 0
		for _, a := range r.Addrs {
			some = passes(a) || some
		}
		return !some
	}
	told = routes
	done := make(map[*loadbalancer.BGPRoute][]loadbalancer.BGPRoute) // peers that are told the same
	for peer, list := range routes {
		out, known := done[firstOf(list)]
		if !known {
			out = list
			if slices.ContainsFunc(list, silent) { // which goes through all of them if none is
				out = slices.DeleteFunc(slices.Clone(list), silent)
			}
			done[firstOf(list)] = out
		}
		if len(out) == len(list) {
			continue
		}
		if !waits {
			told, waits = maps.Clone(routes), true
		}
		told[peer] = out
	}
	t.open, t.passed = open, nil
	if waits = waits || len(closed) > 0; !waits {
		t.open, t.passed = nil, routes
	}
	return told, waits
}

// anyShut says whether an address of a route that has not passed as it is may not.
func (t *telling) anyShut(routes map[string][]loadbalancer.BGPRoute, shut func(netip.Addr) bool) bool {
	type pair struct{ before, now *loadbalancer.BGPRoute }
	done := make(map[pair]struct{}) // peers that are told the same
	for peer, list := range routes {
		before := t.passed[peer]
		p := pair{firstOf(before), firstOf(list)}
		if _, known := done[p]; known || shared(before, list) {
			continue
		}
		done[p] = struct{}{}
		for i := range list {
			r := &list[i]
			for len(before) > 0 && before[0].Prefix != r.Prefix && before[0].Prefix.Compare(r.Prefix) < 0 {
				before = before[1:]
			}
			if len(before) > 0 && before[0].Prefix == r.Prefix && sameAddrs(before[0].Addrs, r.Addrs) {
				continue
			}
			if slices.ContainsFunc(r.Addrs, shut) {
				return true
			}
		}
	}
	return false
}

// sameAddrs compares; plans share what did not change.
func sameAddrs(a, b []netip.Addr) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// addressesOf are all that routes are told for.
func addressesOf(routes map[string][]loadbalancer.BGPRoute) map[netip.Addr]struct{} {
	out := make(map[netip.Addr]struct{})
	for _, list := range routes {
		for i := range list {
			for _, a := range list[i].Addrs {
				out[a] = struct{}{}
			}
		}
	}
	return out
}

// sameTold says whether two plans tell the same.
func sameTold(a, b *loadbalancer.BGPPlan) bool {
	return slices.Equal(a.Sessions, b.Sessions) && maps.EqualFunc(a.Routes, b.Routes, func(a, b []loadbalancer.BGPRoute) bool {
		if shared(a, b) {
			return true // plans share what did not change
		}
		return slices.EqualFunc(a, b, func(a, b loadbalancer.BGPRoute) bool {
			return a.Prefix == b.Prefix && a.Equal(&b.BGPAttributes) && slices.Equal(a.Addrs, b.Addrs)
		})
	})
}

// logFaults logs what is wrong with the configuration, each once.
func logFaults(ctx context.Context, faults, before []loadbalancer.BGPFault) {
	for _, f := range faults {
		if !slices.Contains(before, f) {
			klog.FromContext(ctx).Info("BGP is not as it is configured", "peer", f.Peer, "advertisement", f.Advertisement, "reason", f.Reason, "cause", f.Message)
		}
	}
}

// hopsOf answers with the addresses of one link: routers send packets to the link that the
// session is on. Of IPv6 addresses those that the whole Internet knows come first.
func hopsOf(own []kernel.Link) bgp.NextHops {
	return func(local netip.Addr) (four, six netip.Addr) {
		for _, k := range own {
			if local.Zone() != "" && local.Zone() != k.Name ||
				local.Zone() == "" && !slices.ContainsFunc(k.Prefixes, func(p netip.Prefix) bool { return p.Addr() == local }) {
				continue
			}
			for _, p := range k.Prefixes {
				a := p.Addr()
				switch {
				case a.Is4() && !four.IsValid():
					four = a
				case a.Is6() && (!six.IsValid() || six.IsPrivate() && !a.IsPrivate()):
					six = a
				}
			}
			break
		}
		switch {
		case local.Is4():
			four = local
		case local.Zone() == "":
			six = local
		}
		return four, six
	}
}

// told says whether peers were told anything.
func (t *telling) told() bool {
	for _, list := range t.applied.Routes {
		if len(list) > 0 {
			return true
		}
	}
	return false
}

// configured is what this node is told to do by BGP.
func (l *loop) configured(ctx context.Context) loadbalancer.BGPConfig {
	if !l.ownKnown && l.a.objects.HasBGP() {
		own, err := l.a.d.kernel.Own()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot list the node's own addresses, keeping the old ones")
		} else {
			l.own, l.ownKnown = own, true
		}
	}
	return l.a.objects.BGP(ctx, ownInterfaces(l.own))
}

// ownInterfaces are the node's addresses as what sessions are made of wants them.
func ownInterfaces(own []kernel.Link) []loadbalancer.Interface {
	out := make([]loadbalancer.Interface, 0, len(own))
	for _, k := range own {
		out = append(out, loadbalancer.Interface{Name: k.Name, Index: k.Index, Prefixes: k.Prefixes})
	}
	return out
}

// stopTelling ends all sessions, once the routers know that the routes are gone if there
// were any.
func (l *loop) stopTelling(ctx context.Context, ticker *time.Ticker, told bool) {
	if told {
		routers, cancel := context.WithTimeout(ctx, routersTime)
		for routers.Err() == nil {
			l.wait(routers, ticker)
			l.round(ctx, time.Now())
		}
		cancel()
	}
	l.endSessions(ctx, false)
	l.bgp.stopped = true
	l.round(ctx, time.Now()) // which tells that there are none
}

// endSessions ends all sessions; graceful, where they have graceful restart, keeps routes.
func (l *loop) endSessions(ctx context.Context, graceful bool) {
	ctx, cancel := context.WithTimeout(ctx, ceaseTimeout)
	defer cancel()
	if err := l.a.speaker.Stop(ctx, graceful); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot end every BGP session in time")
	}
}
