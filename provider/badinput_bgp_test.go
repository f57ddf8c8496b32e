// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement"
)

const refusedHead = `
## BGP: what the API server refuses

Bounds of numbers and lengths of texts are in the schema, and are refused with its words. These rules have words of their own; each is tried on a real
API server (test/e2e/policy). On a metallb.io object they are an event on it, of reason ` + "`InvalidPeer`" + ` or ` + "`InvalidSelector`" + `.

| Kind | Input | Message |
|---|---|---|
`

// refusedRows are the rules that the API server's schema has in words.
func refusedRows() [][3]string {
	return [][3]string{
		{"BGPPeer", "peerAddress and interface, or neither", "exactly one of peerAddress, peerAddressFrom and interface"},
		{"BGPPeer", "peerASN and dynamicASN, or neither, or peerASN: 0 alone", "exactly one of peerASN, peerASNFrom and dynamicASN"},
		{"BGPPeer", "myASN and myASNFrom, or neither", "exactly one of myASN and myASNFrom"},
		{"BGPPeer", "password and passwordSecret", "password or passwordSecret, not both"},
		{"BGPPeer", "ttlSecurityHops: 2, ebgpMultiHop: true", "ttlSecurityHops and ebgpMultiHop contradict each other"},
		{"BGPPeer", "passive: true, interface: eth0", "passive needs the peer's address, not an interface"},
		{"BGPPeer", "passive: true, peerPort: 1790", "passive and peerPort do not go together; nodes do not connect to such a peer"},
		{"BGPPeer", "passive: true, connectTime: 5s", "passive and connectTime do not go together; nodes do not connect to such a peer"},
		{"BGPPeer", "holdTime: 2s", "0 or at least 3s"},
		{"BGPPeer", "connectTime: 0s", "1s to 65535s"},
		{"BGPPeer", "idleHoldTime: 11m", "1s to 600s"},
		{"BGPPeer", "peerAddressFrom: {label: a, annotation: bgp.example.com/a}, or neither", "label or annotation, not both"},
		{"BGPAdvertisement", "serviceSelectors: [{}], aggregationLength: 24", "serviceSelectors do not go with an aggregation length"},
	}
}

const peerHead = `
## BGPPeer and BFDProfile

The condition Ready of the BGPPeer and ` + "`status.bgp`" + ` of each NodeAgent (` + "`kubectl fairlead bgp peers`" + `) tell it. Other sessions go on. The BGPPeer has
` + "`myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.254`" + ` unless a row says otherwise; the node is worker, with 192.0.2.1/24 on eth0.

| Input | Outcome | Reason | Message |
|---|---|---|---|
`

type peerRow struct {
	input string
	// in is what is there beside the input.
	in func(*convert.PeerInput)
}

func peerRows() []peerRow {
	secret := func(password string) func(*convert.PeerInput) {
		return func(in *convert.PeerInput) { in.Password = password }
	}
	return []peerRow{
		{"peerAddress: router.example.com", nil},
		{"peerAddress: 'fe80::1'", nil},
		{"peerAddress: 0.0.0.0", nil},
		{"peerAddress: 192.0.2.254%eth0", nil},
		{"sourceAddress: '2001:db8::1'", nil},
		{"{peerAddress: '', interface: eth1, sourceAddress: 192.0.2.1}", nil},
		{"{peerAddress: '', interface: eth1, ebgpMultiHop: true}", nil},
		{"{peerAddress: '', interface: eth1, ttlSecurityHops: 2}", nil},
		{"peerASN: 23456", nil},
		{"{peerASN: 0, peerASNFrom: {label: example.com/asn}}", nil},
		{"{peerASN: 0, peerASNFrom: {label: rack}} (rack: a)", nil},
		{"{peerAddress: '', peerAddressFrom: {annotation: bgp.example.com/router}}", nil},
		{"holdTime: 3500ms", nil},
		{"{holdTime: 9s, keepaliveTime: 10s}", nil},
		{"{holdTime: 0s, keepaliveTime: 3s}", nil},
		{"routerID: '::1'", nil},
		{"vrf: red", nil},
		{"bfdProfile: fast (which does not exist)", nil},
		{"bfdProfile: echo (a BFDProfile with echoMode: true)", func(in *convert.PeerInput) {
			yes := true
			in.Profile = &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "echo"}, Spec: v1alpha1.BFDProfileSpec{EchoMode: &yes}}
		}},
		{"passwordSecret: {name: router} (a Secret without a password)", secret("")},
		{"passwordSecret: {name: router} (a password of 81 bytes)", secret(strings.Repeat("p", 81))},
		{"nodeSelectors: [{matchExpressions: [{key: rack, operator: Near}]}]", nil},
	}
}

// sessionFault says what an agent makes of a row's peer.
func sessionFault(t *testing.T, r peerRow) (outcome string, fault loadbalancer.BGPFault) {
	t.Helper()
	peer := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "router"}, Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.254"}}
	text, _, _ := strings.Cut(r.input, " (")
	if err := yaml.UnmarshalStrict([]byte(text), &peer.Spec); err != nil {
		t.Fatalf("%s: %v", r.input, err)
	}
	in := convert.PeerInput{
		Peer: peer, Node: loadbalancer.Node{Name: "worker", InternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, Labels: map[string]string{"rack": "a"},
		Interfaces: []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}},
	}
	if r.in != nil {
		r.in(&in)
	}
	_, _, faults, usable := convert.BGPSession(in)
	if len(faults) != 1 {
		t.Fatalf("%s: faults %+v, want one", r.input, faults)
	}
	outcome = "no session"
	if usable {
		outcome = "a session without it"
	}
	return outcome, faults[0]
}

const routeHead = `
## BGPAdvertisement and Community

The condition Ready of the BGPAdvertisement tells it; of an alias with two values, which is used, the agents' logs. The pool is ` + "`my-ippool`" + `, the
BGPPeer ` + "`router`" + `. Where a row says so there are the Communities ` + "`a`" + ` (` + "`bad: \"65536:1\"`" + `, ` + "`customer: \"65000:1\"`" + `) and ` + "`b`" + ` (` + "`customer: \"65000:2\"`" + `).

| Input | Reason | Message |
|---|---|---|
`

func routeRows() []string {
	return []string{
		"nodeSelectors: [{matchExpressions: [{key: rack, operator: Near}]}]",
		"ipAddressPools: [my-ippool, mine]",
		"peers: [router, other]",
		"communities: [no-exprot]",
		"communities: ['65536:1']",
		"communities: ['large:65000:1']",
		"communities: [bad] (Community a)",
	}
}

// bgpPart writes the page's part on what configures BGP.
func bgpPart(t *testing.T, b *strings.Builder) {
	t.Helper()
	b.WriteString(refusedHead)
	for _, r := range refusedRows() {
		crd, err := os.ReadFile("../deploy/crds/fairlead.dev_" + strings.ToLower(r[0]) + "s.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(strings.Fields(string(crd)), " "), "message: "+r[2]) {
			t.Errorf("the definition of %s does not say %q", r[0], r[2])
		}
		b.WriteString("| " + r[0] + " ")
		row(b, r[1], r[2])
	}
	b.WriteString(peerHead)
	for _, r := range peerRows() {
		outcome, fault := sessionFault(t, r)
		row(b, r.input, outcome, fault.Reason, fault.Message)
	}
	b.WriteString(routeHead)
	a := &v1alpha1.Community{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.CommunityAlias{
		{Name: "bad", Value: "65536:1"}, {Name: "customer", Value: "65000:1"},
	}}}
	second := &v1alpha1.Community{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.CommunityAlias{{Name: "customer", Value: "65000:2"}}}}
	for _, text := range routeRows() {
		spec, there, _ := strings.Cut(text, " (")
		var communities []*v1alpha1.Community
		if there != "" {
			communities = append(communities, a)
		}
		var ad v1alpha1.BGPAdvertisement
		if err := yaml.UnmarshalStrict([]byte(spec), &ad.Spec); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		why, message := announcement.AssessBGP(&ad, communities, func(name string) bool { return name == "my-ippool" }, func(name string) bool { return name == "router" })
		row(b, text, why.String(), message)
	}
	a.Spec.Communities = a.Spec.Communities[1:]
	_, faults := convert.Aliases([]*v1alpha1.Community{a, second})
	if len(faults) != 1 {
		t.Fatalf("two values of an alias: %+v", faults)
	}
	row(b, "communities: [customer] (Communities a and b)", faults[0].Reason, faults[0].Message)
}
