// SPDX-License-Identifier: Apache-2.0

package metallb_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/metallb"
)

// outputOf returns the leaves of the object that an input object became, nil for none.
func outputOf(t *rapid.T, o manifest.Object, result metallb.Result) []leaf {
	var found any
	name := o.Name()
	if name == "Bad Name" {
		name = "bad-name" // which a remark says
	}
	kind := strings.Replace(o.Kind(), "AddressPool", "IPAddressPool", 1)
	for _, object := range outputs(&result) {
		if object.name == name && (object.kind == kind || object.kind == o.Kind()) {
			found = object.object
		}
	}
	if found == nil {
		return nil
	}
	fields, err := manifest.Encode(found)
	if err != nil {
		t.Fatal(err)
	}
	out := flatten("", fields)
	if strings.HasSuffix(o.Kind(), "AddressPool") {
		// What the pool says of its routes is in advertisements of its name.
		for i := range result.BGPAdvertisements {
			a := &result.BGPAdvertisements[i]
			if a.Name != name && !strings.HasPrefix(a.Name, name+"-") {
				continue
			}
			fields, err := manifest.Encode(a.Spec)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, flatten("spec.bgpAdvertisements[0]", fields)...)
			out = append(out, leaf{"spec.protocol", "bgp"})
		}
	}
	return out
}

// output is one object of the output.
type output struct {
	kind, name string
	object     any
}

func outputs(r *metallb.Result) []output {
	var out []output
	for i := range r.Pools {
		out = append(out, output{"IPAddressPool", r.Pools[i].Name, &r.Pools[i]})
	}
	for i := range r.Advertisements {
		out = append(out, output{"L2Advertisement", r.Advertisements[i].Name, &r.Advertisements[i]})
	}
	for i := range r.Profiles {
		out = append(out, output{"BFDProfile", r.Profiles[i].Name, &r.Profiles[i]})
	}
	for i := range r.Communities {
		out = append(out, output{"Community", r.Communities[i].Name, &r.Communities[i]})
	}
	for i := range r.Peers {
		out = append(out, output{"BGPPeer", r.Peers[i].Name, &r.Peers[i]})
	}
	for i := range r.BGPAdvertisements {
		out = append(out, output{"BGPAdvertisement", r.BGPAdvertisements[i].Name, &r.BGPAdvertisements[i]})
	}
	return out
}

// legacyField is where the output has a field of the ConfigMap.
func legacyField(path string) string {
	word := regexp.MustCompile(`[a-z][a-z0-9-]*`)
	special := map[string]string{
		"auto-assign": "autoAssign", "avoid-buggy-ips": "avoidBuggyIPs", "my-asn": "myASN", "peer-asn": "peerASN", "router-id": "routerID",
		"ebgp-multihop": "ebgpMultiHop", "localpref": "localPref", "minimum-ttl": "minimumTtl", "bgp-communities": "communities",
	}
	return word.ReplaceAllStringFunc(path, func(w string) string {
		if to, ok := special[w]; ok {
			return to
		}
		parts := strings.Split(w, "-")
		for i, p := range parts[1:] {
			parts[i+1] = strings.ToUpper(p[:min(len(p), 1)]) + p[min(len(p), 1):]
		}
		return strings.Join(parts, "")
	})
}

// The same for the ConfigMap of MetalLB before 0.13.
func TestNothingOfTheConfigMapIsLostSilently(t *testing.T) {
	t.Parallel()
	pool := rapid.Custom(func(t *rapid.T) any {
		return fill(t, map[string]*rapid.Generator[any]{
			"name": oneOf("a", "b", "c", "Bad Name"), "protocol": oneOf("bgp", "layer2"), "addresses": addresses(),
			"auto-assign": oneOf(true, false), "avoid-buggy-ips": oneOf(true, false),
			"bgp-advertisements": listOf(rapid.Custom(func(t *rapid.T) any { return fill(t, routes(legacy)) })),
		})
	})
	rapid.Check(t, func(t *rapid.T) {
		config := fill(t, map[string]*rapid.Generator[any]{
			"peers":           listOf(rapid.Custom(func(t *rapid.T) any { return fill(t, peers(legacy)) })),
			"bgp-communities": oneOf(map[string]any{"a": "1:2"}, map[string]any{"no-export": "65535:65281", "b": "pizza", "1:2": "1:3", "c": int64(4)}),
			"bfd-profiles":    listOf(rapid.Custom(func(t *rapid.T) any { return fill(t, profiles(legacy)) })),
			"address-pools":   listOf(pool),
		})
		if len(config) == 0 {
			config["peers"] = []any{map[string]any{"my-asn": int64(1)}} // so that it is recognised
		}
		result := metallb.Convert([]manifest.Object{{Source: "s", Fields: config}}, options())
		for _, l := range flatten("", config) {
			if named(result, "s", l.path) || l.value == "empty" {
				continue
			}
			if !carriedOld(t, config, l, &result) {
				t.Errorf("%s %v is neither in the output nor named\nremarks: %+v", l.path, l.value, result.Remarks)
			}
		}
	})
}

// carriedOld reports whether some object of the kind that a part of the ConfigMap becomes
// has one leaf of it; a part of which something is missing is named as a whole.
func carriedOld(t *rapid.T, config map[string]any, l leaf, result *metallb.Result) bool {
	kind := map[string]string{"peers": "BGPPeer", "bfd-profiles": "BFDProfile", "address-pools": "IPAddressPool"}
	var section, field string
	var i int
	if rest, ok := strings.CutPrefix(l.path, "bgp-communities"); ok {
		communities, _ := config["bgp-communities"].(map[string]any)
		for name, value := range communities {
			if rest == "."+name || rest == fmt.Sprintf("[%q]", name) {
				return hasLeaf(t, result, "Community", leaf{"spec.communities[0].name", name}) && hasLeaf(t, result, "Community", leaf{"spec.communities[0].value", value})
			}
		}
		return false
	}
	parts := regexp.MustCompile(`^([a-z-]+)\[(\d+)\]\.?(.*)$`).FindStringSubmatch(l.path)
	if parts == nil {
		t.Fatalf("%s is not named", l.path)
	}
	section, field = parts[1], parts[3]
	_, _ = fmt.Sscan(parts[2], &i)
	switch {
	case field == "name":
		return hasLeaf(t, result, kind[section], leaf{"metadata.name", l.value})
	case field == "protocol" && l.value == "layer2":
		return len(result.Advertisements) > 0
	case field == "protocol":
		return len(result.BGPAdvertisements) > 0
	case strings.HasPrefix(field, "bgp-advertisements"):
		_, field, _ = strings.Cut(field, "].")
		return hasLeaf(t, result, "BGPAdvertisement", leaf{"spec." + legacyField(field), l.value})
	case strings.HasPrefix(field, "node-selectors"):
		return len(result.Peers) > 0 // their own test compares them
	}
	return hasLeaf(t, result, kind[section], leaf{"spec." + legacyField(field), l.value})
}

func hasLeaf(t *rapid.T, result *metallb.Result, kind string, l leaf) bool {
	for _, o := range outputs(result) {
		if o.kind != kind {
			continue
		}
		fields, err := manifest.Encode(o.object)
		if err != nil {
			t.Fatal(err)
		}
		if carried(flatten("", fields), l) {
			return true
		}
	}
	return false
}
