// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

// tell passes the outcome of a round to the API's writers and the metrics.
func (l *loop) tell(objs intake.Objects, state plan.NodeState, view member.View, h status.Health) {
	l.a.owners.Set(l.wantedOwners(objs.Claims, state, view.Settled))
	announced := len(l.held)
	members := len(view.Members) + 1
	l.a.metrics.Now(announced, members)
	l.a.health.announced.Store(int64(announced))
	s := l.agentStatus(announced, members, view.KeyIDs)
	s.Conflicts = l.tellConflicts(time.Now())
	s.DataPlane = l.dataPlane(time.Now())
	s.BGP = l.bgpStatus(time.Now())
	l.a.report.Set(s, h)
}

// maxConflicts is what NodeAgent.status.conflicts holds.
const maxConflicts = 64

// tellConflicts passes the addresses that strangers claim to the metrics, and returns them
// for the API: those that are not announced for it first where there are too many, then
// ascending.
func (l *loop) tellConflicts(now time.Time) []v1alpha1.AddressConflict {
	var out []v1alpha1.AddressConflict
	add := func(k plan.Announcement, mac kernel.MAC, since time.Time, announced bool) {
		out = append(out, v1alpha1.AddressConflict{
			Address: k.Addr.String(), Interface: k.Interface, MAC: mac.String(), Announced: announced,
			Since: metav1.NewTime(since).Rfc3339Copy(),
		})
	}
	duplicates := l.a.probes.duplicates()
	slices.SortFunc(duplicates, func(a, b duplicate) int { return compareAnnouncements(a.Announcement, b.Announcement) })
	for _, d := range duplicates {
		add(d.Announcement, d.mac, d.since, false)
	}
	var series []metrics.Conflict
	conflicts := slices.Concat(l.a.arp.Conflicts(now), l.a.ndp.Conflicts(now))
	for _, c := range conflicts {
		add(c.Announcement, c.MAC, c.Since, true)
		series = append(series, metrics.Conflict{Address: c.Addr.String(), Interface: c.Interface, MAC: c.MAC.String()})
	}
	l.a.metrics.SetConflicts(series)
	l.a.metrics.SetDuplicates(len(duplicates))
	out = out[:min(len(out), maxConflicts)]
	slices.SortStableFunc(out, func(a, b v1alpha1.AddressConflict) int {
		return compareAnnouncements(announcementOf(a), announcementOf(b))
	})
	return out
}

func announcementOf(c v1alpha1.AddressConflict) plan.Announcement {
	addr, _ := netip.ParseAddr(c.Address) // it was one
	return plan.Announcement{Interface: c.Interface, Addr: addr}
}

func compareAnnouncements(a, b plan.Announcement) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Interface, b.Interface))
}

// wantedOwners says what should be in status.owner of the claims: this node where it
// announces; nothing where the API still names this node and nobody announces. Where
// another node took over, that node overwrites it.
func (l *loop) wantedOwners(claims []loadbalancer.Claim, state plan.NodeState, settled bool) map[string]status.Want {
	out := make(map[string]status.Want)
	for _, h := range l.held {
		if !h.withdrawing.IsZero() {
			continue
		}
		out[string(h.name)] = status.Want{Owner: v1alpha1.Owner{
			Node: l.a.o.NodeName, Epoch: epochToAPI(h.epoch), Since: metav1.NewTime(h.since),
		}}
	}
	for i := range claims {
		c := &claims[i]
		if c.Persisted.Node != l.a.name() || !settled {
			continue
		}
		name := string(c.Name)
		if _, held := out[name]; held {
			continue
		}
		_, withdrawing := l.held[c.Addr]
		g := state.Groups[c.Group]
		if c.Releasing || (!withdrawing && (g.Owner.Node == "" || g.Silent[c.Addr] != "")) {
			out[name] = status.Want{Clear: true}
		}
	}
	return out
}

func claimNames(addrs []netip.Addr) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, v1alpha1.ClaimName(a))
	}
	return out
}

// epochToAPI converts an epoch; no group is taken over 2^63 times.
func epochToAPI(e uint64) int64 { return int64(min(e, math.MaxInt64)) }

// maxGateways is what NodeAgent.status.gateways holds.
const maxGateways = 16

// texts is nil of no addresses, as what comes back from the API server is.
func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func (l *loop) agentStatus(announced, members int, keyIDs []string) v1alpha1.NodeAgentStatus {
	s := v1alpha1.NodeAgentStatus{
		Version: l.a.version, BootID: strconv.FormatUint(l.a.boot, 36), DefaultRouteAddresses: texts(l.routes.Addrs),
		Gateways:           texts(l.routes.Gateways[:min(len(l.routes.Gateways), maxGateways)]),
		AnnouncedAddresses: int32(min(announced, math.MaxInt32)),                                               //nolint:gosec // bounded
		Gossip:             v1alpha1.GossipStatus{Members: int32(min(members, math.MaxInt32)), KeyIDs: keyIDs}, //nolint:gosec // bounded
	}
	for _, k := range l.links {
		usable, ok := l.usable(k)
		if !ok {
			continue
		}
		s.Interfaces = append(s.Interfaces, v1alpha1.NodeInterface{Name: k.Name, MAC: k.MAC.String(), Prefixes: shownPrefixes(usable.Prefixes)})
	}
	s.Interfaces = s.Interfaces[:min(len(s.Interfaces), maxInterfaces)]
	return s
}

// maxInterfaces and maxPrefixes are what NodeAgent.status.interfaces holds: the API server
// refuses all of a status for one address too many.
const (
	maxInterfaces = 256
	maxPrefixes   = 64
)

// shownPrefixes are an interface's addresses; where there are too many, those first by
// which a subnet is known.
func shownPrefixes(prefixes []netip.Prefix) []string {
	if len(prefixes) > maxPrefixes {
		known := make(map[netip.Prefix]struct{})
		var subnets, others []netip.Prefix
		for _, p := range prefixes {
			if _, again := known[p.Masked()]; again || p.IsSingleIP() {
				others = append(others, p)
				continue
			}
			known[p.Masked()] = struct{}{}
			subnets = append(subnets, p)
		}
		prefixes = slices.Concat(subnets, others)[:maxPrefixes]
	}
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}
