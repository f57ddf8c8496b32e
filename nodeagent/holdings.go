// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// holding is an address that this node announces.
type holding struct {
	// name of the address's claim.
	name loadbalancer.Group
	// group that it belongs to, as of the last round in which this node was the owner.
	group loadbalancer.Group
	epoch uint64
	// term is the epoch under which this node began to announce: what the neighbours were
	// told. A group that takes another address in may go on under a higher epoch.
	term  uint64
	since time.Time
	// interfaces that it is announced on.
	interfaces []string
	// withdrawing is since when the node may not announce it, zero while it may.
	withdrawing time.Time
	// patient says that it is announced until somebody takes it over, however long that is:
	// the node is able to, and only would rather not.
	patient bool
}

// holdings are the addresses that this node announces. They are kept by address and not
// by group, because groups get other names, merge and split while addresses stay.
type holdings map[netip.Addr]*holding

// decide turns verdicts into holdings.
func (l *loop) decide(ctx context.Context, now time.Time, state plan.NodeState) {
	planned := make(map[netip.Addr]struct{}, len(l.held))
	probing := make(map[plan.Announcement]struct{})
	for g, st := range state.Groups {
		switch st.Action {
		case placement.Keep, placement.TakeOver:
			l.hold(ctx, now, g, st, probing)
		case placement.Yield, placement.Withdraw:
			l.giveUp(ctx, now, st)
		case placement.Wait:
			// Nothing of the group is held, but perhaps an address that is released and got
			// into the group at the same time.
			for _, a := range st.Claims {
				if l.held[a] != nil {
					l.release(ctx, a, cmp.Or(st.Silent[a], st.Reason))
				}
			}
		}
		if len(l.held) == 0 {
			continue
		}
		for _, a := range st.Claims {
			if l.held[a] != nil {
				planned[a] = struct{}{}
			}
		}
	}
	for a := range l.held {
		if _, ok := planned[a]; !ok {
			l.release(ctx, a, reason.Released)
		}
	}
	l.a.arp.Probe(probing)
	l.a.ndp.Probe(probing)
	l.a.probes.keep(probing)
	l.a.probes.log(ctx)
}

// mayBegin says whether an address that this node does not announce may be: at once if
// anybody ever did, else when nobody outside the cluster was found to have it. What is
// still in doubt is added to probing, and stays in doubt whatever epoch is heard of
// meanwhile: the name of its claim may be that of its group, of which this node announces
// another address.
func (l *loop) mayBegin(now time.Time, a netip.Addr, st *plan.GroupState, joins bool, probing map[plan.Announcement]struct{}) bool {
	var known, asked bool
	free := true
	for _, k := range st.Announce {
		if k.Addr != a {
			continue
		}
		if !asked {
			known, asked = l.wasAnnounced(a, joins), true
		}
		if !known || l.a.probes.has(k) {
			probing[k] = struct{}{}
			free = l.a.probes.verdict(now, k) == verdictFree && free
		}
	}
	return free
}

// wasAnnounced says whether anybody ever announced an address, as far as this node heard.
// Where one joins a group that this node announces, and gives it its name, the epoch of
// that name is the group's: then the address's own claim tells.
func (l *loop) wasAnnounced(a netip.Addr, joins bool) bool {
	if l.epochs.highest[loadbalancer.Group(v1alpha1.ClaimName(a))] == 0 {
		return false
	}
	return !joins || slices.ContainsFunc(l.objs.Claims, func(c loadbalancer.Claim) bool {
		return c.Addr == a && (c.Persisted.Epoch > 0 || c.Group != c.Name)
	})
}

// hold announces a group of which this node is the owner.
func (l *loop) hold(ctx context.Context, now time.Time, g loadbalancer.Group, st plan.GroupState, probing map[plan.Announcement]struct{}) {
	var fresh []netip.Addr
	joins := slices.ContainsFunc(st.Addrs, func(a netip.Addr) bool { return l.held[a] != nil })
	plane := l.a.forward.State()
	for _, a := range st.Addrs {
		h := l.held[a]
		if h == nil {
			// Both go on at once: probing takes a while, and so does programming.
			shut := l.gate.shut(now, a, plane)
			if !l.mayBegin(now, a, &st, joins, probing) || shut {
				continue
			}
		}
		if h == nil || st.Action == placement.TakeOver {
			l.gate.opened(ctx, now, a)
			h = &holding{name: loadbalancer.Group(v1alpha1.ClaimName(a)), term: st.Owner.Epoch, since: now}
			l.held[a] = h
			l.a.metrics.TookOver()
			fresh = append(fresh, a)
		}
		h.group, h.epoch, h.withdrawing, h.patient = g, st.Owner.Epoch, time.Time{}, false
		h.interfaces = h.interfaces[:0:0]
		for _, an := range st.Announce {
			if an.Addr == a {
				h.interfaces = append(h.interfaces, an.Interface)
			}
		}
	}
	for a, why := range st.Silent {
		l.release(ctx, a, why)
	}
	if len(fresh) > 0 {
		klog.FromContext(ctx).Info("Announcing", "group", g, "epoch", st.Owner.Epoch, "addresses", fresh)
	}
}

// giveUp stops announcing a group: at once what somebody else has, the rest when
// somebody has it, or soon.
func (l *loop) giveUp(ctx context.Context, now time.Time, st plan.GroupState) {
	for _, a := range st.Claims {
		h := l.held[a]
		if h == nil {
			continue
		}
		if st.Action == placement.Yield && !slices.Contains(st.Orphans, a) {
			l.release(ctx, a, st.Reason)
			continue
		}
		if h.withdrawing.IsZero() {
			h.withdrawing = now
		}
		h.patient = st.Reason == reason.NodeCordoned && !l.leaving
		if h.overdue(now) {
			l.release(ctx, a, st.Reason)
		}
	}
}

func (l *loop) release(ctx context.Context, a netip.Addr, why reason.Reason) {
	h, ok := l.held[a]
	if !ok {
		return
	}
	delete(l.held, a)
	l.a.metrics.Released(why)
	klog.FromContext(ctx).Info("No longer announcing", "address", a, "group", h.group, "epoch", h.epoch, "reason", why)
}

// announcements are what goes on the wire, with the term of each.
func (hs holdings) announcements() map[plan.Announcement]uint64 {
	out := make(map[plan.Announcement]uint64, len(hs))
	for a, h := range hs {
		for _, i := range h.interfaces {
			out[plan.Announcement{Interface: i, Addr: a}] = h.term
		}
	}
	return out
}

// claims are what the others are told: each address by the name of its claim, and the
// names of the groups.
func (hs holdings) claims() map[loadbalancer.Group]uint64 {
	out := make(map[loadbalancer.Group]uint64, len(hs))
	for _, h := range hs {
		if h.withdrawing.IsZero() {
			out[h.group] = max(out[h.group], h.epoch)
		}
	}
	for _, h := range hs {
		out[h.name] = h.epoch
	}
	return out
}

// addrs are the addresses held, ascending.
func (hs holdings) addrs() []netip.Addr {
	return slices.SortedFunc(maps.Keys(hs), netip.Addr.Compare)
}

// overdue says whether an address has been lingered on for long enough.
func (hs holdings) overdue(now time.Time) bool {
	for _, h := range hs {
		if h.overdue(now) {
			return true
		}
	}
	return false
}

func (h *holding) overdue(now time.Time) bool {
	return !h.patient && !h.withdrawing.IsZero() && now.Sub(h.withdrawing) >= linger
}
