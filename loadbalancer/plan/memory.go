// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Memory makes plans cost less: it keeps what each record added to the last one, and most
// records are what they were. It changes nothing of what a plan says. The zero value is
// ready for use, by one goroutine at a time.
//
// Slices that did not change since the last plan are the same ones.
type Memory struct {
	records map[loadbalancer.ServiceUID]*memory
	round   uint64
	// What the shares depend on beside their records.
	self    loadbalancer.NodeName
	dead    map[loadbalancer.NodeName]struct{}
	targets map[loadbalancer.NodeName]nodeAddrs
	// stale and staleNodePorts say that the shares of all records, or those that target
	// node ports, are to be made again.
	stale, staleNodePorts bool

	// changed says that some share did, or is gone; reshaped that it has other keys.
	changed, reshaped bool
	// shared addresses have Services of kube-proxy too.
	shared map[netip.Addr]struct{}
	// fronts and insides are in the order in which the forwarding has them.
	fronts, insides []entry
	last            loadbalancer.Forwarding
	// addrs and own are for the record at hand.
	addrs, own []netip.Addr

	groups groupMemory
	bgp    bgpMemory
}

// memory is the share of one record and what it was made of.
type memory struct {
	asked
	share *share
	// marks of the share's virtual servers for packets from within.
	marks []uint32
	round uint64
}

// forget forgets what was forwarded.
func (m *Memory) forget() { *m = Memory{groups: m.groups, bgp: m.bgp} }

// begin begins a round.
func (m *Memory) begin(f *forwarder) {
	if m.records == nil {
		m.records = make(map[loadbalancer.ServiceUID]*memory, len(f.s.Records))
	}
	m.round++
	m.changed, m.reshaped = false, false
	m.stale = m.self != f.s.Self || !maps.Equal(m.dead, f.dead)
	m.staleNodePorts = !maps.Equal(m.targets, f.targets)
	m.self, m.dead, m.targets = f.s.Self, f.dead, f.targets
}

// record plans one record, or finds that it is what it was.
func (m *Memory) record(f *forwarder, uid loadbalancer.ServiceUID, r loadbalancer.Record) {
	m.addrs, m.own = f.addrs(m.addrs[:0], r), f.ownAddrs(m.own[:0], r)
	now := asked{Record: r, addrs: m.addrs, own: m.own, backends: f.s.Endpoints[r.Service].Backends}
	e := m.records[uid]
	if e == nil {
		e = new(memory)
		m.records[uid] = e
	}
	e.round = m.round
	if e.share != nil && !m.stale && (!m.staleNodePorts || r.Targets != loadbalancer.TargetNodePort) && e.same(&now) {
		return
	}
	now.addrs, now.own = slices.Clone(now.addrs), slices.Clone(now.own)
	share := f.share(&now)
	m.changed = true
	m.reshaped = m.reshaped || e.share == nil || e.Service != r.Service || !share.hasKeysOf(e.share)
	e.asked, e.share = now, share
}

// end ends a round: records that were not met in it are gone.
func (m *Memory) end() {
	for uid, e := range m.records {
		if e.round != m.round {
			delete(m.records, uid)
			m.changed, m.reshaped = true, true
		}
	}
}

// same says whether two records are forwarded in the same way, given that all else is the same.
func (a *asked) same(b *asked) bool {
	return a.Service == b.Service && a.UID == b.UID && a.Policy == b.Policy && a.Targets == b.Targets && a.Scheduler == b.Scheduler &&
		a.Flags == b.Flags && a.Affinity == b.Affinity && same(a.Ports, b.Ports) && same(a.Sources, b.Sources) &&
		same(a.addrs, b.addrs) && same(a.own, b.own) && same(a.backends, b.backends)
}

// same compares slices that are the same one as a rule.
func same[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// hasKeysOf says whether two shares have the same keys, in the same order.
func (s *share) hasKeysOf(t *share) bool {
	return slices.EqualFunc(s.fronts, t.fronts, func(a, b front) bool {
		return a.Addr == b.Addr && a.Protocol == b.Protocol && a.Port == b.Port && a.inside == b.inside
	}) && slices.EqualFunc(s.inside, t.inside, func(a, b inside) bool { return a.markKey == b.markKey })
}

// entry is one front of a record, or one virtual server for packets from within.
type entry struct {
	of    *memory
	index int
}

func (e entry) front() *front { return &e.of.share.fronts[e.index] }

func (e entry) inside() *inside { return &e.of.share.inside[e.index] }

func (e entry) mark() uint32 { return e.of.marks[e.index] }

// assemble joins the shares of all records.
func (m *Memory) assemble() loadbalancer.Forwarding {
	if m.reshaped {
		m.arrange()
	}
	out := loadbalancer.Forwarding{
		VirtualServers: make([]loadbalancer.VirtualServer, 0, len(m.fronts)+len(m.insides)),
		Served:         make([]loadbalancer.Served, 0, len(m.fronts)),
	}
	inside := m.insides
	for _, e := range m.fronts {
		f := e.front()
		for len(inside) > 0 && (f.Addr.Is6() || !inside[0].inside().is6) {
			out.VirtualServers = append(out.VirtualServers, inside[0].server())
			inside = inside[1:]
		}
		if f.outside >= 0 {
			out.VirtualServers = append(out.VirtualServers, e.of.share.outside[f.outside])
		}
		if n := len(out.VIPs); !f.Foreign && (n == 0 || out.VIPs[n-1] != f.Addr) {
			out.VIPs = append(out.VIPs, f.Addr)
		}
		served := f.Served
		served.Mark = e.of.marks[f.inside]
		if _, shared := m.shared[f.Addr]; shared {
			served.Foreign = true
		}
		out.Served = append(out.Served, served)
	}
	for _, e := range m.records {
		out.LocalReals = append(out.LocalReals, e.share.local...)
	}
	slices.SortFunc(out.LocalReals, netip.Addr.Compare)
	out.LocalReals = slices.Compact(out.LocalReals)
	return out
}

// server is a virtual server for packets from within.
func (e entry) server() loadbalancer.VirtualServer {
	out := e.inside().VirtualServer
	out.Mark = e.mark()
	return out
}

// arrange gives marks and sorts. Where two records claim the same address and port, which
// allocation never lets them, the one of the lower Service has it.
func (m *Memory) arrange() {
	m.fronts, m.insides = m.fronts[:0], m.insides[:0]
	var keys []markKey
	for _, e := range m.records {
		for i := range e.share.fronts {
			m.fronts = append(m.fronts, entry{e, i})
		}
		for i := range e.share.inside {
			m.insides = append(m.insides, entry{e, i})
			keys = append(keys, e.share.inside[i].markKey)
		}
		e.marks = make([]uint32, len(e.share.inside))
	}
	for i, mark := range marks(keys) {
		m.insides[i].of.marks[m.insides[i].index] = mark
	}
	m.insides = slices.DeleteFunc(m.insides, func(e entry) bool { return e.mark() == 0 })
	slices.SortFunc(m.insides, func(a, b entry) int {
		return cmp.Or(loadbalancer.CompareBools(a.inside().is6, b.inside().is6), cmp.Compare(a.mark(), b.mark()))
	})
	slices.SortFunc(m.fronts, func(a, b entry) int {
		return cmp.Or(
			compareFronts(a.front(), b.front()), cmp.Compare(a.of.Service.Namespace, b.of.Service.Namespace),
			cmp.Compare(a.of.Service.Name, b.of.Service.Name), cmp.Compare(a.of.UID, b.of.UID),
		)
	})
	all := len(m.fronts)
	m.fronts = slices.CompactFunc(m.fronts, func(a, b entry) bool { return compareFronts(a.front(), b.front()) == 0 })
	if len(m.fronts) == all {
		return
	}
	reached := make(map[entry]struct{}, len(m.fronts))
	for _, e := range m.fronts {
		reached[entry{e.of, e.front().inside}] = struct{}{}
	}
	m.insides = slices.DeleteFunc(m.insides, func(e entry) bool { _, ok := reached[e]; return !ok })
}

func compareFronts(a, b *front) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}
