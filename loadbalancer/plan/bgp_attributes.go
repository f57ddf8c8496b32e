// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// While routes are drained they are prepended as many times more, up to as many in all as
// the API allows.
const (
	drainPrepend = 3
	maxPrepend   = 16
)

// drainRoute has routers prefer any other route (RFC 8326 §4).
func (m *bgpMemory) drainRoute(s *spot) {
	r := &s.route
	r.LocalPref, r.HasLocalPref = 0, true
	r.Communities = loadbalancer.SortCommunities(append(slices.Clip(r.Communities), loadbalancer.GracefulShutdown())...)
	if s.of.external {
		r.Prepend = max(r.Prepend, min(r.Prepend+drainPrepend, maxPrepend))
	}
}

// field is one attribute of which a route has a single value.
type field struct {
	name string
	// ad and service are what an advertisement or a Service says of it, if anything; allowed
	// whether an advertisement leaves it to its Services.
	ad      func(a *loadbalancer.BGPAttributes) (uint32, bool)
	service func(o *loadbalancer.BGPOverrides) (uint32, bool)
	allowed func(a *loadbalancer.BGPAdvertisement) bool
	set     func(a *loadbalancer.BGPAttributes, value uint32)
}

func fields() [3]field {
	return [3]field{
		{
			name:    "localPref",
			ad:      func(a *loadbalancer.BGPAttributes) (uint32, bool) { return a.LocalPref, a.HasLocalPref },
			service: func(o *loadbalancer.BGPOverrides) (uint32, bool) { return o.LocalPref, o.HasLocalPref },
			allowed: func(a *loadbalancer.BGPAdvertisement) bool { return a.ServiceLocalPref },
			set:     func(a *loadbalancer.BGPAttributes, v uint32) { a.LocalPref, a.HasLocalPref = v, true },
		},
		{
			name:    "med",
			ad:      func(a *loadbalancer.BGPAttributes) (uint32, bool) { return a.MED, a.HasMED },
			service: func(o *loadbalancer.BGPOverrides) (uint32, bool) { return o.MED, o.HasMED },
			allowed: func(a *loadbalancer.BGPAdvertisement) bool { return a.ServiceMED },
			set:     func(a *loadbalancer.BGPAttributes, v uint32) { a.MED, a.HasMED = v, true },
		},
		{
			name:    "asPathPrepend",
			ad:      func(a *loadbalancer.BGPAttributes) (uint32, bool) { return uint32(a.Prepend), a.Prepend > 0 },
			service: func(o *loadbalancer.BGPOverrides) (uint32, bool) { return uint32(o.Prepend), o.HasPrepend },
			allowed: func(a *loadbalancer.BGPAdvertisement) bool { return a.ServicePrepend },
			set:     func(a *loadbalancer.BGPAttributes, v uint32) { a.Prepend = uint8(min(v, maxPrepend)) },
		},
	}
}

// attributes joins what all voices say of a prefix. Communities are united. Of the rest a
// Service's own word counts more than an advertisement's, then the first by name; who says
// nothing contradicts nobody. Routes for several addresses are no Service's own: there
// advertisements alone speak.
func (m *bgpMemory) attributes(s *spot) (out loadbalancer.BGPAttributes, notes []note) {
	voices := s.tellings[0].voices
	if s.prefix.IsSingleIP() {
		out.LinkBandwidth = s.tellings[0].bandwidth
	} else {
		voices, notes = aggregateVoices(s)
	}
	for _, f := range fields() {
		notes = append(notes, f.choose(&out, s.prefix, voices)...)
	}
	if len(voices) == 1 && (voices[0].wish == nil || !voices[0].ad.ServiceCommunities) {
		out.Communities = voices[0].ad.Attributes.Communities
		return out, notes
	}
	for _, v := range voices {
		out.Communities = append(out.Communities, v.ad.Attributes.Communities...)
		if v.wish == nil || !v.ad.ServiceCommunities {
			continue
		}
		for _, word := range v.wish.says.Communities {
			c, err := loadbalancer.ParseCommunity(word, m.config.Aliases)
			if err != nil {
				notes = append(notes, note{
					ad: v.ad.Name, field: "communities", why: reason.UnknownCommunity, prefix: s.prefix, by: v.wish.service, word: word,
				})
				continue
			}
			out.Communities = append(out.Communities, c)
		}
	}
	if out.Communities != nil {
		out.Communities = loadbalancer.SortCommunities(out.Communities...)
	}
	return out, notes
}

// aggregateVoices are the advertisements alone that speak for a prefix of several addresses,
// ascending, and notes of what Services may say and do, but do not get.
func aggregateVoices(s *spot) (out []voice, notes []note) {
	for _, t := range s.tellings {
		for _, v := range t.voices {
			if !slices.ContainsFunc(out, func(o voice) bool { return o.ad == v.ad }) {
				out = append(out, voice{ad: v.ad})
			}
			if heard(v) {
				notes = append(notes, note{
					ad: v.ad.Name, field: "serviceOverrides", why: reason.ConflictingAdvertisements, prefix: s.prefix, by: v.wish.service,
				})
			}
		}
	}
	slices.SortFunc(out, func(a, b voice) int { return cmp.Compare(a.ad.Name, b.ad.Name) })
	return out, notes
}

// heard says whether a Service says anything that its advertisement leaves to it.
func heard(v voice) bool {
	if v.ad.ServiceCommunities && len(v.wish.says.Communities) > 0 {
		return true
	}
	for _, f := range fields() {
		if _, says := f.service(&v.wish.says); says && f.allowed(v.ad) {
			return true
		}
	}
	return false
}

// said is a value with who says it.
type said struct {
	value uint32
	voice
}

// choose sets one attribute and notes who is not heard.
func (f field) choose(out *loadbalancer.BGPAttributes, prefix netip.Prefix, voices []voice) (notes []note) {
	var byService, byAd []said
	for _, v := range voices {
		if value, ok := f.ad(&v.ad.Attributes); ok {
			byAd = append(byAd, said{value, v})
		}
		if v.wish == nil || !f.allowed(v.ad) {
			continue
		}
		if value, ok := f.service(&v.wish.says); ok {
			byService = append(byService, said{value, v})
		}
	}
	all := byAd
	if len(byService) > 0 {
		all = byService
		slices.SortStableFunc(all, func(a, b said) int { return compareServices(a.wish.service, b.wish.service) })
	}
	if len(all) == 0 {
		return nil
	}
	f.set(out, all[0].value)
	for _, o := range all[1:] {
		if o.value == all[0].value {
			continue
		}
		n := note{
			ad: o.ad.Name, field: f.name, why: reason.ConflictingAdvertisements, prefix: prefix,
			instead: all[0].ad.Name, counts: all[0].value, value: o.value,
		}
		if len(byService) > 0 {
			n.by, n.instead = o.wish.service, all[0].wish.service.String()
		}
		notes = append(notes, n)
	}
	return notes
}

// note is something of one prefix that cannot be as it is configured. Values are comparable.
type note struct {
	// ad whose word, or that of its Service, does not count.
	ad, field string
	why       reason.Reason
	prefix    netip.Prefix
	// by is the Service that said it, zero for the advertisement itself.
	by loadbalancer.ServiceKey
	// instead of value the one counts that another advertisement or Service says.
	instead       string
	counts, value uint32
	// word that is not understood.
	word string
}

func (n *note) String() string {
	switch {
	case n.why == reason.UnknownCommunity:
		return fmt.Sprintf("Service %s names the community %q, which is neither a number nor a known name", n.by, n.word)
	case n.instead == "":
		return fmt.Sprintf("Service %s says attributes of its own, which a route for several addresses cannot have: %s is told without them", n.by, n.prefix)
	case n.by != loadbalancer.ServiceKey{}:
		return fmt.Sprintf("of %s the Services say different things: %s %d of %s counts, not %d of %s", n.prefix, n.field, n.counts, n.instead, n.value, n.by)
	default:
		return fmt.Sprintf("of %s two advertisements say different things: %s %d of %s counts, not %d", n.prefix, n.field, n.counts, n.instead, n.value)
	}
}

// bgpFaults puts notes together: one fault for each thing of an advertisement, however many
// prefixes have it.
type bgpFaults map[faultKey]*fault

type faultKey struct {
	ad, field string
	why       reason.Reason
}

type fault struct {
	// first by prefix.
	first note
	// of all prefixes.
	of map[netip.Prefix]struct{}
}

func (f bgpFaults) add(notes []note) {
	for _, n := range notes {
		k := faultKey{n.ad, n.field, n.why}
		known := f[k]
		if known == nil {
			known = &fault{first: n, of: make(map[netip.Prefix]struct{})}
			f[k] = known
		}
		known.of[n.prefix] = struct{}{}
		if compareNotes(n, known.first) < 0 {
			known.first = n
		}
	}
}

func compareNotes(a, b note) int {
	return cmp.Or(
		a.prefix.Compare(b.prefix), compareServices(a.by, b.by), cmp.Compare(a.instead, b.instead),
		cmp.Compare(a.counts, b.counts), cmp.Compare(a.value, b.value), cmp.Compare(a.word, b.word),
	)
}

// list returns the faults, ascending by advertisement, reason and message.
func (f bgpFaults) list() []loadbalancer.BGPFault {
	var out []loadbalancer.BGPFault
	for k, one := range f {
		message := one.first.String()
		if n := len(one.of) - 1; n > 0 {
			message += fmt.Sprintf("; so with %d more", n)
		}
		out = append(out, loadbalancer.BGPFault{Advertisement: k.ad, Reason: k.why.String(), Message: message})
	}
	slices.SortFunc(out, func(a, b loadbalancer.BGPFault) int {
		return cmp.Or(cmp.Compare(a.Advertisement, b.Advertisement), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	return out
}
