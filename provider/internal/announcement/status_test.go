// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func testNode(name string, edit func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	if edit != nil {
		edit(n)
	}
	return n
}

func testAgent(name string, prefixes ...string) *v1alpha1.NodeAgent {
	return &v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: v1alpha1.NodeAgentStatus{
			Interfaces: []v1alpha1.NodeInterface{{Name: "eth0", Prefixes: prefixes}},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Running"}},
		},
	}
}

func testAd(tb testing.TB, spec v1alpha1.L2AdvertisementSpec) convert.Advertisement {
	tb.Helper()
	ad, err := convert.L2Advertisement(&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "ad"}, Spec: spec})
	if err != nil {
		tb.Fatal(err)
	}
	return ad
}

func selector(key, value string) []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// Which node may announce 172.20.255.200, and why not.
func TestVerdict(t *testing.T) {
	const subnet = "172.20.0.4/16"
	exclude := func(value string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = value }
	}
	notReady := testAgent("n", subnet)
	notReady.Status.Conditions[0].Status = metav1.ConditionFalse
	for _, tc := range []struct {
		name  string
		edit  func(*corev1.Node)
		agent *v1alpha1.NodeAgent
		ads   []v1alpha1.L2AdvertisementSpec
		want  reason.Reason
	}{
		{name: "subnet holds the address", agent: testAgent("n", subnet)},
		{name: "another subnet", agent: testAgent("n", "192.168.10.10/24"), want: reason.NoInterface},
		{name: "second prefix holds the address", agent: testAgent("n", "192.168.10.10/24", subnet)},
		{name: "prefix that cannot be read", agent: testAgent("n", "banana"), want: reason.NoInterface},
		{name: "interface by name, whatever its subnet", agent: testAgent("n", "192.168.10.10/24"), ads: []v1alpha1.L2AdvertisementSpec{{Interfaces: []string{"eth0"}}}},
		{name: "interface of another name", agent: testAgent("n", subnet), ads: []v1alpha1.L2AdvertisementSpec{{Interfaces: []string{"eth1"}}}, want: reason.NoInterface},
		{name: "no agent", want: reason.WaitingForAgent},
		{name: "agent not ready", agent: notReady, want: reason.WaitingForAgent},
		{name: "excluded, no value", edit: exclude(""), agent: testAgent("n", subnet), want: reason.NodeExcluded},
		{name: "excluded, true", edit: exclude("true"), agent: testAgent("n", subnet), want: reason.NodeExcluded},
		{name: "excluded, no boolean", edit: exclude("yes please"), agent: testAgent("n", subnet), want: reason.NodeExcluded},
		{name: "not excluded", edit: exclude("false"), agent: testAgent("n", subnet)},
		{
			name: "network unavailable", agent: testAgent("n", subnet), want: reason.NetworkUnavailable,
			edit: func(n *corev1.Node) {
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
			},
		},
		{name: "selected", agent: testAgent("n", subnet), ads: []v1alpha1.L2AdvertisementSpec{{NodeSelectors: selector("kubernetes.io/hostname", "n")}}},
		{name: "not selected", agent: testAgent("n", subnet), ads: []v1alpha1.L2AdvertisementSpec{{NodeSelectors: selector("kubernetes.io/hostname", "m")}}, want: reason.NodeNotSelected},
		{
			name: "one of two advertisements is enough", agent: testAgent("n", subnet),
			ads: []v1alpha1.L2AdvertisementSpec{{NodeSelectors: selector("kubernetes.io/hostname", "m")}, {}},
		},
		{
			name: "node of one advertisement, interface of another", agent: testAgent("n", "192.168.10.10/24"),
			ads:  []v1alpha1.L2AdvertisementSpec{{}, {NodeSelectors: selector("kubernetes.io/hostname", "m"), Interfaces: []string{"eth0"}}},
			want: reason.NoInterface,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			specs := tc.ads
			if specs == nil {
				specs = []v1alpha1.L2AdvertisementSpec{{}}
			}
			n := convertNode(testNode("n", tc.edit), tc.agent)
			var ads []*advertisement
			for _, s := range specs {
				ads = append(ads, selectNodes(testAd(t, s), []node{n}))
			}
			if got := n.verdict([]target{{vip(), [][]*advertisement{ads}}}); got != tc.want {
				t.Errorf("verdict %q, want %q", got, tc.want)
			}
		})
	}
}

// What a record's conditions say in each situation; the messages are what users read.
func TestAssess(t *testing.T) {
	v4 := []v1alpha1.LoadBalancerAddress{{Address: "172.20.255.200", Pool: "my-ippool", Claim: "172.20.255.200"}}
	v6 := []v1alpha1.LoadBalancerAddress{{Address: "fd00::1", Pool: "six", Claim: v1alpha1.ClaimName(six())}}
	ad := testAd(t, v1alpha1.L2AdvertisementSpec{})
	worker := convertNode(testNode("worker", nil), testAgent("worker", "172.20.0.4/16"))
	far := convertNode(testNode("far", nil), testAgent("far", "10.0.0.1/24"))
	lonely := convertNode(testNode("lonely", nil), nil)
	served := loadbalancer.Endpoints{Any: true, Nodes: map[loadbalancer.NodeName]struct{}{"worker": {}}}
	elsewhere := loadbalancer.Endpoints{Any: true, Nodes: map[loadbalancer.NodeName]struct{}{"far": {}}}
	far.index, lonely.index = 1, 2
	all := []node{worker, far, lonely}
	any4 := wish{addrs: []netip.Addr{vip()}, ads: []*advertisement{selectNodes(ad, all)}}
	byWorker := holding{addr: "172.20.255.200", bound: true, owner: &v1alpha1.Owner{Node: "worker", Epoch: 1}}
	announced := situation{
		addresses: v4, wish: any4, targets: targetsOf([]wish{any4}), policy: v1alpha1.TrafficPolicyCluster,
		nodes: []node{worker}, endpoints: served, held: []holding{byWorker},
	}
	unowned := func(s *situation) { s.held = []holding{{addr: "172.20.255.200", bound: true}} }
	none := func(s *situation) { s.addresses, s.wish, s.held = nil, wish{}, nil }
	two := func(s *situation) {
		s.addresses = append(s.addresses[:1:1], v1alpha1.LoadBalancerAddress{Address: "172.20.255.201", Pool: "b", Claim: "172.20.255.201"})
		s.held = []holding{byWorker, {addr: "172.20.255.201", bound: true, owner: byWorker.owner}}
	}
	limited := func(asked, unknown []string) func(*situation) {
		return func(s *situation) {
			s.wish.asked, s.wish.unknown, s.wish.by = asked, unknown, "its annotation fairlead.dev/advertisements"
		}
	}
	onlyOn := func(n node) [][]*advertisement {
		ad := &advertisement{Advertisement: ad, nodes: make([]bool, len(all))}
		ad.nodes[n.index] = true
		return [][]*advertisement{{ad}}
	}
	for _, tc := range []struct {
		name string
		edit func(*situation)
		// want is "Allocated Announced Ready": T or F with the reason, and part of Ready's message.
		want, message string
	}{
		{"announced", func(*situation) {}, "T:Allocated T:Announced T:Announced", "172.20.255.200 is announced by node worker (layer 2)"},
		{
			"dual stack", func(s *situation) {
				s.addresses = append(s.addresses[:1:1], v6...)
				s.held = []holding{byWorker, {addr: "fd00::1", bound: true, owner: byWorker.owner}}
			},
			"T:Allocated T:Announced T:Announced", "172.20.255.200, fd00::1 are announced by node worker (layer 2)",
		},
		{
			"dual stack, no node in the IPv6 subnet", func(s *situation) {
				s.addresses = append(s.addresses[:1:1], v6...)
				s.held = []holding{byWorker, {addr: "fd00::1", bound: true}}
				s.wish.addrs = []netip.Addr{vip(), six()}
				s.targets = targetsOf([]wish{s.wish})
			},
			"T:Allocated F:NoEligibleNode F:NoEligibleNode",
			"no node may announce fd00::1 (1 node NoInterface); 172.20.255.200 is announced by node worker (layer 2)",
		},
		{
			"IPv6 only", func(s *situation) {
				s.addresses, s.held = v6, []holding{{addr: "fd00::1", bound: true}}
				s.wish.addrs = []netip.Addr{six()}
				s.targets = targetsOf([]wish{s.wish})
				s.nodes = []node{convertNode(testNode("worker", nil), testAgent("worker", "172.20.0.4/16", "fd00::4/64"))}
			},
			"T:Allocated F:WaitingForAgent F:WaitingForAgent", "waiting for a node agent to take fd00::1 over",
		},
		{
			"no endpoints, Cluster", func(s *situation) { s.endpoints = loadbalancer.Endpoints{} },
			"T:Allocated T:Announced F:NoEndpoints", "no pod of the Service is ready: connections are refused",
		},
		{
			"no endpoints, Local, owned", func(s *situation) {
				s.endpoints, s.policy = loadbalancer.Endpoints{}, v1alpha1.TrafficPolicyLocal
			},
			"T:Allocated T:Announced F:NoEndpoints", "connections are refused",
		},
		{
			"no endpoints, Local, not owned", func(s *situation) {
				unowned(s)
				s.endpoints, s.policy = loadbalancer.Endpoints{}, v1alpha1.TrafficPolicyLocal
			},
			"T:Allocated F:NoEndpoints F:NoEndpoints", "externalTrafficPolicy Local",
		},
		{
			"Local with pods on other nodes only", func(s *situation) {
				unowned(s)
				s.endpoints, s.policy, s.nodes = elsewhere, v1alpha1.TrafficPolicyLocal, []node{worker, far}
			},
			"T:Allocated F:NoEligibleNode F:NoEligibleNode", "no node that may announce 172.20.255.200 runs a ready pod",
		},
		{"not owned yet", unowned, "T:Allocated F:WaitingForAgent F:WaitingForAgent", "waiting for a node agent to take 172.20.255.200 over"},
		{"no agent ready", func(s *situation) { unowned(s); s.nodes = []node{lonely} }, "T:Allocated F:WaitingForAgent F:WaitingForAgent", "(1 node WaitingForAgent)"},
		{
			"no node in the subnet", func(s *situation) { unowned(s); s.nodes = []node{far, far} },
			"T:Allocated F:NoEligibleNode F:NoEligibleNode", "no node may announce 172.20.255.200 (2 nodes NoInterface)",
		},
		{"no node at all", func(s *situation) { unowned(s); s.nodes = nil }, "T:Allocated F:NoEligibleNode F:NoEligibleNode", "the cluster has no node"},
		{
			"no advertisement", func(s *situation) { unowned(s); s.wish.ads = nil }, "T:Allocated F:NoAdvertisement F:NoAdvertisement",
			`no valid L2Advertisement or BGPAdvertisement selects pool "my-ippool" and this Service`,
		},
		{"claim released", func(s *situation) { s.held = []holding{{addr: "172.20.255.200"}} }, "T:Allocated F:Released F:Released", "no bound claim"},
		{
			"claim retained", func(s *situation) {
				s.held = []holding{{addr: "172.20.255.200", retainUntil: &metav1.Time{Time: time.Unix(7200, 0)}}}
			}, "T:Allocated F:Released F:Released", "172.20.255.200 is kept for a Service of this name until 1970-01-01T02:00:00Z",
		},
		{"two addresses", two, "T:Allocated T:Announced T:Announced", "172.20.255.200, 172.20.255.201 are announced by node worker (layer 2)"},
		{
			"two addresses, of two owners for a moment", func(s *situation) {
				two(s)
				s.held[1].owner = &v1alpha1.Owner{Node: "far", Epoch: 1}
			}, "T:Allocated T:Announced T:Announced",
			"172.20.255.200 is announced by node worker, 172.20.255.201 is announced by node far (layer 2)",
		},
		{
			"two addresses, one owned", func(s *situation) {
				two(s)
				s.held[1].owner = nil
			}, "T:Allocated F:WaitingForAgent F:WaitingForAgent",
			"waiting for a node agent to take 172.20.255.201 over; 172.20.255.200 is announced by node worker (layer 2)",
		},
		{
			"two addresses, one released", func(s *situation) {
				two(s)
				s.held[1] = holding{addr: "172.20.255.201"}
			}, "T:Allocated F:Released F:Released", "172.20.255.201 has no bound claim of this Service: it is being released or restored; 172.20.255.200 is announced",
		},
		{
			"two addresses, no advertisement", func(s *situation) {
				two(s)
				s.held, s.wish.ads = []holding{{addr: "172.20.255.200", bound: true}, {addr: "172.20.255.201", bound: true}}, nil
			}, "T:Allocated F:NoAdvertisement F:NoAdvertisement", `selects one of the pools "b", "my-ippool" and this Service`,
		},
		{
			"sharers whose advertisements have no node in common", func(s *situation) {
				unowned(s)
				s.nodes = []node{worker, convertNode(testNode("near", nil), testAgent("near", "172.20.0.9/16"))}
				s.nodes[1].index = 1
				s.targets = []target{{vip(), append(onlyOn(s.nodes[0]), onlyOn(s.nodes[1])...)}}
			}, "T:Allocated F:NoCommonNode F:NoCommonNode", "go together with 172.20.255.200 must be announced by one node",
		},
		{
			"sharers of whom one has no node at all", func(s *situation) {
				unowned(s)
				s.nodes = []node{worker, far}
				s.targets = []target{{vip(), append(onlyOn(worker), onlyOn(far)...)}}
			}, "T:Allocated F:NoEligibleNode F:NoEligibleNode", "no node may announce 172.20.255.200 (2 nodes NodeNotSelected)",
		},
		{
			"limited to advertisements that do not exist", func(s *situation) {
				unowned(s)
				s.wish.ads = nil
				limited([]string{"x", "y"}, []string{"x", "y"})(s)
			}, "T:Allocated F:NoAdvertisement F:NoAdvertisement",
			"its annotation fairlead.dev/advertisements allows only x, y, which is no valid L2Advertisement or BGPAdvertisement",
		},
		{
			"limited to advertisements that do not select it", func(s *situation) {
				unowned(s)
				s.wish.ads = nil
				limited([]string{"x", "y"}, []string{"y"})(s)
			}, "T:Allocated F:NoAdvertisement F:NoAdvertisement",
			`allows only advertisement x, which does not select pool "my-ippool" and this Service; its annotation fairlead.dev/advertisements names y,`,
		},
		{
			"limited, one name unknown", limited([]string{"ad", "y"}, []string{"y"}), "T:Allocated T:Announced T:Announced",
			"(layer 2); its annotation fairlead.dev/advertisements names y, which is no valid L2Advertisement",
		},
		{
			"allocation failed", func(s *situation) {
				none(s)
				s.failure = &failure{reason: reason.PoolExhausted, message: "pool full"}
			}, "F:PoolExhausted F:NotAllocated F:PoolExhausted", "pool full",
		},
		{
			"allocation failed under an earlier process", func(s *situation) {
				none(s)
				s.previous = []metav1.Condition{{Type: v1alpha1.ConditionAllocated, Status: metav1.ConditionFalse, Reason: "NoPool", Message: "none"}}
			}, "F:NoPool F:NotAllocated F:NoPool", "none",
		},
		{"no address yet", none, "F:NotAllocated F:NotAllocated F:NotAllocated", "no address"},
		{
			"another request failed while an address is held", func(s *situation) {
				s.failure = &failure{reason: reason.AddressInUse, message: "taken"}
			}, "F:AddressInUse T:Announced F:AddressInUse", "taken",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := announced
			tc.edit(&s)
			s.now = time.Unix(1000, 0)
			got := assess(s, forwarded{})
			var parts []string
			for _, name := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionAnnounced, v1alpha1.ConditionReady} {
				c := meta.FindStatusCondition(got.Conditions, name)
				parts = append(parts, string(c.Status[0])+":"+c.Reason)
			}
			if diff := cmp.Diff(tc.want, strings.Join(parts, " ")); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if m := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady).Message; !strings.Contains(m, tc.message) {
				t.Errorf("message %q, want %q in it", m, tc.message)
			}
			if diff := cmp.Diff(s.owner(), got.Owner); diff != "" {
				t.Errorf("owner (-want +got):\n%s", diff)
			}
			s.previous, s.now = got.Conditions, s.now.Add(time.Hour)
			if diff := cmp.Diff(got, assess(s, forwarded{})); diff != "" {
				t.Errorf("an hour later without a change (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAssessAdvertisement(t *testing.T) {
	exists := func(pool string) bool { return pool == "a" }
	for _, tc := range []struct {
		name    string
		spec    v1alpha1.L2AdvertisementSpec
		want    reason.Reason
		message string
	}{
		{"every pool", v1alpha1.L2AdvertisementSpec{}, reason.Valid, "in use"},
		{"known pool", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"a"}}, reason.Valid, "in use"},
		{"unknown pools", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"c", "a", "b"}}, reason.UnknownPool, "named b, c;"},
		{
			"bad operator", v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{
				{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}},
			}}, reason.InvalidSelector, `nodeSelectors[0]: "Near" is not a valid label selector operator`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := assessAdvertisement(&v1alpha1.L2Advertisement{Spec: tc.spec}, exists)
			if got.reason != tc.want || !strings.Contains(got.message, tc.message) || got.ok != (tc.want == reason.Valid) {
				t.Errorf("got %+v, want %s: %q", got, tc.want, tc.message)
			}
		})
	}
}
