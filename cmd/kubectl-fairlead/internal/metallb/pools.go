// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// maxAddresses is how many prefixes and ranges a pool may have (the CRD's maxItems).
const maxAddresses = 64

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion().String(), Kind: kind}
}

func (c *converter) pool(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	p := v1alpha1.IPAddressPool{TypeMeta: typeMeta("IPAddressPool"), ObjectMeta: metadata(top)}
	whole := true
	if spec := top.sub("spec"); spec != nil {
		p.Spec.Addresses = addresses(spec)
		p.Spec.AutoAssign = spec.flag("autoAssign")
		p.Spec.AvoidBuggyIPs = isTrue(spec.flag("avoidBuggyIPs"))
		whole = r.unharmed(func() { p.Spec.ServiceAllocation = allocation(spec.sub("serviceAllocation")) })
		spec.finish()
	}
	top.finish()
	if !whole {
		// It would serve Services that it must not.
		no := false
		p.Spec.AutoAssign = &no
		r.lost([]string{"spec.autoAssign"}, "a part of serviceAllocation is missing, so the pool is written with autoAssign: false", "complete the output, then take autoAssign: false out")
	}
	c.addPool(p, func(why, remedy string) { r.lostObject(userFields(o), why, remedy) })
}

func isTrue(b *bool) bool { return b != nil && *b }

// addresses reads prefixes and ranges; what cannot be understood is named.
func addresses(f *fields) []string {
	var out []string
	for i, v := range f.list("addresses") {
		text, ok := v.(string)
		if !ok {
			f.misfit(index("addresses", i), v, "a text")
			continue
		}
		if _, err := pool.ParseInterval(text); err != nil {
			f.r.lost([]string{join(f.at, index("addresses", i))}, err.Error(), "correct it in the input")
			continue
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// allocation reads serviceAllocation.
func allocation(f *fields) *v1alpha1.ServiceAllocation {
	if f == nil {
		return nil
	}
	a := &v1alpha1.ServiceAllocation{
		Priority: f.number("priority"), Namespaces: f.texts("namespaces"),
		NamespaceSelectors: f.selectors("namespaceSelectors"), ServiceSelectors: f.selectors("serviceSelectors"),
	}
	f.finish()
	return a
}

// addPool adds a pool and returns true, unless it is empty or its name is taken; refuse
// says so.
func (c *converter) addPool(p v1alpha1.IPAddressPool, refuse func(why, remedy string)) bool {
	switch {
	case p.Name == "":
		refuse("has no usable name", "give it one")
	case len(p.Spec.Addresses) == 0:
		refuse("has no address", "correct the input")
	case slices.ContainsFunc(c.result.Pools, func(other v1alpha1.IPAddressPool) bool { return other.Name == p.Name }):
		refuse(fmt.Sprintf("a pool named %q is in the input already", p.Name), "remove one of the two or rename it")
	default:
		c.result.Pools = append(c.result.Pools, p)
		return true
	}
	return false
}

// maxWeight of a preference (the CRD's maximum, and MetalLB's).
const maxWeight = 100

// preferences reads preferredNodeSelectors. One that cannot be understood in full is left
// out and reported; the advertisement goes on without it, because it restricts nothing.
func preferences(spec *fields) []v1alpha1.PreferredNodeSelector {
	var out []v1alpha1.PreferredNodeSelector
	for _, f := range spec.subs("preferredNodeSelectors") {
		var p v1alpha1.PreferredNodeSelector
		weight, _ := f.take("weight")
		preference, _ := f.take("preference")
		sel, err := selector(preference)
		n, ok := weight.(int64)
		switch {
		case err != nil || preference == nil:
			f.misfit("preference", preference, "a label selector")
			f.misfit("weight", weight, "used without its preference")
		case !ok || n < 1 || n > maxWeight:
			f.misfit("weight", weight, "a whole number from 1 to 100")
			f.misfit("preference", preference, "used without its weight")
		default:
			p.Weight, p.Preference = int32(n), sel
			out = append(out, p)
		}
		f.finish()
	}
	return out
}

func (c *converter) advertisement(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	a := v1alpha1.L2Advertisement{TypeMeta: typeMeta("L2Advertisement"), ObjectMeta: metadata(top)}
	whole := o.Fields["spec"] == nil
	if spec := top.sub("spec"); spec != nil {
		whole = r.unharmed(func() {
			a.Spec.IPAddressPools = spec.texts("ipAddressPools")
			a.Spec.Interfaces = spec.texts("interfaces")
			a.Spec.IPAddressPoolSelectors = spec.selectors("ipAddressPoolSelectors")
			a.Spec.NodeSelectors = spec.selectors("nodeSelectors")
			a.Spec.ServiceSelectors = spec.selectors("serviceSelectors")
		})
		a.Spec.PreferredNodeSelectors = preferences(spec)
		spec.finish()
	}
	top.finish()
	switch {
	case !whole:
		// Without one of its selectors it would announce from, or for, what was left out.
		r.lostObject(userFields(o), "a part of what it selects cannot be understood", "correct that part")
	case a.Name == "":
		r.lostObject(userFields(o), "has no usable name", "give it one")
	case slices.ContainsFunc(c.result.Advertisements, func(other v1alpha1.L2Advertisement) bool { return other.Name == a.Name }):
		r.lostObject(userFields(o), fmt.Sprintf("an L2Advertisement named %q is in the input already", a.Name), "remove one of the two or rename it")
	default:
		c.result.Advertisements = append(c.result.Advertisements, a)
	}
}

// addressPool reads the kind that MetalLB 0.12 to 0.14 kept for those who came from the
// ConfigMap: a pool with its protocol.
func (c *converter) addressPool(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	p := v1alpha1.IPAddressPool{TypeMeta: typeMeta("IPAddressPool"), ObjectMeta: metadata(top)}
	var protocol string
	var ads []oldAdvertisement
	if spec := top.sub("spec"); spec != nil {
		p.Spec.Addresses = addresses(spec)
		p.Spec.AutoAssign = spec.flag("autoAssign")
		p.Spec.AvoidBuggyIPs = isTrue(spec.flag("avoidBuggyIPs"))
		protocol = readProtocol(spec)
		ads = oldAdvertisements(spec, "bgpAdvertisements", nil)
		spec.finish()
	}
	top.finish()
	if c.addPool(p, func(why, remedy string) { r.lostObject(userFields(o), why, remedy) }) {
		c.announce(oldPool{p.Name, p.Labels, "spec.protocol", r}, protocol, ads)
	}
}

const (
	protocolL2  = "layer2"
	protocolBGP = "bgp"
)

// readProtocol reads how a pool of the old kinds is announced.
func readProtocol(f *fields) string {
	switch p := f.text("protocol"); p {
	case protocolL2, "l2":
		return protocolL2
	case protocolBGP:
		return protocolBGP
	default:
		f.r.lost([]string{join(f.at, "protocol")}, fmt.Sprintf("%q is neither layer2 nor bgp", p), "correct it in the input")
		return ""
	}
}

// oldPool is a pool of the old kinds, which say themselves how they are announced.
type oldPool struct {
	name   string
	labels map[string]string
	// field that says so, and where to remark on it.
	field string
	r     *remarks
}

// announce notes how a pool of the old kinds is announced.
func (c *converter) announce(p oldPool, protocol string, ads []oldAdvertisement) {
	switch protocol {
	case protocolL2:
		c.layer2 = append(c.layer2, p)
		for i := range ads {
			p.r.lost(ads[i].fields, "is of no effect on a pool that layer 2 announces", "take it out of the input")
		}
	case protocolBGP:
		if len(ads) == 0 {
			p.r.lost([]string{p.field}, "none of the pool's advertisements can be understood, so nobody announces it", "correct one of them")
			return
		}
		c.bgp = append(c.bgp, bgpPool{p, ads})
	default:
		for i := range ads {
			p.r.lost(ads[i].fields, "is of no effect: the pool does not say that BGP announces it", "correct the pool's protocol")
		}
	}
}

// advertise makes the advertisements of the old kinds' layer 2 pools, each of its pool's
// name. It comes after everything else, so that an L2Advertisement of the input has the
// name first, wherever it stands.
func (c *converter) advertise() {
	for _, p := range c.layer2 {
		i := slices.IndexFunc(c.result.Advertisements, func(a v1alpha1.L2Advertisement) bool { return a.Name == p.name })
		if i < 0 {
			c.result.Advertisements = append(c.result.Advertisements, v1alpha1.L2Advertisement{
				TypeMeta: typeMeta("L2Advertisement"), ObjectMeta: metav1.ObjectMeta{Name: p.name},
				Spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{p.name}},
			})
			continue
		}
		ad, err := convert.L2Advertisement(&c.result.Advertisements[i])
		if err != nil || !ad.SelectsPool(p.name, p.labels) {
			p.r.lost([]string{p.field}, fmt.Sprintf("an L2Advertisement named %q is in the input and does not select the pool", p.name),
				"create an L2Advertisement of another name that names the pool")
		}
	}
}

// checkPools names pools that nobody announces and pools that overlap.
func (c *converter) checkPools() {
	ads := make([]convert.Selectors, 0, len(c.result.Advertisements)+len(c.result.BGPAdvertisements))
	// Selectors were understood before.
	for i := range c.result.Advertisements {
		if ad, err := convert.L2Advertisement(&c.result.Advertisements[i]); err == nil {
			ads = append(ads, ad.Selectors)
		}
	}
	for i := range c.result.BGPAdvertisements {
		if ad, err := convert.BGPSelectors(&c.result.BGPAdvertisements[i]); err == nil {
			ads = append(ads, ad)
		}
	}
	for i := range c.result.Pools {
		p := &c.result.Pools[i]
		r := &remarks{object: "IPAddressPool " + p.Name, source: sourceOutput, all: &c.result.Remarks}
		if !slices.ContainsFunc(ads, func(a convert.Selectors) bool { return a.SelectsPool(p.Name, p.Labels) }) {
			r.note("no advertisement of the output selects it: Services get addresses that nobody announces",
				"create an L2Advertisement or a BGPAdvertisement that names the pool, unless another load balancer announces it")
		}
		if n := len(p.Spec.Addresses); n > maxAddresses {
			r.lost([]string{"spec.addresses"}, fmt.Sprintf("has %d prefixes and ranges, the API server accepts %d", n, maxAddresses), "join neighbours or split the pool before you apply the output")
		}
		for j := range i {
			if a, b, ok := overlap(&c.result.Pools[j], p); ok {
				r.add(Remark{
					Lost: true, Fields: []string{"spec.addresses"}, Why: fmt.Sprintf("%s overlaps %s of pool %q: Fairlead uses the older of two such pools only", b, a, c.result.Pools[j].Name),
					Remedy: "take the common addresses out of one of them",
				})
			}
		}
	}
}

func overlap(a, b *v1alpha1.IPAddressPool) (inA, inB string, ok bool) {
	for _, x := range a.Spec.Addresses {
		for _, y := range b.Spec.Addresses {
			ix, errX := pool.ParseInterval(x)
			iy, errY := pool.ParseInterval(y)
			if errX == nil && errY == nil && ix.Overlaps(iy) {
				return x, y, true
			}
		}
	}
	return "", "", false
}
