// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// audience are the peers that are told the same: most often all of them.
type audience struct {
	// peers by name, ascending.
	peers []string
	// ads that this node tells them.
	ads map[string]*loadbalancer.BGPAdvertisement
	// ipv4 and ipv6 are the families that their sessions carry.
	ipv4, ipv6 bool
	// external says that they are in other AS.
	external bool

	// spots by prefix; dirty are those to be looked at again, noted those that have notes.
	spots map[netip.Prefix]*spot
	dirty []*spot
	noted map[*spot]struct{}
	// routes ascend by prefix.
	routes []loadbalancer.BGPRoute
}

// spot is one prefix with what is said of it.
type spot struct {
	prefix netip.Prefix
	of     *audience
	// tellings of it, ascending by address but for those that are new; gone ones too.
	tellings []*telling
	dirty    bool
	route    loadbalancer.BGPRoute
	notes    []note
}

// telling is one address as it is told by one prefix.
type telling struct {
	addr netip.Addr
	spot *spot
	// voices speak for it, ascending by advertisement, then Service.
	voices []voice
	// bandwidth of its route, 0 for none.
	bandwidth uint32
	gone      bool
}

// voice is one advertisement of one Service.
type voice struct {
	ad   *loadbalancer.BGPAdvertisement
	wish *bgpWish
}

// audiencesOf puts those peers together that are told the same.
func audiencesOf(c *loadbalancer.BGPConfig) []*audience {
	var out []*audience
	byKey := make(map[string]*audience)
	for i := range c.Sessions {
		s := &c.Sessions[i]
		a := &audience{
			ads: make(map[string]*loadbalancer.BGPAdvertisement), spots: make(map[netip.Prefix]*spot), noted: make(map[*spot]struct{}),
			ipv4: s.IPv4, ipv6: s.IPv6, external: !s.Internal(),
		}
		var names []string
		for name, ad := range c.Advertisements {
			if ad.Here && (len(ad.Peers) == 0 || slices.Contains(ad.Peers, s.Peer)) {
				a.ads[name] = &ad
				names = append(names, name)
			}
		}
		slices.Sort(names)
		key := flags(a.ipv4, a.ipv6, a.external) + strings.Join(names, "/")
		if known := byKey[key]; known != nil {
			a = known
		} else {
			byKey[key] = a
			out = append(out, a)
		}
		a.peers = append(a.peers, s.Peer)
	}
	return out
}

func flags(of ...bool) string {
	out := make([]byte, len(of))
	for i, f := range of {
		out[i] = '0'
		if f {
			out[i] = '1'
		}
	}
	return string(out)
}

// tell adds an address, if all its Services want these peers told.
func (a *audience) tell(v *vip) {
	if v.addr.Is4() && !a.ipv4 || v.addr.Is6() && !a.ipv6 {
		return
	}
	voices := a.voicesOf(v)
	for len(voices) > 0 {
		prefix := prefixOf(v, voices[0].ad)
		t := &telling{addr: v.addr, bandwidth: v.bandwidth}
		rest := voices[:0:0]
		for _, one := range voices {
			if prefixOf(v, one.ad) == prefix {
				t.voices = append(t.voices, one)
			} else {
				rest = append(rest, one)
			}
		}
		voices = rest
		a.put(prefix, t)
		v.tellings = append(v.tellings, t)
	}
}

// voicesOf are the voices for an address, ascending by advertisement, then Service; none
// where a Service does not want these peers told.
//
// An address that has a route of its own under the Local policy, whatever length an
// advertisement asks for, says there what those advertisements say that ask for such a route.
// Only where there is none do the others speak.
func (a *audience) voicesOf(v *vip) []voice {
	var out []voice
	for i := range v.wishes {
		w, before := &v.wishes[i], len(out)
		for _, name := range w.ads {
			if ad := a.ads[name]; ad != nil {
				out = append(out, voice{ad, w})
			}
		}
		if len(out) == before {
			return nil
		}
	}
	single := func(o voice) bool { return lengthOf(v.addr, o.ad) == v.addr.BitLen() }
	if v.local && slices.ContainsFunc(out, single) {
		out = slices.DeleteFunc(out, func(o voice) bool { return !single(o) })
	}
	slices.SortFunc(out, func(a, b voice) int {
		return cmp.Or(cmp.Compare(a.ad.Name, b.ad.Name), compareServices(a.wish.service, b.wish.service), cmp.Compare(a.wish.uid, b.wish.uid))
	})
	return slices.Compact(out)
}

// lengthOf is the length of the prefix by which an advertisement tells an address.
func lengthOf(addr netip.Addr, ad *loadbalancer.BGPAdvertisement) int {
	bits := ad.Bits4
	if addr.Is6() {
		bits = ad.Bits6
	}
	if bits <= 0 || bits > addr.BitLen() {
		return addr.BitLen()
	}
	return bits
}

// prefixOf is the prefix by which an advertisement tells an address. What only some nodes
// serve is never within a longer one: routers would send to nodes that drop it.
func prefixOf(v *vip, ad *loadbalancer.BGPAdvertisement) netip.Prefix {
	bits := lengthOf(v.addr, ad)
	if v.local {
		bits = v.addr.BitLen()
	}
	return netip.PrefixFrom(v.addr, bits).Masked()
}

func (a *audience) put(prefix netip.Prefix, t *telling) {
	s := a.spots[prefix]
	if s == nil {
		s = &spot{prefix: prefix, of: a}
		a.spots[prefix] = s
	}
	t.spot = s
	s.tellings = append(s.tellings, t)
	s.mark()
}

// mark has a spot looked at again.
func (s *spot) mark() {
	if !s.dirty {
		s.dirty = true
		s.of.dirty = append(s.of.dirty, s)
	}
}

// update makes the routes anew if any changed: what lies between those that did is copied.
func (a *audience) update(m *bgpMemory) {
	if len(a.dirty) == 0 {
		return
	}
	slices.SortFunc(a.dirty, func(a, b *spot) int { return a.prefix.Compare(b.prefix) })
	old := a.routes
	a.routes = make([]loadbalancer.BGPRoute, 0, len(old)+len(a.dirty))
	for _, s := range a.dirty {
		i, known := slices.BinarySearchFunc(old, s.prefix, func(r loadbalancer.BGPRoute, p netip.Prefix) int { return r.Prefix.Compare(p) })
		a.routes = append(a.routes, old[:i]...)
		if known {
			i++
		}
		old = old[i:]
		s.update(m)
		delete(a.noted, s)
		if len(s.tellings) == 0 {
			delete(a.spots, s.prefix)
			continue
		}
		a.routes = append(a.routes, s.route)
		if len(s.notes) > 0 {
			a.noted[s] = struct{}{}
		}
	}
	a.routes = append(a.routes, old...)
	a.dirty = a.dirty[:0]
}

// update makes one route anew.
func (s *spot) update(m *bgpMemory) {
	s.dirty = false
	s.tellings = slices.DeleteFunc(s.tellings, func(t *telling) bool { return t.gone })
	if len(s.tellings) == 0 {
		return
	}
	slices.SortFunc(s.tellings, func(a, b *telling) int { return a.addr.Compare(b.addr) })
	s.route = loadbalancer.BGPRoute{Prefix: s.prefix, Addrs: make([]netip.Addr, 0, len(s.tellings))}
	for _, t := range s.tellings {
		s.route.Addrs = append(s.route.Addrs, t.addr)
	}
	s.route.BGPAttributes, s.notes = m.attributes(s)
	if m.drain.Reason != "" {
		m.drainRoute(s)
	}
}
