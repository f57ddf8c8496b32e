// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// bgpMemory makes plans of what is told by BGP cost less: it keeps what each address added
// to the last one. As long as the configuration is the same, only prefixes of addresses that
// changed are looked at again.
type bgpMemory struct {
	self   loadbalancer.NodeName
	config loadbalancer.BGPConfig
	drain  loadbalancer.BGPDrain

	audiences []*audience
	vips      map[netip.Addr]*vip
	round     uint64
	// changed says that some address is told otherwise than before, or not at all, or that the
	// configuration has other faults.
	changed bool
	last    loadbalancer.BGPPlan
	// records and wishes are for the address at hand.
	records []loadbalancer.Record
	wishes  []bgpWish
	// silent are the addresses that no session is told; the plan has a copy.
	silent  map[netip.Addr]string
	silence bool // it changed
}

// vip is an address and what its routes follow from, but for the configuration.
type vip struct {
	addr netip.Addr
	// why this node does not tell it, "" when it may; untold is why no session is told then.
	why, untold reason.Reason
	// local says that only nodes with endpoints tell it, by a route of its own.
	local bool
	// bandwidth is that of the route, 0 for none.
	bandwidth uint32
	// wishes of its Services that want it told.
	wishes []bgpWish

	tellings []*telling
	round    uint64
}

// bgpWish is what one Service wants to be told of its addresses.
type bgpWish struct {
	uid     loadbalancer.ServiceUID
	service loadbalancer.ServiceKey
	// ads by name; some of them exist.
	ads []string
	// says is what the Service says itself.
	says loadbalancer.BGPOverrides
}

func (w *bgpWish) same(o *bgpWish) bool {
	return w.uid == o.uid && w.service == o.service && same(w.ads, o.ads) && sameOverrides(&w.says, &o.says)
}

func sameOverrides(a, b *loadbalancer.BGPOverrides) bool {
	return a.LocalPref == b.LocalPref && a.MED == b.MED && a.Prepend == b.Prepend && a.HasLocalPref == b.HasLocalPref &&
		a.HasMED == b.HasMED && a.HasPrepend == b.HasPrepend && same(a.Communities, b.Communities)
}

// plan says what this node tells by BGP. Nobody owns an address: every node that may tells
// it, so that routers share what comes among them.
// What is affected is nil where that may be anything.
func (m *bgpMemory) plan(p *planner, some *affected) loadbalancer.BGPPlan {
	if len(p.s.BGP.Sessions) == 0 {
		*m = bgpMemory{}
		return loadbalancer.BGPPlan{Faults: p.s.BGP.Faults}
	}
	if why := p.mayTell(); why != "" {
		*m = bgpMemory{}
		return loadbalancer.BGPPlan{Sessions: p.s.BGP.Sessions, Reason: why.String(), Faults: p.s.BGP.Faults}
	}
	if fresh := m.begin(p); fresh || some == nil {
		m.all(p)
	} else {
		m.some(p, some)
	}
	if m.changed {
		m.assemble()
	}
	m.last.Sessions = p.s.BGP.Sessions
	return m.last
}

// all looks at all addresses.
func (m *bgpMemory) all(p *planner) {
	for i := range p.s.Claims {
		m.claim(p, &p.s.Claims[i])
	}
	for a, v := range m.vips {
		if v.round != m.round {
			m.forget(a)
		}
	}
}

// some looks at addresses that something changed of.
func (m *bgpMemory) some(p *planner, a *affected) {
	for _, is := range a.changes {
		if is.Before != nil && (is.Now == nil || is.Now.Addr != is.Before.Addr) {
			m.forget(is.Before.Addr)
		}
	}
	for _, c := range a.claims {
		if c == nil {
			continue
		}
		m.claim(p, c)
		if v := m.vips[c.Addr]; v != nil && v.round != m.round {
			m.forget(c.Addr)
		}
	}
}

// forget forgets an address that is not to be told any more.
func (m *bgpMemory) forget(a netip.Addr) {
	v := m.vips[a]
	if v == nil {
		return
	}
	v.withdraw()
	delete(m.vips, a)
	m.noteSilent(a, "")
	m.changed = true
}

// noteSilent notes why no session is told an address, "" if some may be.
func (m *bgpMemory) noteSilent(a netip.Addr, why reason.Reason) {
	before := m.silent[a]
	if before == why.String() {
		return
	}
	m.silence = true
	if why == "" {
		delete(m.silent, a)
		return
	}
	m.silent[a] = why.String()
}

// mayTell says why this node tells nobody anything, "" when it does. What it is drained for
// is no reason before that is over.
func (p *planner) mayTell() reason.Reason {
	m := p.s.Members[p.s.Self]
	n, known := p.s.Nodes[p.s.Self]
	if p.s.Drain.Over {
		return reason.Draining
	}
	if p.s.Drain.Reason != "" {
		m.Leaving, n.Excluded, n.ShuttingDown = false, false, false
	}
	return mayServe(m, n, known)
}

// begin begins a round, from nothing if the configuration has changed, which it says.
func (m *bgpMemory) begin(p *planner) (fresh bool) {
	if m.vips == nil || m.self != p.s.Self || m.drain != p.s.Drain || !sameBGP(&m.config, &p.s.BGP) {
		*m = bgpMemory{
			self: p.s.Self, config: p.s.BGP, drain: p.s.Drain, audiences: audiencesOf(&p.s.BGP),
			vips: make(map[netip.Addr]*vip, len(p.s.Claims)), changed: true,
			records: m.records, wishes: m.wishes, silent: make(map[netip.Addr]string),
		}
		m.round = 1
		return true
	}
	m.round++
	m.changed = !slices.Equal(m.config.Faults, p.s.BGP.Faults)
	m.config = p.s.BGP
	return false
}

// sameBGP says whether routes follow from both in the same way.
func sameBGP(a, b *loadbalancer.BGPConfig) bool {
	return slices.EqualFunc(a.Sessions, b.Sessions, func(a, b loadbalancer.BGPSession) bool {
		return a.Peer == b.Peer && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Internal() == b.Internal()
	}) && maps.EqualFunc(a.Advertisements, b.Advertisements, func(a, b loadbalancer.BGPAdvertisement) bool {
		return a.Name == b.Name && a.Here == b.Here && a.Bits4 == b.Bits4 && a.Bits6 == b.Bits6 && a.Attributes.Equal(&b.Attributes) &&
			slices.Equal(a.Peers, b.Peers) && a.ServiceLocalPref == b.ServiceLocalPref && a.ServiceMED == b.ServiceMED &&
			a.ServicePrepend == b.ServicePrepend && a.ServiceCommunities == b.ServiceCommunities
	}) && maps.Equal(a.Aliases, b.Aliases)
}

// claim plans one address, or finds that it is what it was.
func (m *bgpMemory) claim(p *planner, c *loadbalancer.Claim) {
	now, wanted := m.vipOf(p, *c)
	if !wanted {
		return
	}
	old := m.vips[c.Addr]
	if old != nil && old.why == now.why && old.local == now.local && old.bandwidth == now.bandwidth &&
		slices.EqualFunc(old.wishes, now.wishes, func(a, b bgpWish) bool { return a.same(&b) }) {
		old.round = m.round
		return
	}
	if old != nil {
		old.withdraw()
	}
	m.changed = true
	v := m.tell(now)
	m.vips[c.Addr] = v
	m.noteSilent(c.Addr, cmp.Or(v.why, v.untold))
}

// tell keeps an address and tells it whom it is for.
func (m *bgpMemory) tell(now vip) *vip {
	v := &now
	v.wishes, v.round = slices.Clone(v.wishes), m.round
	if v.why != "" {
		return v
	}
	for _, a := range m.audiences {
		a.tell(v)
	}
	if len(v.tellings) == 0 {
		v.untold = m.whyUntold(v)
	}
	return v
}

// vipOf joins a claim with the records of its Services; wanted is false where none of them
// names an advertisement by BGP. As on layer 2, what one of those that share an address limits
// holds for all: nodes, peers, and that under the Local policy a node has endpoints.
func (m *bgpMemory) vipOf(p *planner, c loadbalancer.Claim) (out vip, wanted bool) {
	m.records = p.recordsOf(m.records[:0], c)
	m.wishes = m.wishes[:0]
	served := false
	out.addr = c.Addr
	for i := range m.records {
		r := &m.records[i]
		out.local = out.local || r.Policy == loadbalancer.Local
		ads := bgpAdvertisements(r, c.Addr)
		wanted = wanted || len(ads) > 0
		if !slices.ContainsFunc(ads, func(name string) bool { _, ok := m.config.Advertisements[name]; return ok }) {
			continue
		}
		m.wishes = append(m.wishes, bgpWish{uid: r.UID, service: r.Service, ads: ads, says: r.BGP})
		served = served || r.Policy == loadbalancer.Cluster || p.s.Endpoints[r.Service].Any
	}
	if !wanted {
		return out, false
	}
	out.wishes = m.wishes
	local, _ := p.localServices(m.records)
	out.why = p.unannounceable(c)
	switch {
	case out.why != "":
	case p.reservedHere(c.Addr):
		out.why = reason.AddressReserved
	case len(m.wishes) == 0:
		out.why = reason.NoAdvertisement
	case !served:
		out.why = reason.NoEndpoints
	default:
		out.why = mayServeLocally(p.s.Self, local)
	}
	if out.why == "" {
		out.bandwidth = bandwidth(p.s.Self, c.Addr, local)
	}
	return out, true
}

// bgpAdvertisements are those of a record that tell one of its addresses.
func bgpAdvertisements(r *loadbalancer.Record, a netip.Addr) []string {
	if len(r.BGPAddrs) == 0 {
		return r.BGPAdvertisements
	}
	return slices.DeleteFunc(slices.Clone(r.BGPAdvertisements), func(name string) bool {
		only, limited := r.BGPAddrs[name]
		return limited && !slices.Contains(only, a)
	})
}

// bandwidth is in endpoints on this node, the fewest of the Services that share the address.
func bandwidth(self loadbalancer.NodeName, a netip.Addr, local []loadbalancer.Endpoints) uint32 {
	var out uint32
	for i, e := range local {
		if n := endpointsHere(self, a.Is6(), e.Backends); i == 0 || n < out {
			out = n
		}
	}
	return out
}

// endpointsHere counts the endpoints of one family on a node: those that are ready, else, as
// in [loadbalancer.Endpoints], those that terminate and still serve.
func endpointsHere(self loadbalancer.NodeName, is6 bool, all []loadbalancer.Backend) uint32 {
	var ready, serving uint32
	var lastReady, last netip.Addr
	for i := range all {
		b := &all[i]
		if b.Node != self || b.Addr.Is6() != is6 {
			continue
		}
		if b.Ready && b.Addr != lastReady {
			ready, lastReady = ready+1, b.Addr
		}
		if b.Serving && b.Addr != last {
			serving, last = serving+1, b.Addr
		}
	}
	if ready > 0 {
		return ready
	}
	return serving
}

// whyUntold says why no session is told an address that this node may tell.
func (m *bgpMemory) whyUntold(v *vip) reason.Reason {
	for i := range v.wishes {
		if !slices.ContainsFunc(v.wishes[i].ads, func(name string) bool { return m.config.Advertisements[name].Here }) {
			return reason.NodeNotSelected
		}
	}
	return reason.NoSession
}

func (v *vip) withdraw() {
	for _, t := range v.tellings {
		t.gone = true
		t.spot.mark()
	}
}

// assemble makes the plan anew of what changed and what did not.
func (m *bgpMemory) assemble() {
	silent := m.last.Silent
	if m.silence {
		m.silence, silent = false, nil
		if len(m.silent) > 0 {
			silent = maps.Clone(m.silent)
		}
	}
	m.last = loadbalancer.BGPPlan{Silent: silent, Routes: make(map[string][]loadbalancer.BGPRoute, len(m.config.Sessions))}
	f := bgpFaults{}
	for _, a := range m.audiences {
		a.update(m)
		for s := range a.noted {
			f.add(s.notes)
		}
		if len(a.routes) == 0 {
			continue
		}
		for _, peer := range a.peers {
			m.last.Routes[peer] = a.routes
		}
	}
	m.last.Faults = slices.Concat(m.config.Faults, f.list())
}

func compareServices(a, b loadbalancer.ServiceKey) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
