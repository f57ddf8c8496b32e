// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

const (
	// gateFor is how long an address waits for the data plane at most: kube-proxy may serve
	// it all the same.
	gateFor = 3 * time.Second
	// tellTimeout bounds what an agent that leaves takes to tell that it no longer forwards,
	// removeTimeout what it takes to remove what it programmed.
	tellTimeout   = 3 * time.Second
	removeTimeout = 10 * time.Second
)

// gate has addresses wait for the data plane before they are announced: what is announced
// and not forwarded fails.
type gate struct {
	// since when each address waits, in this round and in the one before.
	since, before map[netip.Addr]time.Time
	// vips of this round's plan, ascending.
	vips []netip.Addr
}

// begin begins a round.
func (g *gate) begin(f loadbalancer.Forwarding) {
	g.since, g.before, g.vips = make(map[netip.Addr]time.Time), g.since, f.VIPs
}

// shut says whether an address is to wait. It does not for long.
func (g *gate) shut(now time.Time, a netip.Addr, s *planeState) bool {
	// A node that hands back has kube-proxy forward, however long that takes.
	left := !s.forwards || s.told.Forwarding == v1alpha1.ForwardingKubeProxy
	if _, programmed := s.vips[a]; programmed || s.decided && (left || !contains(g.vips, a)) {
		return false
	}
	since, waits := g.before[a]
	if !waits {
		since = now
	}
	g.since[a] = since
	return now.Sub(since) < gateFor
}

// opened notes that an address is announced, programmed or not.
func (g *gate) opened(ctx context.Context, now time.Time, a netip.Addr) {
	if since, waits := g.since[a]; waits {
		klog.FromContext(ctx).Info("Announcing an address that the data plane has not programmed", "address", a, "waited", now.Sub(since))
		delete(g.since, a)
	}
}

// waits says whether an address was made to wait in this round.
func (g *gate) waits(a netip.Addr) bool {
	_, ok := g.since[a]
	return ok
}

// due says whether an address has waited for long enough.
func (g *gate) due(now time.Time) bool {
	for _, since := range g.since {
		if now.Sub(since) >= gateFor {
			return true
		}
	}
	return false
}

// forward passes the plan to the data plane, once the kernel is prepared for it.
func (l *loop) forward(ctx context.Context, s plan.Snapshot, state plan.NodeState) {
	l.revisions.note(s.Records, s.Changed)
	l.gate.begin(state.Forwarding)
	if !s.Forwards || !l.a.forward.State().forwards {
		return // An agent that has just found out that it forwards has no plan for that yet.
	}
	f := state.Forwarding
	w := wanted{Forwarding: f, revision: l.revisions.highest, spec: l.revisions.spec}
	silent := l.settings.muted || !slices.ContainsFunc(f.VIPs, netip.Addr.Is4)
	ready, err := true, error(nil)
	if len(f.VirtualServers) > 0 {
		ready, err = l.prepare(ctx, f)
	}
	switch {
	case l.prepared:
	case err != nil:
		w.refused = err
	case l.settings.deaf != "":
		w.refused = deafError(l.settings.deaf)
	default:
		l.prepared = ready && silent && len(f.VirtualServers) > 0
		w.ready = ready && silent
	}
	w.ready = w.ready || l.prepared
	l.a.forward.Want(w)
}

// deafError names a link on which the kernel cannot be kept silent.
type deafError string

// Error says what to do.
func (e deafError) Error() string {
	return "the kernel would answer for every address of a Service on " + string(e) + ": arp_ignore=1 and arp_announce=2 cannot be set there"
}

// stopForwarding tells that this node no longer forwards, then removes all that does. What
// it announced is withdrawn by then.
func (l *loop) stopForwarding(ctx context.Context) {
	if l.a.forward.State().told.Forwarding == v1alpha1.ForwardingIPVS {
		told, cancel := context.WithTimeout(ctx, tellTimeout)
		defer cancel()
		if err := l.a.report.WriteNow(told); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot tell that this node no longer forwards")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := l.a.forward.Leave(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot remove all of the data plane")
	}
}
