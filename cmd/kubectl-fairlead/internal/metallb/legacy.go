// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

func legacyKeys() []string {
	return []string{"address-pools", "peers", "bgp-communities", "bfd-profiles"}
}

// isLegacy recognises the text of the ConfigMap without the ConfigMap around it.
func isLegacy(m map[string]any) bool {
	return slices.ContainsFunc(legacyKeys(), func(k string) bool { return m[k] != nil })
}

// configMap reads the ConfigMap of MetalLB before 0.13, and knows its later ones.
func (c *converter) configMap(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	top.ignore("apiVersion", "kind", "metadata", "immutable")
	data := top.sub("data")
	others := map[string]Remark{
		"metallb-excludel2": {
			Why:    "excludes interfaces from layer 2; Fairlead's node agents have a default like MetalLB's, and announce only where the subnet holds the address",
			Remedy: "if you changed it: --exclude-interfaces of the node agent, or spec.interfaces of L2Advertisements",
		},
		"metallb-memberlist-config": {Why: "tunes MetalLB's gossip; Fairlead's own needs no tuning by it"},
		"bgpextras":                 {Why: "is raw text for FRR, which Fairlead does not run", Remedy: frrRemedy, Lost: true},
	}
	remark, known := others[o.Name()]
	switch {
	case known:
		if data != nil {
			remark.Fields, remark.Whole = leaves("data", data.m), true
		}
		r.add(remark)
		top.finish()
		return
	case data == nil || data.m[legacyName] == nil:
		r.note("has no key "+legacyName+" and is left alone", "")
		return
	case o.Namespace() != "" && o.Namespace() != c.opts.Namespace:
		r.lostObject([]string{"data." + legacyName}, fmt.Sprintf("lies outside of namespace %s, so MetalLB does not read it", c.opts.Namespace),
			"leave it, or name its namespace with --namespace if MetalLB runs there")
		return
	}
	text := data.text(legacyName)
	if m, err := manifest.Fields([]byte(text)); err != nil {
		r.lost([]string{"data." + legacyName}, err.Error(), "correct it in the input")
	} else {
		c.legacy(newFields("data."+legacyName+":", m, r), r)
	}
	data.finish()
	top.finish()
}

// legacy reads the configuration that the ConfigMap holds.
func (c *converter) legacy(f *fields, r *remarks) {
	for _, p := range f.subs("address-pools") {
		c.legacyPool(p, r)
	}
	for _, p := range f.subs("bfd-profiles") {
		profile := v1alpha1.BFDProfile{TypeMeta: typeMeta("BFDProfile"), ObjectMeta: metav1.ObjectMeta{Name: objectName(p, "the peers of the output that name it have the new name")}}
		c.readProfile(profile, reader{p, legacyWords()}, func(why, remedy string) { r.lost(leaves(p.at, p.m), why, remedy) })
	}
	c.legacyCommunities(f.sub("bgp-communities"))
	for _, p := range f.subs("peers") {
		// Its name is made when all names are known.
		c.readPeer(v1alpha1.BGPPeer{TypeMeta: typeMeta("BGPPeer")}, reader{p, legacyWords()}, func(why, remedy string) { r.lost(leaves(p.at, p.m), why, remedy) })
	}
	f.finish()
}

func (c *converter) legacyPool(f *fields, r *remarks) {
	p := v1alpha1.IPAddressPool{
		TypeMeta: typeMeta("IPAddressPool"), ObjectMeta: metav1.ObjectMeta{Name: objectName(f, poolRenamed)},
		Spec: v1alpha1.IPAddressPoolSpec{
			Addresses:     addresses(f),
			AutoAssign:    f.flag("auto-assign"),
			AvoidBuggyIPs: isTrue(f.flag("avoid-buggy-ips")),
		},
	}
	protocol := readProtocol(f)
	ads := oldAdvertisements(f, "bgp-advertisements", legacyWords())
	f.finish()
	added := c.addPool(p, func(why, remedy string) { r.lost(leaves(f.at, f.m), why, remedy) })
	if added {
		c.announce(oldPool{p.Name, p.Labels, join(f.at, "protocol"), r}, protocol, ads)
	}
}

// sortedKeys returns a map's keys in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
