// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// noAdvertisement is what a name is that neither kind of advertisement has.
const noAdvertisement = "no valid L2Advertisement or BGPAdvertisement"

// wish is what one Service wants announced: on layer 2 each of its addresses under each of
// its advertisements, because they have one owner; by BGP each under those that select it.
type wish struct {
	addrs []netip.Addr
	ads   []*advertisement // by name
	bgp   []bgpWish        // by name
	// blind: there may be BGPAdvertisements that cannot be read.
	blind bool
	// asked are the advertisements that the Service, or the default of its pool, is
	// limited to; none means all. by says who asked.
	asked []string
	by    string
	// unknown are those of asked that do not exist or are not valid.
	unknown []string
}

// wishOf reads a Service's wish; svc is nil when it is not known.
func wishOf(w *world, addrs []v1alpha1.LoadBalancerAddress, svc *corev1.Service) wish {
	out := wish{blind: w.blind}
	var labels map[string]string
	if svc != nil {
		labels = svc.Labels
	}
	for _, a := range addrs {
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue // the CRD lets none through
		}
		out.addrs = append(out.addrs, addr)
		pool := w.pools[a.Pool]
		for _, ad := range w.ads {
			if ad.SelectsPool(a.Pool, pool.labels) && ad.SelectsService(labels) && !slices.Contains(out.ads, ad) {
				out.ads = append(out.ads, ad)
			}
		}
		for _, ad := range w.bgp {
			if ad.SelectsPool(a.Pool, pool.labels) && ad.SelectsService(labels) {
				out.addBGP(ad, addr)
			}
		}
	}
	slices.SortFunc(out.ads, func(a, b *advertisement) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.bgp, func(a, b bgpWish) int { return cmp.Compare(a.name, b.name) })
	if len(out.addrs) > 0 {
		out.limit(w, addrs[0].Pool, svc)
	}
	return out
}

// bgpWish are the addresses, ascending, that one BGPAdvertisement selects.
type bgpWish struct {
	*bgpAdvertisement

	addrs []netip.Addr
}

func (i *wish) addBGP(ad *bgpAdvertisement, addr netip.Addr) {
	at := slices.IndexFunc(i.bgp, func(w bgpWish) bool { return w.bgpAdvertisement == ad })
	if at < 0 {
		at = len(i.bgp)
		i.bgp = append(i.bgp, bgpWish{bgpAdvertisement: ad})
	}
	i.bgp[at].addrs = append(i.bgp[at].addrs, addr)
	slices.SortFunc(i.bgp[at].addrs, netip.Addr.Compare)
}

// bgpFor returns the BGPAdvertisements that select an address.
func (i wish) bgpFor(addr netip.Addr) []*bgpAdvertisement {
	var out []*bgpAdvertisement
	for _, ad := range i.bgp {
		if slices.Contains(ad.addrs, addr) {
			out = append(out, ad.bgpAdvertisement)
		}
	}
	return out
}

// limit leaves those advertisements that the Service asks for by its annotation, or else
// the pool of its first address by default. A name that both kinds have means both.
func (i *wish) limit(w *world, pool string, svc *corev1.Service) {
	if svc != nil {
		// A fault in it is allocation's to tell.
		i.asked, _ = convert.Advertisements(svc)
		i.by = "its annotation " + v1alpha1.AnnotationAdvertisements
	}
	if len(i.asked) == 0 {
		i.asked, i.by = w.pools[pool].advertisements, fmt.Sprintf("defaults.advertisements of pool %q", pool)
	}
	if len(i.asked) == 0 {
		return
	}
	i.ads = slices.DeleteFunc(i.ads, func(ad *advertisement) bool { return !slices.Contains(i.asked, ad.Name) })
	i.bgp = slices.DeleteFunc(i.bgp, func(ad bgpWish) bool { return !slices.Contains(i.asked, ad.name) })
	for _, name := range i.asked {
		if !slices.ContainsFunc(w.ads, func(ad *advertisement) bool { return ad.Name == name }) &&
			!slices.ContainsFunc(w.bgp, func(ad *bgpAdvertisement) bool { return ad.name == name }) {
			i.unknown = append(i.unknown, name)
		}
	}
}

// note tells what of the wish cannot be fulfilled though the rest is; empty: nothing.
func (i wish) note() string {
	if len(i.unknown) == 0 {
		return ""
	}
	return fmt.Sprintf("; %s names %s, which is %s", i.by, strings.Join(i.unknown, ", "), noAdvertisement)
}

// references are what a record says of it. Where BGPAdvertisements cannot be read, those
// that the record has already stay: to drop them would withdraw routes.
func (i wish) references(now []v1alpha1.AdvertisementReference) []v1alpha1.AdvertisementReference {
	refs := make([]v1alpha1.AdvertisementReference, 0, len(i.ads)+len(i.bgp))
	for _, ad := range i.ads {
		refs = append(refs, v1alpha1.AdvertisementReference{Kind: v1alpha1.KindL2Advertisement, Name: ad.Name})
	}
	for _, ad := range i.bgp {
		ref := v1alpha1.AdvertisementReference{Kind: v1alpha1.KindBGPAdvertisement, Name: ad.name}
		if len(ad.addrs) < len(i.addrs) {
			for _, addr := range ad.addrs {
				ref.Addresses = append(ref.Addresses, addr.String())
			}
		}
		refs = append(refs, ref)
	}
	for _, r := range now {
		if i.blind && r.Kind == v1alpha1.KindBGPAdvertisement {
			refs = append(refs, r)
		}
	}
	return refs
}

// target is one address that a group announces.
type target struct {
	addr netip.Addr
	// wishes are the advertisements of each Service that has the address and any.
	wishes [][]*advertisement
}

// targetsOf joins the wishes of a group's Services by address, in ascending order. A
// Service without an advertisement has nothing to say.
func targetsOf(wishes []wish) []target {
	var out []target
	for _, i := range wishes {
		if len(i.ads) == 0 {
			continue
		}
		for _, addr := range i.addrs {
			at, found := slices.BinarySearchFunc(out, addr, func(t target, a netip.Addr) int { return t.addr.Compare(a) })
			if !found {
				out = slices.Insert(out, at, target{addr: addr})
			}
			out[at].wishes = append(out[at].wishes, i.ads)
		}
	}
	return out
}

// reachable leaves out the addresses that no node could announce, whatever became of the
// others, as agents do: they do not stop those. If that is all of them, they stay.
func reachable(nodes []node, targets []target) []target {
	var out []target
	for _, t := range targets {
		if slices.ContainsFunc(nodes, func(n node) bool { return n.verdict([]target{t}) == "" }) {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return targets
	}
	return out
}

// disputed reports whether every wish has a node that could fulfil it alone: where no
// node can fulfil all, it is only together that they cannot be fulfilled.
func disputed(nodes []node, targets []target) bool {
	wishes := 0
	for _, t := range targets {
		for _, ads := range t.wishes {
			wishes++
			alone := []target{{t.addr, [][]*advertisement{ads}}}
			if !slices.ContainsFunc(nodes, func(n node) bool { return n.verdict(alone) == "" }) {
				return false
			}
		}
	}
	return wishes > 1
}

// whyNoAdvertisement explains that no advertisement announces addresses of these pools.
func (i wish) whyNoAdvertisement(pools []string) answer {
	which := poolWords(pools)
	if len(i.asked) == 0 {
		return answer{false, reason.NoAdvertisement, fmt.Sprintf(
			"no valid L2Advertisement or BGPAdvertisement selects %s and this Service: create or correct one", which)}
	}
	if len(i.unknown) == len(i.asked) {
		return answer{false, reason.NoAdvertisement, fmt.Sprintf(
			"%s allows only %s, which is %s: correct the name, or create it", i.by, strings.Join(i.asked, ", "), noAdvertisement)}
	}
	return answer{false, reason.NoAdvertisement, fmt.Sprintf(
		"%s allows only advertisement %s, which does not select %s and this Service%s", i.by, strings.Join(known(i), ", "), which, i.note())}
}

// poolWords names pools. Only an advertisement of every pool selects addresses of none.
func poolWords(pools []string) string {
	var quoted []string
	none := "every pool, as an address outside of all of them needs,"
	for _, p := range pools {
		if p != "" {
			quoted = append(quoted, fmt.Sprintf("%q", p))
		}
	}
	var words string
	switch len(quoted) {
	case 0:
		return none
	case 1:
		words = "pool " + quoted[0]
	default:
		words = "one of the pools " + strings.Join(quoted, ", ")
	}
	if len(quoted) < len(pools) {
		words += ", or " + none
	}
	return words
}

// known are the advertisements asked for that exist.
func known(i wish) []string {
	return slices.DeleteFunc(slices.Clone(i.asked), func(name string) bool { return slices.Contains(i.unknown, name) })
}
