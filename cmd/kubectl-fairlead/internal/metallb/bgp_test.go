// SPDX-License-Identifier: Apache-2.0

package metallb_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/metallb"
)

// The two ways to write the fields that configure BGP.
const (
	modern = 0
	legacy = 1
)

// spelled takes the names of one of the two ways; a field that has none there is left out.
func spelled(way int, fields map[string]*rapid.Generator[any], names map[string]string) map[string]*rapid.Generator[any] {
	if way == modern {
		return fields
	}
	out := make(map[string]*rapid.Generator[any])
	for field, g := range fields {
		if name, ok := names[field]; ok {
			out[name] = g
		}
	}
	return out
}

func routes(way int) map[string]*rapid.Generator[any] {
	return spelled(way, map[string]*rapid.Generator[any]{
		"aggregationLength": oneOf(int64(32), int64(24), int64(33)), "aggregationLengthV6": oneOf(int64(128), int64(64), "x"),
		"localPref": oneOf(int64(9), int64(1<<32-1), int64(1<<32)), "communities": listOf(oneOf("1:2", "a", "pizza", "large:1:2:3", "no-export")),
	}, map[string]string{"aggregationLength": "aggregation-length", "aggregationLengthV6": "aggregation-length-v6", "localPref": "localpref", "communities": "communities"})
}

func profiles(way int) map[string]*rapid.Generator[any] {
	interval := oneOf(int64(9), int64(10), int64(60000), int64(60001))
	out := spelled(way, map[string]*rapid.Generator[any]{
		"receiveInterval": interval, "transmitInterval": interval, "detectMultiplier": oneOf(int64(1), int64(2), int64(255)), "echoInterval": interval,
		"echoMode": oneOf(true, false), "passiveMode": oneOf(true, false), "minimumTtl": oneOf(int64(254), int64(255)),
	}, map[string]string{
		"receiveInterval": "receive-interval", "transmitInterval": "transmit-interval", "detectMultiplier": "detect-multiplier",
		"echoInterval": "echo-interval", "echoMode": "echo-mode", "passiveMode": "passive-mode", "minimumTtl": "minimum-ttl",
	})
	if way == legacy {
		out["name"] = oneOf("a", "b", "Bad Name")
	}
	return out
}

func peers(way int) map[string]*rapid.Generator[any] {
	names := map[string]string{
		"myASN": "my-asn", "peerASN": "peer-asn", "peerAddress": "peer-address", "sourceAddress": "source-address", "peerPort": "peer-port",
		"holdTime": "hold-time", "keepaliveTime": "keepalive-time", "routerID": "router-id", "password": "password", "bfdProfile": "bfd-profile",
		"ebgpMultiHop": "ebgp-multihop",
	}
	flag := oneOf(true, false)
	out := spelled(way, map[string]*rapid.Generator[any]{
		"myASN": oneOf(int64(64512), int64(64512), int64(0)), "peerASN": oneOf(int64(64513), int64(1<<32-1)), "peerAddress": oneOf("192.0.2.1", "2001:db8::1", "fe80::1"),
		"sourceAddress": oneOf("192.0.2.2", "pizza"), "peerPort": oneOf(int64(179), int64(1790)), "holdTime": oneOf("1m30s", "9s", "1s"), "keepaliveTime": oneOf("3s"),
		"routerID": oneOf("1.2.3.4", "::1"), "password": oneOf("secret"), "bfdProfile": oneOf("a", "none", "Bad Name"), "ebgpMultiHop": flag,
		"localASN": oneOf(int64(64514)), "dynamicASN": oneOf("internal", "external", "other"), "interface": oneOf("eth0"), "connectTime": oneOf("10s", "0s"),
		"enableGracefulRestart": flag, "vrf": oneOf("red"), "disableMP": flag, "dualStackAddressFamily": flag, "nodeSelectors": selectors(),
		"passwordSecret": oneOf(map[string]any{"name": "s"}, map[string]any{"name": "s", "namespace": "other"}, map[string]any{"name": ""}, map[string]any{"key": "s"}),
	}, names)
	if way == legacy {
		out["node-selectors"] = listOf(oneOf(
			map[string]any{"match-labels": map[string]any{"app.x/y": "b"}},
			map[string]any{"match-expressions": []any{map[string]any{"key": "k", "operator": "In", "values": []any{"v"}}}},
			map[string]any{"match-expressions": []any{map[string]any{"key": "k", "operator": "Near"}}},
			map[string]any{"match-label": map[string]any{"a": "b"}},
		))
	}
	return out
}

func bgpAdvertisements() map[string]*rapid.Generator[any] {
	names := listOf(oneOf("a", "b", "c"))
	out := maps.Clone(routes(modern))
	maps.Copy(out, map[string]*rapid.Generator[any]{
		"ipAddressPools": names, "ipAddressPoolSelectors": selectors(), "nodeSelectors": selectors(), "serviceSelectors": selectors(), "peers": names,
	})
	return out
}

func convertText(t *testing.T, text string) metallb.Result {
	t.Helper()
	objects, err := manifest.Read("f", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return metallb.Convert(objects, options())
}

// lost returns the fields that are not carried over.
func lost(r metallb.Result) []string {
	var out []string
	for _, m := range r.Remarks {
		if m.Lost {
			out = append(out, m.Fields...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// A router without an address (unnumbered) is one as any other.
func TestAnInterfaceIsCarriedOver(t *testing.T) {
	t.Parallel()
	r := convertText(t, "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: r, namespace: metallb-system}\nspec: {myASN: 64512, dynamicASN: external, interface: eth1}")
	if l := lost(r); len(l) > 0 || len(r.Peers) != 1 || r.Peers[0].Spec.Interface != "eth1" || r.Peers[0].Spec.PeerAddress != "" {
		t.Errorf("lost %v, peers %+v", l, r.Peers)
	}
}

const router = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: r, namespace: metallb-system}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, "

// What Fairlead's agents would refuse is named while there is time.
func TestWhatNoAgentTakesOfAPeerIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, spec string
		peers      int
		lost       []string
	}{
		{name: "plain", spec: "peerPort: 179}", peers: 1},
		{name: "a VRF", spec: "vrf: red}", peers: 1, lost: []string{"spec.vrf"}},
		{name: "no such profile", spec: "bfdProfile: fast}", peers: 1, lost: []string{"spec.bfdProfile"}},
		{name: "no Secret in the input", spec: "passwordSecret: {name: s}}", peers: 1, lost: []string{"spec.passwordSecret.name"}},
		{name: "no Secret meant", spec: "passwordSecret: {}}", peers: 1},
		{name: "two passwords", spec: "password: a, passwordSecret: {name: s}}", lost: []string{
			"spec.myASN", "spec.password", "spec.passwordSecret.name", "spec.peerASN", "spec.peerAddress",
		}},
		{name: "two AS numbers", spec: "dynamicASN: external}", lost: []string{"spec.dynamicASN", "spec.myASN", "spec.peerASN", "spec.peerAddress"}},
		{name: "a field of tomorrow", spec: "tcpAO: strong}", peers: 1, lost: []string{"spec.tcpAO"}},
		{name: "an interface and an address", spec: "interface: eth0}", lost: []string{"spec.interface", "spec.myASN", "spec.peerASN", "spec.peerAddress"}},
		{name: "a hold time of 2s", spec: "holdTime: 2s}", lost: []string{"spec.holdTime", "spec.myASN", "spec.peerASN", "spec.peerAddress"}},
		{name: "everything else", spec: "localASN: 1, sourceAddress: 192.0.2.9, holdTime: 0s, connectTime: 5s, routerID: 1.1.1.1, nodeSelectors: [{matchLabels: {a: b}}], " +
			"enableGracefulRestart: true, ebgpMultiHop: true, disableMP: true, dualStackAddressFamily: true}", peers: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := convertText(t, router+tt.spec)
			if diff := cmp.Diff(tt.lost, lost(r)); diff != "" || len(r.Peers) != tt.peers {
				t.Errorf("%d peers, lost (-want +got):\n%s\n%+v", len(r.Peers), diff, r.Remarks)
			}
		})
	}
}

// A password stays in a Secret, where it was in one, and gets to where agents read it.
func TestASecretIsWrittenForTheAgents(t *testing.T) {
	t.Parallel()
	const secret = "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: NS}\ntype: TYPE\ndata: {KEY: c2VjcmV0}\n"
	for _, tt := range []struct {
		name, namespace, kind, key string
		secrets                    int
	}{
		{"as MetalLB wants it", "metallb-system", "kubernetes.io/basic-auth", "password", 1},
		{"elsewhere", "other", "kubernetes.io/basic-auth", "password", 0},
		{"of another type", "metallb-system", "Opaque", "password", 0},
		{"without password", "metallb-system", "kubernetes.io/basic-auth", "username", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			two := router + "passwordSecret: {name: s}}\n---\n" + strings.Replace(router, "name: r,", "name: r2,", 1) + "passwordSecret: {name: s}}"
			r := convertText(t, two+strings.NewReplacer("NS", tt.namespace, "TYPE", tt.kind, "KEY", tt.key).Replace(secret))
			if len(r.Peers) != 2 || r.Peers[0].Spec.Password != "" || r.Peers[0].Spec.PasswordSecret.Namespace != "" {
				t.Fatalf("peers %+v", r.Peers)
			}
			if len(r.Secrets) != tt.secrets || r.Lost() == (tt.secrets > 0) {
				t.Fatalf("%d Secrets, remarks %+v", len(r.Secrets), r.Remarks)
			}
			if tt.secrets > 0 && (r.Secrets[0].Namespace != "fairlead-system" || string(r.Secrets[0].Data["password"]) != "secret") {
				t.Errorf("Secret %+v", r.Secrets[0])
			}
		})
	}
}

// Objects of the old kinds have no names of their own: those made for them leave alone what
// the input has.
func TestMadeUpNamesTakeNoOther(t *testing.T) {
	t.Parallel()
	const config = "peers:\n- {my-asn: 1, peer-asn: 2, peer-address: 192.0.2.1, node-selectors: [{match-labels: {a: b}}]}\n" +
		"- {my-asn: 1, peer-asn: 2, peer-address: 192.0.2.2, bfd-profile: Fast One}\n" +
		"bgp-communities: {a: \"1:2\"}\nbfd-profiles: [{name: Fast One}]\n" +
		"address-pools:\n- {name: p, protocol: bgp, addresses: [10.0.0.0/24], bgp-advertisements: [{localpref: 1}, {communities: [a], aggregation-length: 24}]}\n" +
		"- {name: q, protocol: bgp, addresses: [10.0.1.0/24]}\n"
	const others = "---\n" + router + "peerPort: 1}\n---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: p}\n" +
		"---\napiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: bgp-communities}\n"
	r := convertText(t, config+strings.Replace(others, "name: r,", "name: peer1,", 1))
	var got []string
	for _, o := range outputs(&r) {
		got = append(got, o.kind+" "+o.name)
	}
	want := []string{
		"IPAddressPool p", "IPAddressPool q", "BFDProfile fast-one", "Community bgp-communities", "Community bgp-communities-2",
		"BGPPeer peer1", "BGPPeer peer2", "BGPPeer peer3", "BGPAdvertisement p", "BGPAdvertisement p-2", "BGPAdvertisement p-3", "BGPAdvertisement q",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("output (-want +got):\n%s\n%+v", diff, r.Remarks)
	}
	if s := r.Peers[1].Spec; s.PeerAddress != "192.0.2.1" || len(s.NodeSelectors) != 1 || s.NodeSelectors[0].MatchLabels["a"] != "b" {
		t.Errorf("the first peer became %+v", s)
	}
	if s := r.Peers[2].Spec; s.BFDProfile != "fast-one" {
		t.Errorf("the second peer has the profile %q", s.BFDProfile)
	}
	first, second, last := r.BGPAdvertisements[1].Spec, r.BGPAdvertisements[2].Spec, r.BGPAdvertisements[3].Spec
	if first.LocalPref != 1 || *second.AggregationLength != 24 || !slices.Equal(second.Communities, []string{"a"}) || !slices.Equal(last.IPAddressPools, []string{"q"}) {
		t.Errorf("advertisements %+v", r.BGPAdvertisements)
	}
}

// Words that nobody knows, and words with two values.
func TestCommunitiesAreLookedUp(t *testing.T) {
	t.Parallel()
	const community = "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: NAME}\nspec: {communities: [{name: a, value: \"VALUE\"}]}\n---\n"
	const ad = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: ad}\nspec: {communities: [WORD]}\n---\n"
	filled := func(of string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(of) }
	for _, tt := range []struct {
		name, input string
		lost        []string
	}{
		{"alias after its use", filled(ad, "WORD", "a") + filled(community, "NAME", "c", "VALUE", "1:2"), nil},
		{"unknown", filled(ad, "WORD", "b"), []string{"spec.communities[0]"}},
		{"alias of nothing", filled(community, "NAME", "c", "VALUE", "pizza"), []string{"spec.communities[0].name", "spec.communities[0].value"}},
		{"two values", filled(community, "NAME", "c", "VALUE", "1:2") + filled(community, "NAME", "d", "VALUE", "1:3"), []string{"spec.communities"}},
		{"one value twice", filled(community, "NAME", "c", "VALUE", "1:2") + filled(community, "NAME", "d", "VALUE", "1:2"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := convertText(t, tt.input)
			if diff := cmp.Diff(tt.lost, lost(r)); diff != "" {
				t.Errorf("lost (-want +got):\n%s\n%+v", diff, r.Remarks)
			}
		})
	}
}

// What neither speaks BGP by Fairlead nor is a status is named, too.
func TestFRRsOwnConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	r := convertText(t, "apiVersion: frrk8s.metallb.io/v1beta1\nkind: FRRConfiguration\nmetadata: {name: x}\nspec: {raw: {rawConfig: x}}\n")
	if got := lost(r); !slices.Equal(got, []string{"spec.raw.rawConfig"}) {
		t.Errorf("lost %v", got)
	}
}
