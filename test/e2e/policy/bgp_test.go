// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"fmt"
	"strings"
	"testing"
)

func manifestOf(kind, name, spec string) string {
	return "apiVersion: fairlead.dev/v1alpha1\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n"
}

// accepts creates an object and says what is wrong with the answer.
func accepts(t *testing.T, manifest, wants string) {
	t.Helper()
	err := person().create(t.Context(), manifest)
	check(t, err, wants)
	if err == nil {
		if err := person().delete(t.Context(), manifest); err != nil {
			t.Error(err)
		}
	}
}

func TestBGPPeers(t *testing.T) {
	t.Parallel()
	const asns, addr = "myASN: 64512, peerASN: 64513, ", "peerAddress: 192.0.2.1, "
	const some = asns + addr
	for i, tt := range []struct{ name, spec, wants string }{
		{"address", some, ""},
		{"link-local", asns + "peerAddress: 'fe80::1%eth0'", ""},
		{"interface", asns + "interface: eth0", ""},
		{"largest numbers", "myASN: 4294967295, peerASN: 4294967294, localASN: 4294967293, peerPort: 65535, " + addr, ""},
		{"everything", some + `localASN: 64999, sourceAddress: 10.0.0.1, peerPort: 1790, holdTime: 9s, keepaliveTime: 3s, connectTime: 1s, idleHoldTime: 600s,
  routerID: 10.0.0.1, nodeSelectors: [{matchLabels: {a: b}}], passwordSecret: {name: s}, bfdProfile: b, enableGracefulRestart: true, ebgpMultiHop: true,
  vrf: red, disableMP: true, dualStackAddressFamily: true`, ""},
		{"from labels and annotations", "myASNFrom: {label: example.com/asn}, peerASNFrom: {annotation: fairlead.dev/asn}, peerAddressFrom: {annotation: bgp.example.com/router}", ""},
		{"any AS number", "myASN: 64512, dynamicASN: external, " + addr, ""},
		{"neither address nor interface", asns, "exactly one of peerAddress, peerAddressFrom and interface"},
		{"address and interface", some + "interface: eth0", "exactly one of peerAddress, peerAddressFrom and interface"},
		{"address twice", some + "peerAddressFrom: {label: a}", "exactly one of peerAddress, peerAddressFrom and interface"},
		{"no AS number of the peer", "myASN: 64512, " + addr, "exactly one of peerASN, peerASNFrom and dynamicASN"},
		{"AS number 0 of the peer", "myASN: 64512, peerASN: 0, " + addr, "exactly one of peerASN, peerASNFrom and dynamicASN"},
		{"AS number of the peer twice", some + "dynamicASN: internal", "exactly one of peerASN, peerASNFrom and dynamicASN"},
		{"another dynamic AS number", "myASN: 64512, dynamicASN: any, " + addr, "Unsupported value"},
		{"no AS number of ours", "peerASN: 64513, " + addr, "exactly one of myASN and myASNFrom"},
		{"AS number of ours twice", some + "myASNFrom: {label: a}", "exactly one of myASN and myASNFrom"},
		{"AS number too high", "myASN: 4294967296, peerASN: 64513, " + addr, "less than or equal to 4294967295"},
		{"label and annotation", "myASNFrom: {label: a, annotation: bgp.a/b}, peerASN: 64513, " + addr, "label or annotation, not both"},
		{"neither label nor annotation", "myASNFrom: {}, peerASN: 64513, " + addr, "label or annotation, not both"},
		{"somebody's annotation", "myASNFrom: {annotation: example.com/asn}, peerASN: 64513, " + addr, "should match"},
		{"both passwords", some + "password: p, passwordSecret: {name: s}", "password or passwordSecret, not both"},
		{"password too long", some + "password: " + strings.Repeat("p", 81), "Too long"},
		{"hops both ways", some + "ttlSecurityHops: 2, ebgpMultiHop: true", "contradict each other"},
		{"hops", some + "ttlSecurityHops: 254, ebgpMultiHop: false", ""},
		{"too many hops", some + "ttlSecurityHops: 255", "less than or equal to 254"},
		{"passive", some + "passive: true, peerPort: 179, ttlSecurityHops: 1", ""},
		{"not passive", some + "passive: false, peerPort: 1790, connectTime: 5s", ""},
		{"passive without an address", asns + "passive: true, interface: eth0", "passive needs the peer's address"},
		{"passive and a port to connect to", some + "passive: true, peerPort: 1790", "passive and peerPort do not go together"},
		{"passive and a time between attempts", some + "passive: true, connectTime: 5s", "passive and connectTime do not go together"},
		{"no hold time", some + "holdTime: 0s", ""},
		{"hold time too short", some + "holdTime: 2s", "0 or at least 3s"},
		{"no duration", some + "holdTime: soon", "spec.holdTime"},
		{"connect time too long", some + "connectTime: 65536s", "1s to 65535s"},
		{"connect time too short", some + "connectTime: 0s", "1s to 65535s"},
		{"idle hold time too long", some + "idleHoldTime: 601s", "1s to 600s"},
		{"port 0", some + "peerPort: 0", "greater than or equal to 1"},
		{"a link's name that no link has", asns + "interface: sixteen-letters-", "Too long"},
		{"65 selectors", some + "nodeSelectors: " + list(65, "{matchLabels: {a: 'n%d'}}"), "must have at most 64 items"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			accepts(t, manifestOf("BGPPeer", fmt.Sprintf("peer-%d", i), strings.TrimSuffix(tt.spec, ", ")), tt.wants)
		})
	}
}

func TestBGPAdvertisements(t *testing.T) {
	t.Parallel()
	for i, tt := range []struct{ kind, name, spec, wants string }{
		{"BGPAdvertisement", "nothing said", "", ""},
		{"BGPAdvertisement", "everything", `aggregationLength: 24, aggregationLengthV6: 64, localPref: 4294967295, med: 0, asPathPrepend: 16,
  communities: ["65000:1", "large:65000:1:2", no-export, alias], ipAddressPools: [a], ipAddressPoolSelectors: [{}], nodeSelectors: [{}], peers: [a, b],
  serviceOverrides: [localPref, med, asPathPrepend, communities]`, ""},
		{"BGPAdvertisement", "64 communities of the longest", "communities: " + list(64, strings.Repeat("c", 250)+"%03d"), ""},
		{"BGPAdvertisement", "selected Services told one by one", "serviceSelectors: [{}], aggregationLength: 32, aggregationLengthV6: 128", ""},
		{"BGPAdvertisement", "selected Services aggregated", "serviceSelectors: [{}], aggregationLength: 24", "serviceSelectors do not go with an aggregation length"},
		{"BGPAdvertisement", "selected Services aggregated, IPv6", "serviceSelectors: [{}], aggregationLengthV6: 64", "serviceSelectors do not go with an aggregation length"},
		{"BGPAdvertisement", "length 0", "aggregationLength: 0", "greater than or equal to 1"},
		{"BGPAdvertisement", "length 33", "aggregationLength: 33", "less than or equal to 32"},
		{"BGPAdvertisement", "length 129", "aggregationLengthV6: 129", "less than or equal to 128"},
		{"BGPAdvertisement", "prepended 17 times", "asPathPrepend: 17", "less than or equal to 16"},
		{"BGPAdvertisement", "a negative preference", "localPref: -1", "greater than or equal to 0"},
		{"BGPAdvertisement", "a peer twice", "peers: [a, a]", "Duplicate value"},
		{"BGPAdvertisement", "another override", "serviceOverrides: [weight]", "Unsupported value"},
		{"BFDProfile", "nothing said", "", ""},
		{"BFDProfile", "everything", "receiveInterval: 10, transmitInterval: 60000, detectMultiplier: 255, echoMode: true, echoInterval: 50, passiveMode: true, minimumTtl: 254, strict: true", ""},
		{"BFDProfile", "too fast", "receiveInterval: 9", "greater than or equal to 10"},
		{"BFDProfile", "multiplier 1", "detectMultiplier: 1", "greater than or equal to 2"},
		{"BFDProfile", "TTL 255", "minimumTtl: 255", "less than or equal to 254"},
		{"Community", "some", `communities: [{name: a, value: "65000:1"}, {name: b, value: "large:1:2:3"}]`, ""},
		{"Community", "a name twice", `communities: [{name: a, value: "65000:1"}, {name: a, value: "65000:2"}]`, "Duplicate value"},
		{"Community", "no name", `communities: [{name: "", value: "65000:1"}]`, "at least 1 chars long"},
	} {
		t.Run(tt.kind+" "+tt.name, func(t *testing.T) {
			t.Parallel()
			accepts(t, manifestOf(tt.kind, fmt.Sprintf("bgp-%d", i), tt.spec), tt.wants)
		})
	}
}

func TestBGPAnnotations(t *testing.T) {
	t.Parallel()
	for i, tt := range []struct{ key, value, wants string }{
		{"bgp-local-pref", "0", ""},
		{"bgp-local-pref", " 4294967295 ", ""},
		{"bgp-local-pref", "4294967296", "numbers from 0 to 4294967295"},
		{"bgp-med", "-1", "numbers from 0 to 4294967295"},
		{"bgp-med", "1e3", "numbers from 0 to 4294967295"},
		{"bgp-as-path-prepend", "16", ""},
		{"bgp-as-path-prepend", "17", "not a number from 0 to 16"},
		{"bgp-communities", "65000:1, large:65000:1:2 ,no-export,my_alias, target:192.0.2.1:7", ""},
		{"bgp-communities", "65000:1,", "is not a list of communities"},
		{"bgp-communities", "65000:1 no-export", "is not a list of communities"},
		{"bgp-communities", "large:1:2", "is not a list of communities"},
	} {
		t.Run(tt.key+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			accepts(t, annotatedService(fmt.Sprintf("bgp-%d", i), "LoadBalancer", "fairlead.dev/"+tt.key, tt.value), tt.wants)
		})
	}
}

// Copies of metallb.io objects are the controller's, of these kinds as of the others.
func TestBGPMirrorsAreReadOnly(t *testing.T) {
	t.Parallel()
	for kind, spec := range map[string]string{
		"BGPPeer": "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1", "BGPAdvertisement": "", "BFDProfile": "", "Community": "",
	} {
		m := strings.Replace(manifestOf(kind, "copied", spec), "name: copied", "name: copied, labels: {fairlead.dev/source: metallb.io}", 1)
		check(t, person().create(t.Context(), m), "are copies")
		check(t, controller().create(t.Context(), m), "")
		check(t, person().delete(t.Context(), m), "are copies")
		check(t, controller().delete(t.Context(), m), "")
	}
}

// Who announces an address is in the table that people look at first: the node by layer 2,
// the advertisement by BGP, and in the wide one how many nodes tell whom.
func TestRecordsShowWhoTellsThem(t *testing.T) {
	t.Parallel()
	m := record("told")
	given(t, m)
	const words = "192.0.2.1 is announced by 2 nodes to 1 peers: router by BGP"
	check(t, controller().patch(t.Context(), m, `{spec: {advertisements: [{kind: L2Advertisement, name: near}, {kind: BGPAdvertisement, name: far}]}}`), "")
	check(t, controller().patch(t.Context(), m, `{status: {conditions: [{type: Announced, status: "True", reason: Announced, message: "`+words+
		`", lastTransitionTime: "2026-01-01T00:00:00Z"}]}}`, "status"), "")
	for _, tt := range []struct{ output, want string }{{"", "far"}, {"wide", words}} {
		out, err := cluster.run(t.Context(), "get", "loadbalancers", "-n", "default", "told", "-o", tt.output)
		if err != nil || !strings.Contains(out, tt.want) || !strings.Contains(out, "BGP") {
			t.Errorf("-o %q: %v:\n%s\nwant %q", tt.output, err, out, tt.want)
		}
	}
}
