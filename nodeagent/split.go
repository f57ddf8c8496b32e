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
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
)

// rivals are the members that claim an address which this node announces, and whether
// each did so unseen: one from which the address was taken over in plain sight, because
// it leaves or must not announce any longer, claims it for a moment too.
type rivals map[netip.Addr]map[loadbalancer.NodeName]bool

// split looks for addresses that two nodes announce: two halves of a cluster have met
// again, or views differed. The one with the lower epoch stops by its own plan. The other
// tells the neighbours anew, because some of them believe the loser: at once, and when
// the loser's claim is gone.
func (l *loop) split(ctx context.Context, now time.Time, view member.View) {
	maps.DeleteFunc(l.rivals, func(a netip.Addr, _ map[loadbalancer.NodeName]bool) bool { return l.held[a] == nil })
	claims := make(map[loadbalancer.NodeName]map[loadbalancer.Group]uint64, len(view.Members))
	for n, m := range view.Members {
		claims[n] = l.living.claims(n, m)
	}
	names := make(map[loadbalancer.Group]netip.Addr, len(l.held))
	for a, h := range l.held {
		names[h.name] = a
		for n, split := range l.rivals[a] {
			if claims[n][h.name] > 0 {
				continue
			}
			if split {
				h.term++
			}
			delete(l.rivals[a], n)
		}
	}
	for n, told := range claims {
		var met []netip.Addr
		for name, epoch := range told {
			a, held := names[name]
			if held && epoch > 0 && l.meet(now, a, loadbalancer.Ownership{Node: n, Epoch: epoch}) {
				met = append(met, a)
			}
		}
		if len(met) > 0 {
			slices.SortFunc(met, netip.Addr.Compare)
			klog.FromContext(ctx).Info("Another node claims addresses that this node announces; it will yield",
				"other", n, "count", len(met), "first", met[0], "epoch", l.held[met[0]].epoch)
		}
	}
}

// meet notes a claim to an address of this node's and says whether it is a lower one that
// comes out of the blue.
func (l *loop) meet(now time.Time, a netip.Addr, other loadbalancer.Ownership) bool {
	h := l.held[a]
	if _, known := l.rivals[a][other.Node]; known || other.Beats(loadbalancer.Ownership{Node: l.a.name(), Epoch: h.epoch}) {
		return false
	}
	if l.rivals[a] == nil {
		l.rivals[a] = make(map[loadbalancer.NodeName]bool)
	}
	split := !h.since.Equal(now)
	l.rivals[a][other.Node] = split
	if split {
		h.term++
		l.a.metrics.SplitView()
	}
	return split
}
