// SPDX-License-Identifier: Apache-2.0

package metallb_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/metallb"
)

func options() metallb.Options {
	return metallb.Options{Namespace: "metallb-system", Claims: true, RetainFor: time.Hour, RetainUntil: metav1.NewTime(time.Unix(1e9, 0))}
}

// leaf is one scalar, or one empty map or list, of an object.
type leaf struct {
	path  string
	value any
}

// flatten is the test's own idea of leaves and paths.
func flatten(at string, v any) []leaf {
	var out []leaf
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for k, e := range v {
			p := at + "." + k
			if strings.ContainsAny(k, "./[\"") {
				p = fmt.Sprintf("%s[%q]", at, k)
			}
			out = append(out, flatten(strings.TrimPrefix(p, "."), e)...)
		}
		if len(v) == 0 {
			out = append(out, leaf{at, "empty"})
		}
	case []any:
		for i, e := range v {
			out = append(out, flatten(fmt.Sprintf("%s[%d]", at, i), e)...)
		}
		if len(v) == 0 {
			out = append(out, leaf{at, "empty"})
		}
	default:
		out = append(out, leaf{at, v})
	}
	return out
}

// anything draws a value of any shape.
func anything(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth == 0 {
			kind %= 5
		}
		switch kind {
		case 0:
			return rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "text")
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.Int64Range(-5, 1<<40).Draw(t, "int")
		case 3:
			return nil
		case 4:
			return 0.5
		case 5:
			return rapid.SliceOfN(anything(depth-1), 0, 3).Draw(t, "list")
		default:
			out := make(map[string]any)
			for range rapid.IntRange(0, 3).Draw(t, "size") {
				out[rapid.StringMatching(`[a-z][a-zA-Z./]{0,6}`).Draw(t, "key")] = anything(depth-1).Draw(t, "value")
			}
			return out
		}
	})
}

// fill draws some known fields, rightly or wrongly typed, and some unknown ones.
func fill(t *rapid.T, known map[string]*rapid.Generator[any]) map[string]any {
	out := make(map[string]any)
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch rapid.IntRange(0, 9).Draw(t, name) {
		case 0:
			out[name] = anything(2).Draw(t, "wrong "+name)
		case 1, 2, 3:
		default:
			out[name] = known[name].Draw(t, "right "+name)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "unknown fields") {
		out["x"+rapid.StringMatching(`[A-Za-z./]{1,6}`).Draw(t, "unknown")] = anything(2).Draw(t, "unknown value")
	}
	return out
}

func asAny[T any](g *rapid.Generator[T]) *rapid.Generator[any] {
	return rapid.Map(g, func(v T) any { return v })
}

func oneOf(values ...any) *rapid.Generator[any] { return rapid.SampledFrom(values) }

func listOf(g *rapid.Generator[any]) *rapid.Generator[any] { return asAny(rapid.SliceOfN(g, 0, 3)) }

func selectors() *rapid.Generator[any] {
	return listOf(oneOf(
		map[string]any{"matchLabels": map[string]any{"app.x/y": "b"}},
		map[string]any{"matchExpressions": []any{map[string]any{"key": "k", "operator": "In", "values": []any{"v"}}}},
		map[string]any{"matchExpressions": []any{map[string]any{"key": "k", "operator": "Near"}}},
		map[string]any{"matchLabel": map[string]any{"a": "b"}},
	))
}

func addresses() *rapid.Generator[any] {
	return listOf(oneOf("192.0.2.0/24", "10.0.0.1-10.0.0.9", "2001:db8::/64", "pizza", "10.0.0.9-10.0.0.1"))
}

func kinds() map[string]map[string]*rapid.Generator[any] {
	flag := oneOf(true, false)
	names := listOf(oneOf("a", "b", "c"))
	return map[string]map[string]*rapid.Generator[any]{
		"IPAddressPool": {
			"addresses": addresses(), "autoAssign": flag, "avoidBuggyIPs": flag,
			"serviceAllocation": rapid.Custom(func(t *rapid.T) any {
				return fill(t, map[string]*rapid.Generator[any]{
					"priority": oneOf(int64(0), int64(7)), "namespaces": names, "namespaceSelectors": selectors(), "serviceSelectors": selectors(),
				})
			}),
		},
		"L2Advertisement": {
			"ipAddressPools": names, "ipAddressPoolSelectors": selectors(), "nodeSelectors": selectors(),
			"serviceSelectors": selectors(), "interfaces": names,
			"preferredNodeSelectors": listOf(rapid.Custom(func(t *rapid.T) any {
				return map[string]any{
					"weight":     rapid.SampledFrom([]any{int64(3), int64(0), int64(101), "heavy"}).Draw(t, "weight"),
					"preference": rapid.SampledFrom([]any{map[string]any{"matchLabels": map[string]any{"a": "b"}}, map[string]any{"matchWishes": "b"}, "b"}).Draw(t, "preference"),
				}
			})),
		},
		"AddressPool": {
			"protocol": oneOf("bgp", "layer2", "ospf"), "addresses": addresses(), "autoAssign": flag,
			"bgpAdvertisements": listOf(rapid.Custom(func(t *rapid.T) any { return fill(t, routes(modern)) })),
		},
		"BGPPeer":          peers(modern),
		"BGPAdvertisement": bgpAdvertisements(),
		"BFDProfile":       profiles(modern),
		"Community": {"communities": listOf(rapid.Custom(func(t *rapid.T) any {
			return fill(t, map[string]*rapid.Generator[any]{"name": oneOf("a", "b", "no-export", "1:2", ""), "value": oneOf("1:2", "large:1:2:3", "pizza", "65535:65281")})
		}))},
	}
}

// Every leaf of spec, labels and annotations is in the output with its value, or named
// by a remark on its object.
func TestNothingIsLostSilently(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var objects []manifest.Object
		all := kinds()
		for i := range rapid.IntRange(1, 4).Draw(t, "objects") {
			kind := rapid.SampledFrom([]string{"IPAddressPool", "L2Advertisement", "AddressPool", "BGPPeer", "BGPAdvertisement", "BFDProfile", "Community"}).Draw(t, "kind")
			metadata := fill(t, map[string]*rapid.Generator[any]{
				"labels": asAny(rapid.Custom(func(t *rapid.T) map[string]any {
					return fill(t, map[string]*rapid.Generator[any]{"tier": oneOf("front")})
				})),
				"annotations": asAny(rapid.Custom(func(t *rapid.T) map[string]any {
					return fill(t, map[string]*rapid.Generator[any]{"meta.helm.sh/release-name": oneOf("lb")})
				})),
				"finalizers": oneOf([]any{"a/b"}),
			})
			metadata["name"] = rapid.SampledFrom([]string{"a", "b", "c.d", "Bad Name", ""}).Draw(t, "name")
			metadata["namespace"] = "metallb-system"
			objects = append(objects, manifest.Object{Source: fmt.Sprint(i), Fields: map[string]any{
				"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": metadata, "spec": fill(t, all[kind]),
			}})
		}
		result := metallb.Convert(objects, options())
		for _, o := range objects {
			checkObject(t, o, result)
		}
	})
}

func checkObject(t *rapid.T, o manifest.Object, result metallb.Result) {
	out := outputOf(t, o, result)
	for _, l := range flatten("", o.Fields) {
		ignored := l.path == "apiVersion" || l.path == "kind" || l.path == "metadata.namespace"
		protocol := l.path == "spec.protocol" && l.value == "layer2" // says that there is an L2Advertisement
		if ignored || protocol || named(result, o.Source, l.path) || carried(out, l) {
			continue
		}
		t.Errorf("%s %v of %s %q (%s) is neither in the output nor named\noutput: %v\nremarks: %+v", l.path, l.value, o.Kind(), o.Name(), o.Source, out, result.Remarks)
	}
}

func named(result metallb.Result, source, path string) bool {
	return slices.ContainsFunc(result.Remarks, func(m metallb.Remark) bool {
		return m.Source == source && (m.Whole || slices.Contains(m.Fields, path))
	})
}

// carried reports whether the output has a leaf. An element of a list may be at another
// place, because doubles are dropped; what is zero is the default and may be left out.
func carried(out []leaf, l leaf) bool {
	if out == nil {
		return false
	}
	if l.value == "empty" || reflect.ValueOf(l.value).IsZero() {
		return true
	}
	place := regexp.MustCompile(`\[\d+\]`)
	return slices.ContainsFunc(out, func(x leaf) bool {
		return place.ReplaceAllString(x.path, "[]") == place.ReplaceAllString(l.path, "[]") && x.value == l.value
	})
}

// What restricts a pool or an advertisement is carried over in full or not at all: an
// output that says less would serve, or announce from, what was meant to be left out.
func TestRestrictionsAreNotLoosened(t *testing.T) {
	t.Parallel()
	bad := map[string][]string{
		"IPAddressPool":    {"serviceAllocation: x", "serviceAllocation: {namespaces: a}", "serviceAllocation: {namespaceSelectors: [{matchLabel: {}}]}", "serviceAllocation: {future: 1}"},
		"BGPAdvertisement": {"ipAddressPools: a", "nodeSelectors: {a: b}", "peers: x", "serviceSelectors: [{matchLabels: 7}]", "aggregationLength: 33", "localPref: -1", "communities: no-export"},
		"BGPPeer":          {"nodeSelectors: {a: b}", "passwordSecret: x", "holdTime: soon", "myASN: 0", "peerASN: 4294967296", "peerAddress: pizza", "bfdProfile: [a]", "ebgpMultiHop: 7"},
		"L2Advertisement":  {"ipAddressPools: a", "nodeSelectors: {a: b}", "nodeSelectors: [[]]", "interfaces: [7]", "serviceSelectors: [{matchLabels: 7}]", "ipAddressPoolSelectors: x"},
	}
	for kind, specs := range bad {
		for _, spec := range specs {
			valid := map[string]string{"myASN": "64512", "peerASN": "64513", "peerAddress": "192.0.2.1"} // which the other kinds do not know
			delete(valid, strings.SplitN(spec, ":", 2)[0])
			text := "apiVersion: metallb.io/v1beta1\nkind: " + kind + "\nmetadata: {name: a}\nspec:\n  " + spec + "\n  addresses: [10.0.0.0/24]\n"
			for field, value := range valid {
				text += "  " + field + ": " + value + "\n"
			}
			objects, err := manifest.Read("f", strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			r := metallb.Convert(objects, options())
			if len(r.Advertisements)+len(r.BGPAdvertisements)+len(r.Peers) > 0 || len(r.Pools) > 0 && (r.Pools[0].Spec.AutoAssign == nil || *r.Pools[0].Spec.AutoAssign) || !r.Lost() {
				t.Errorf("%s with %s became %+v %+v", kind, spec, r.Pools, r.Advertisements)
			}
		}
	}
}

// A pool of the old kinds that says layer2 is announced, and only such a one: not the one
// that has its name already, nor one that is not in the output.
func TestOldPoolsAreAnnouncedAsTheySay(t *testing.T) {
	t.Parallel()
	const object = "apiVersion: metallb.io/v1beta1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n---\n"
	one := fmt.Sprintf(object, "AddressPool", "one", "{protocol: layer2, addresses: [10.0.0.0/24]}")
	tests := []struct {
		name, input string
		ads         []string // of the output: name and pools
		lost        bool
	}{
		{name: "alone", input: one, ads: []string{"one [one]"}},
		{
			name: "a second pool of a bgp pool's name", lost: true,
			input: "address-pools:\n- {name: a, protocol: bgp, addresses: [10.0.0.0/24]}\n- {name: a, protocol: layer2, addresses: [10.0.1.0/24]}\n",
		},
		{name: "no address", lost: true, input: "address-pools:\n- {name: a, protocol: layer2, addresses: []}\n"},
		{
			name: "another advertisement has the name", lost: true, ads: []string{"one [two]"},
			input: fmt.Sprintf(object, "L2Advertisement", "one", "{ipAddressPools: [two]}") + one,
		},
		{
			name: "another advertisement has the name, after it", lost: true, ads: []string{"one [two]"},
			input: one + fmt.Sprintf(object, "L2Advertisement", "one", "{ipAddressPools: [two]}"),
		},
		{name: "bgp pools get no layer 2", input: strings.ReplaceAll(one, "layer2", "bgp")},
		{name: "the advertisement of the name selects it", ads: []string{"one []"}, input: one + fmt.Sprintf(object, "L2Advertisement", "one", "{}")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			objects, err := manifest.Read("f", strings.NewReader(tt.input))
			if err != nil {
				t.Fatal(err)
			}
			r := metallb.Convert(objects, options())
			var ads []string
			for i := range r.Advertisements {
				ads = append(ads, fmt.Sprint(r.Advertisements[i].Name, " ", r.Advertisements[i].Spec.IPAddressPools))
			}
			if !slices.Equal(ads, tt.ads) || r.Lost() != tt.lost {
				t.Errorf("advertisements %v, lost %v; want %v, %v\nremarks: %+v", ads, r.Lost(), tt.ads, tt.lost, r.Remarks)
			}
		})
	}
}

// Two entries of one Service would be one too many: the API server takes each UID once.
func TestAnAddressShownTwiceIsClaimedOnce(t *testing.T) {
	t.Parallel()
	objects, err := manifest.Read("f", strings.NewReader("address-pools:\n- {name: a, protocol: layer2, addresses: [10.0.0.0/24]}\n---\n"+
		"apiVersion: v1\nkind: Service\nmetadata: {name: a, uid: u}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 10.0.0.1}, {ip: 10.0.0.1, ipMode: VIP}]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := metallb.Convert(objects, options())
	if len(r.Claims) != 1 || len(r.Claims[0].Spec.Services) != 1 {
		t.Errorf("claims %+v", r.Claims)
	}
}

// What the API server would refuse is not carried over, whatever the output says.
func TestTooManyRangesAreALoss(t *testing.T) {
	t.Parallel()
	ranges := make([]any, 65)
	for i := range ranges {
		ranges[i] = fmt.Sprintf("10.0.%d.0/24", i)
	}
	r := metallb.Convert([]manifest.Object{{Source: "s", Fields: map[string]any{
		"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": map[string]any{"name": "a"}, "spec": map[string]any{"addresses": ranges},
	}}}, options())
	if !r.Lost() {
		t.Errorf("65 ranges are no loss: %+v", r.Remarks)
	}
}

// The order of the input's documents changes nothing, as long as no two have one name.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var objects []manifest.Object
		for i := range rapid.IntRange(1, 5).Draw(t, "objects") {
			kind := rapid.SampledFrom([]string{"IPAddressPool", "L2Advertisement", "AddressPool", "BGPPeer", "BGPAdvertisement", "BFDProfile", "Community"}).Draw(t, "kind")
			objects = append(objects, manifest.Object{Source: fmt.Sprint(i), Fields: map[string]any{
				"apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": map[string]any{"name": fmt.Sprintf("n%d", i)},
				"spec": fill(t, kinds()[kind]),
			}})
		}
		shuffled := rapid.Permutation(objects).Draw(t, "order")
		a, b := metallb.Convert(objects, options()), metallb.Convert(shuffled, options())
		if !reflect.DeepEqual(withoutOverlaps(a), withoutOverlaps(b)) {
			t.Errorf("order matters:\n%+v\n%+v", a, b)
		}
	})
}

// withoutOverlaps drops remarks that name the earlier of two pools as the one that counts.
func withoutOverlaps(r metallb.Result) metallb.Result {
	r.Remarks = slices.DeleteFunc(r.Remarks, func(m metallb.Remark) bool { return m.Source == "output" })
	return r
}

func FuzzConvert(f *testing.F) {
	for _, s := range []string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: metallb-system}\ndata:\n  config: |\n    address-pools:\n    - {name: a, protocol: layer2, addresses: [10.0.0.0/8]}\n",
		"address-pools:\n- name: default\n  protocol: bgp\n  avoid-buggy-ips: true\n  addresses:\n  - 172.20.1.0/24\npeers:\n- my-asn: 64512\n",
		"apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: a}\nspec: {addresses: [10.0.0.0/24]}\n---\n[1]\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 10.0.0.1}]}}\n",
		"address-pools: {a: b}\n", "address-pools: [[]]\n", "data: {config: 7}\nkind: ConfigMap\napiVersion: v1\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := manifest.Read("f", strings.NewReader(string(data)))
		if err != nil {
			return
		}
		r := metallb.Convert(objects, options())
		for i := range r.Pools {
			if r.Pools[i].Name == "" || len(r.Pools[i].Spec.Addresses) == 0 {
				t.Errorf("a pool without name or address: %+v", r.Pools[i])
			}
		}
		for i := range r.Claims {
			if len(r.Claims[i].Spec.Services) == 0 {
				t.Errorf("a claim for nobody: %+v", r.Claims[i])
			}
		}
	})
}
