// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// syncBGPAdvertisement corrects a BGPAdvertisement's Ready condition.
func (c *Controller) syncBGPAdvertisement(ctx context.Context, name string) error {
	in := &c.opts.Informers.BGP
	ad := client.Get[v1alpha1.BGPAdvertisement](in.Advertisements, name)
	if ad == nil || ad.DeletionTimestamp != nil {
		return nil
	}
	aliases, faults := convert.Aliases(list[v1alpha1.Community](in.Communities))
	a := assessBGPAdvertisement(ad, surroundings{
		aliases: aliases, faults: faults,
		pool: func(name string) bool { return client.Get[v1alpha1.IPAddressPool](c.opts.Informers.Pools, name) != nil },
		peer: func(name string) bool { return client.Get[v1alpha1.BGPPeer](in.Peers, name) != nil },
	})
	if a.ok {
		a = c.contradiction(name)
	}
	ready, changed := readyCondition(ad.Status.Conditions, a, ad.Generation)
	if !changed {
		return nil
	}
	doc := document("BGPAdvertisement", ad, "status", map[string]any{"conditions": []metav1.Condition{ready}})
	if err := apply(ctx, c.opts.BGPAdvertisements, doc, "status"); err != nil {
		return fmt.Errorf("apply status of BGPAdvertisement %s: %w", name, err)
	}
	return nil
}

// surroundings are what a BGPAdvertisement's validity depends on beside itself.
type surroundings struct {
	aliases    map[string]loadbalancer.Community
	faults     []loadbalancer.BGPFault
	pool, peer func(name string) bool
}

// AssessBGP says why a BGPAdvertisement is not in use as written, and in words; Valid when it
// is. What contradicts other advertisements is not looked at.
func AssessBGP(ad *v1alpha1.BGPAdvertisement, communities []*v1alpha1.Community, poolExists, peerExists func(string) bool) (why reason.Reason, message string) {
	aliases, faults := convert.Aliases(communities)
	a := assessBGPAdvertisement(ad, surroundings{aliases: aliases, faults: faults, pool: poolExists, peer: peerExists})
	return a.reason, a.message
}

// assessBGPAdvertisement says whether a BGPAdvertisement is in use as written.
func assessBGPAdvertisement(ad *v1alpha1.BGPAdvertisement, w surroundings) answer {
	if _, faults := convert.BGPAdvertisement(ad, w.aliases, nil); len(faults) > 0 {
		said := make([]string, 0, len(faults))
		for _, f := range faults {
			said = append(said, strings.ReplaceAll(f.Message, "\n", "; "))
		}
		for _, f := range w.faults { // an alias that is not understood may be the one
			if reason.Reason(faults[0].Reason) == reason.UnknownCommunity {
				said = append(said, f.Message)
			}
		}
		return answer{false, reason.Reason(faults[0].Reason), "not used: " + strings.Join(said, "; ")}
	}
	if unknown := missing(ad.Spec.IPAddressPools, w.pool); unknown != "" {
		return answer{false, reason.UnknownPool, fmt.Sprintf("no IPAddressPool is named %s; whatever else it selects is announced", unknown)}
	}
	if unknown := missing(ad.Spec.Peers, w.peer); unknown != "" {
		return answer{false, reason.UnknownPeer, fmt.Sprintf("no BGPPeer is named %s; the other peers are told, if it names any", unknown)}
	}
	return answer{true, reason.Valid, "in use"}
}

// missing joins the names that do not exist, ascending.
func missing(names []string, exists func(string) bool) string {
	unknown := slices.DeleteFunc(slices.Clone(names), exists)
	slices.Sort(unknown)
	return strings.Join(unknown, ", ")
}

// markContradictions re-examines the advertisements if a record comes or goes that is told
// by more than one, which may contradict each other.
func (c *Controller) markContradictions(before, after *v1alpha1.LoadBalancer) {
	for _, r := range []*v1alpha1.LoadBalancer{before, after} {
		if r != nil && len(bgpNames(r)) > 1 {
			c.markBGPAdvertisements()
			return
		}
	}
}

func bgpNames(r *v1alpha1.LoadBalancer) []string {
	var out []string
	for _, ad := range r.Spec.Advertisements {
		if ad.Kind == v1alpha1.KindBGPAdvertisement {
			out = append(out, ad.Name)
		}
	}
	return out
}

// contradiction says whether a valid advertisement says of some route what another one
// contradicts whose name comes first; else that it is in use. The rule is the agents'; they
// find those too that only some node's labels or the length of prefixes bring about.
func (c *Controller) contradiction(name string) answer {
	w := c.worlds.get()
	in := answer{true, reason.Valid, "in use"}
	at := slices.IndexFunc(w.bgp, func(ad *bgpAdvertisement) bool { return ad.name == name })
	if at < 0 {
		return in
	}
	mine := w.bgp[at]
	for _, first := range w.bgp[:at] {
		what := mine.contradicts(first)
		if what == "" || !mine.meets(first) {
			continue
		}
		if service := c.toldByBoth(w, mine, first); service != "" {
			return answer{false, reason.ConflictingAdvertisements, fmt.Sprintf(
				"%s, of the same routes, for one to %s; BGPAdvertisement %s counts, because its name comes first: "+
					"let both say the same, or select different Services, peers or nodes", what, service, first.name)}
		}
	}
	return in
}

// contradicts tells the first thing that two advertisements say differently of one route,
// "" when there is none. Who says nothing contradicts nobody, and communities are united.
func (a *bgpAdvertisement) contradicts(o *bgpAdvertisement) string {
	x, y := &a.says.Attributes, &o.says.Attributes
	differ := func(field string, a, b uint32) string {
		return "says " + field + " " + strconv.FormatUint(uint64(a), 10) + " where BGPAdvertisement " + o.name + " says " + strconv.FormatUint(uint64(b), 10)
	}
	switch {
	case x.HasLocalPref && y.HasLocalPref && x.LocalPref != y.LocalPref:
		return differ("localPref", x.LocalPref, y.LocalPref)
	case x.HasMED && y.HasMED && x.MED != y.MED:
		return differ("med", x.MED, y.MED)
	case x.Prepend > 0 && y.Prepend > 0 && x.Prepend != y.Prepend:
		return differ("asPathPrepend", uint32(x.Prepend), uint32(y.Prepend))
	default:
		return ""
	}
}

// meets reports whether some node is to tell some peer what both say.
func (a *bgpAdvertisement) meets(o *bgpAdvertisement) bool {
	peers := len(a.peers) == 0 || len(o.peers) == 0 || slices.ContainsFunc(a.peers, func(p string) bool { return slices.Contains(o.peers, p) })
	for i := range a.nodes {
		if peers && a.nodes[i] && o.nodes[i] {
			return true
		}
	}
	return false
}

// toldByBoth returns the first Service that has an address of which both tell by prefixes
// of one length, "" when there is none.
func (c *Controller) toldByBoth(w *world, a, b *bgpAdvertisement) string {
	var out string
	for _, r := range list[v1alpha1.LoadBalancer](c.opts.Informers.Records) {
		name := loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}.String()
		names := bgpNames(r)
		if !slices.Contains(names, a.name) || !slices.Contains(names, b.name) || out != "" && out < name {
			continue
		}
		local := r.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal
		wanted := wishOf(w, r.Spec.Addresses, c.serviceOf(r))
		if slices.ContainsFunc(wanted.addrs, func(addr netip.Addr) bool {
			ads := wanted.bgpFor(addr)
			return slices.Contains(ads, a) && slices.Contains(ads, b) && sameRoute(addr, local, a, b)
		}) {
			out = name
		}
	}
	return out
}

// sameRoute reports whether two advertisements tell an address by one route. Under the policy
// Local that is one to the address alone, which advertisements of such routes speak for, and
// others only where there is none.
func sameRoute(addr netip.Addr, local bool, a, b *bgpAdvertisement) bool {
	x, y := a.says.Bits4, b.says.Bits4
	if addr.Is6() {
		x, y = a.says.Bits6, b.says.Bits6
	}
	if local {
		return (x == addr.BitLen()) == (y == addr.BitLen())
	}
	return x == y
}
