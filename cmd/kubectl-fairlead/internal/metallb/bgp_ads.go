// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"cmp"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

const (
	hostBits4 = 32
	hostBits6 = 128
	// minAlias is the CRD's minLength of a community's value, maxAliases its maxItems.
	minAlias   = 3
	maxAliases = 256
	// oldCommunities is the name of the object that holds the ConfigMap's bgp-communities.
	oldCommunities = "bgp-communities"
)

// wordRead is one community of an advertisement.
type wordRead struct {
	word, field string
	r           *remarks
}

// oldAdvertisement is one of bgpAdvertisements of a pool of the old kinds.
type oldAdvertisement struct {
	spec   v1alpha1.BGPAdvertisementSpec
	words  []wordRead
	fields []string
}

// bgpPool is a pool of the old kinds that its own field says to announce by BGP.
type bgpPool struct {
	oldPool
	ads []oldAdvertisement
}

func (c *converter) bgpAdvertisement(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	a := v1alpha1.BGPAdvertisement{TypeMeta: typeMeta(v1alpha1.KindBGPAdvertisement), ObjectMeta: metadata(top)}
	whole := o.Fields["spec"] == nil
	var words []wordRead
	if spec := top.sub("spec"); spec != nil {
		whole = r.unharmed(func() {
			words = readRoutes(&a.Spec, reader{spec, nil})
			a.Spec.IPAddressPools = spec.texts("ipAddressPools")
			a.Spec.IPAddressPoolSelectors = spec.selectors("ipAddressPoolSelectors")
			a.Spec.NodeSelectors = spec.selectors("nodeSelectors")
			a.Spec.ServiceSelectors = spec.selectors("serviceSelectors")
			a.Spec.Peers = spec.texts("peers")
		})
		spec.finish()
	}
	top.finish()
	refuse := func(why, remedy string) { r.lostObject(userFields(o), why, remedy) }
	switch {
	case !whole:
		// Without one of its selectors it would tell from, or for, what was left out.
		refuse("a part of it cannot be understood", "correct that part")
	case a.Name == "":
		refuse("has no usable name", "give it one")
	case len(a.Spec.ServiceSelectors) > 0 && aggregates(&a.Spec):
		refuse("serviceSelectors do not go with an aggregation length: the API server would refuse it", "remove one of the two")
	case c.hasBGPAdvertisement(a.Name):
		refuse(fmt.Sprintf("a BGPAdvertisement named %q is in the input already", a.Name), "remove one of the two or rename it")
	default:
		c.words = append(c.words, words...)
		c.result.BGPAdvertisements = append(c.result.BGPAdvertisements, a)
	}
}

func (c *converter) hasBGPAdvertisement(name string) bool {
	return slices.ContainsFunc(c.result.BGPAdvertisements, func(a v1alpha1.BGPAdvertisement) bool { return a.Name == name })
}

func aggregates(s *v1alpha1.BGPAdvertisementSpec) bool {
	return s.AggregationLength != nil && *s.AggregationLength != hostBits4 || s.AggregationLengthV6 != nil && *s.AggregationLengthV6 != hostBits6
}

// readRoutes reads what an advertisement of either source says of its routes.
func readRoutes(spec *v1alpha1.BGPAdvertisementSpec, f reader) []wordRead {
	spec.AggregationLength = f.bounded32("aggregationLength", 1, hostBits4)
	spec.AggregationLengthV6 = f.bounded32("aggregationLengthV6", 1, hostBits6)
	spec.LocalPref = f.whole("localPref", 0, max32)
	spec.Communities = f.texts("communities")
	words := make([]wordRead, 0, len(spec.Communities))
	for _, word := range spec.Communities {
		words = append(words, wordRead{word, f.element("communities", word), f.r})
	}
	return words
}

// element is where a text of a list stands.
func (r reader) element(field, text string) string {
	word, _ := r.words.of(field)
	list, _ := r.m[word].([]any)
	return join(r.at, index(word, slices.Index(list, any(text))))
}

// oldAdvertisements reads the advertisements within a pool of the old kinds; none means one
// that says nothing. One of which a part cannot be understood is left out.
func oldAdvertisements(f *fields, key string, w words) []oldAdvertisement {
	if list, ok := f.m[key].([]any); f.m[key] == nil || ok && len(list) == 0 {
		f.ignore(key)
		return []oldAdvertisement{{}}
	}
	var out []oldAdvertisement
	for _, sub := range f.subs(key) {
		a := oldAdvertisement{fields: leaves(sub.at, sub.m)}
		if f.r.unharmed(func() { a.words = readRoutes(&a.spec, reader{sub, w}) }) {
			out = append(out, a)
		} else {
			f.r.lost(a.fields, "a part of the advertisement cannot be understood", "correct that part")
		}
		sub.finish()
	}
	return out
}

// advertiseBGP makes the advertisements of the old kinds' BGP pools. The first of a pool
// has the pool's name, as long as no other has it.
func (c *converter) advertiseBGP() {
	slices.SortStableFunc(c.bgp, func(a, b bgpPool) int { return cmp.Compare(a.name, b.name) })
	for _, p := range c.bgp {
		for _, ad := range p.ads {
			a := v1alpha1.BGPAdvertisement{
				TypeMeta: typeMeta(v1alpha1.KindBGPAdvertisement), ObjectMeta: metav1.ObjectMeta{Name: free(p.name, c.hasBGPAdvertisement)}, Spec: ad.spec,
			}
			a.Spec.IPAddressPools = []string{p.name}
			c.words = append(c.words, ad.words...)
			c.result.BGPAdvertisements = append(c.result.BGPAdvertisements, a)
		}
	}
}

// free returns a name that is not taken, the given one if it can.
func free(name string, taken func(string) bool) string {
	out := name
	for n := 2; taken(out); n++ {
		out = fmt.Sprintf("%s-%d", name, n)
	}
	return out
}

func (c *converter) profile(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	p := v1alpha1.BFDProfile{TypeMeta: typeMeta("BFDProfile"), ObjectMeta: metadata(top)}
	spec := top.sub("spec")
	if spec == nil {
		spec = newFields("spec", nil, r)
	}
	top.finish()
	c.readProfile(p, reader{spec, nil}, func(why, remedy string) { r.lostObject(userFields(o), why, remedy) })
}

// readProfile reads a profile of either source.
func (c *converter) readProfile(p v1alpha1.BFDProfile, f reader, refuse func(why, remedy string)) {
	const minInterval, maxInterval = 10, 60000
	whole := f.r.unharmed(func() {
		p.Spec.ReceiveInterval = f.bounded32("receiveInterval", minInterval, maxInterval)
		p.Spec.TransmitInterval = f.bounded32("transmitInterval", minInterval, maxInterval)
		p.Spec.DetectMultiplier = f.bounded32("detectMultiplier", 2, 255)
		p.Spec.EchoInterval = f.bounded32("echoInterval", minInterval, maxInterval)
		p.Spec.EchoMode, p.Spec.PassiveMode = f.flag("echoMode"), f.flag("passiveMode")
		p.Spec.MinimumTTL = f.bounded32("minimumTtl", 1, 254)
	})
	f.finish()
	switch {
	case !whole:
		refuse("a part of it cannot be understood", "correct that part")
	case p.Name == "":
		refuse("has no usable name", "give it one")
	case c.hasProfile(p.Name):
		refuse(fmt.Sprintf("a BFDProfile named %q is in the input already", p.Name), "remove one of the two or rename it")
	default:
		if isTrue(p.Spec.EchoMode) {
			f.r.lost([]string{f.path("echoMode")}, "echo packets are not served: peers are watched without them, at the profile's other intervals",
				"see whether receiveInterval, transmitInterval and detectMultiplier notice a death soon enough")
		}
		c.result.Profiles = append(c.result.Profiles, p)
	}
}

func (c *converter) hasProfile(name string) bool {
	return slices.ContainsFunc(c.result.Profiles, func(p v1alpha1.BFDProfile) bool { return p.Name == name })
}

func (c *converter) community(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	out := v1alpha1.Community{TypeMeta: typeMeta("Community"), ObjectMeta: metadata(top)}
	if spec := top.sub("spec"); spec != nil {
		for _, f := range spec.subs("communities") {
			var alias v1alpha1.CommunityAlias
			if r.unharmed(func() { alias.Name, alias.Value = f.text("name"), f.text("value") }) {
				out.Spec.Communities = addAlias(out.Spec.Communities, alias, leaves(f.at, f.m), r)
			} else {
				r.lost(leaves(f.at, f.m), "is no name with a value", "correct it in the input")
			}
			f.finish()
		}
		spec.finish()
	}
	top.finish()
	refuse := func(why, remedy string) { r.lostObject(userFields(o), why, remedy) }
	switch {
	case out.Name == "":
		refuse("has no usable name", "give it one")
	case c.hasCommunity(out.Name):
		refuse(fmt.Sprintf("a Community named %q is in the input already", out.Name), "remove one of the two or rename it")
	default:
		c.result.Communities = append(c.result.Communities, out)
	}
}

func (c *converter) hasCommunity(name string) bool {
	return slices.ContainsFunc(c.result.Communities, func(x v1alpha1.Community) bool { return x.Name == name })
}

// addAlias adds a name that the API server and the agents take, and names any other.
func addAlias(in []v1alpha1.CommunityAlias, alias v1alpha1.CommunityAlias, fields []string, r *remarks) []v1alpha1.CommunityAlias {
	_, err := loadbalancer.ParseCommunity(alias.Value, nil)
	same := slices.IndexFunc(in, func(other v1alpha1.CommunityAlias) bool { return other.Name == alias.Name })
	why := ""
	switch {
	case alias.Name == "":
		why = "has no name"
	case err != nil:
		why = err.Error()
	case len(alias.Value) < minAlias:
		why = fmt.Sprintf("%q is too short for a community", alias.Value)
	case len(in) == maxAliases:
		why = fmt.Sprintf("is one more than the %d that an object may have", maxAliases)
	case same >= 0:
		why = fmt.Sprintf("%q is there already, with the value %s", alias.Name, in[same].Value)
	default:
		return append(in, alias)
	}
	r.lost(fields, why, "correct it in the input")
	return in
}

// legacyCommunities reads the ConfigMap's names.
func (c *converter) legacyCommunities(f *fields) {
	if f == nil {
		return
	}
	for _, name := range sortedKeys(f.m) {
		if f.m[name] == nil {
			f.ignore(name)
			continue
		}
		at := []string{join(f.at, name)}
		if f.r.unharmed(func() { _ = f.text(name) }) {
			value, _ := f.m[name].(string)
			c.aliases = addAlias(c.aliases, v1alpha1.CommunityAlias{Name: name, Value: value}, at, f.r)
		}
	}
	f.finish()
}
