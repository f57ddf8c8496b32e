// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"maps"
	"net/netip"
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
	for a, h := range l.held {
		name := h.name
		for n := range l.rivals[a] {
			if view.Members[n].Claims[name] > 0 {
				continue
			}
			if l.rivals[a][n] {
				h.term++
			}
			delete(l.rivals[a], n)
		}
		for n, m := range view.Members {
			if _, known := l.rivals[a][n]; known || m.Claims[name] == 0 {
				continue
			}
			own := loadbalancer.Ownership{Node: l.a.name(), Epoch: h.epoch}
			if (loadbalancer.Ownership{Node: n, Epoch: m.Claims[name]}).Beats(own) {
				continue
			}
			if l.rivals[a] == nil {
				l.rivals[a] = make(map[loadbalancer.NodeName]bool)
			}
			unseen := !h.since.Equal(now)
			l.rivals[a][n] = unseen
			if unseen {
				h.term++
				l.a.metrics.SplitView()
				klog.FromContext(ctx).Info("Another node claims an address that this node announces; it will yield",
					"address", a, "epoch", h.epoch, "other", n, "otherEpoch", m.Claims[name])
			}
		}
	}
}
