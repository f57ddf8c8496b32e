// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func (b *bed) wantPeer(t *testing.T, established, nodes int32, why reason.Reason, message string) {
	t.Helper()
	p, found := b.peers.Find("tor-a")
	if !found {
		t.Fatal("no peer")
	}
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil {
		t.Fatal("no condition")
	}
	if p.Status.Established != established || p.Status.Nodes != nodes || c.Reason != why.String() ||
		(c.Status == metav1.ConditionTrue) != (why == reason.Valid) || !strings.Contains(c.Message, message) {
		t.Errorf("established %d of %d, %s %s %q; want %d of %d, %s %q",
			p.Status.Established, p.Status.Nodes, c.Status, c.Reason, c.Message, established, nodes, why, message)
	}
}

func TestPeerStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.wantPeer(t, 0, 0, reason.WaitingForAgent, "no node agent has begun a session yet")
		b.down(t, "tor-a", "worker")
		b.session(t, "tor-a", v1alpha1.BGPIdle, reason.WrongASN, "worker2")
		wait(t, 10*time.Second)
		b.wantPeer(t, 0, 2, reason.NotEstablished, "node worker: NotEstablished (the router said NotEstablished), node worker2: WrongASN (the router said WrongASN)")
		b.up(t, "tor-a", "worker")
		wait(t, 10*time.Second)
		b.wantPeer(t, 1, 2, reason.WrongASN, "established on 1 of 2 nodes; node worker2: WrongASN")
		b.up(t, "tor-a", "worker2", "worker3")
		wait(t, 10*time.Second)
		b.wantPeer(t, 3, 3, reason.Valid, "established on 3 of 3 nodes")
		b.session(t, "tor-a", v1alpha1.BGPEstablished, reason.FieldNotSupported, workerNodes()...)
		wait(t, gossipDelay)
		b.wantPeer(t, 3, 3, reason.Valid, "established on 3 of 3 nodes; node worker: FieldNotSupported (the router said FieldNotSupported)")
		b.nodes.Put(t, testNode("worker3", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }))
		wait(t, time.Minute)
		b.wantPeer(t, 2, 2, reason.Valid, "established on 2 of 2 nodes")
		b.drain()
		for i := range 50 { // whatever agents say of it, as long as nothing changes
			b.agent(t, "worker", func(s *v1alpha1.NodeAgentStatus) { s.BGP[0].Prefixes = int32(i) })
			wait(t, time.Second)
		}
		b.wantNoWrite(t)
		b.peers.Put(t, peer("tor-a", v1alpha1.BGPPeerSpec{PeerAddress: "10.0.0.1", NodeSelectors: selector("rack", "z")}))
		for _, n := range workerNodes() {
			b.agent(t, n, func(s *v1alpha1.NodeAgentStatus) { s.BGP = nil })
		}
		wait(t, time.Minute)
		b.wantPeer(t, 0, 0, reason.NoEligibleNode, "select no node")
	})
}

func TestPeerFaults(t *testing.T) {
	bad := []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}
	for why, spec := range map[reason.Reason]v1alpha1.BGPPeerSpec{
		reason.VRFNotSupported: {VRF: "red"}, reason.UnknownProfile: {BFDProfile: "fast"}, reason.InvalidSelector: {NodeSelectors: bad},
	} {
		t.Run(why.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBGP(t)
				b.peers.Put(t, peer("tor-a", spec))
				wait(t, time.Second)
				b.wantPeer(t, 0, 0, why, "not used: ")
				b.profiles.Put(t, &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}})
				wait(t, time.Second)
				if why == reason.UnknownProfile {
					b.wantPeer(t, 0, 0, reason.WaitingForAgent, "")
				}
			})
		})
	}
}

func TestBGPAdvertisementReady(t *testing.T) {
	bad := []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}
	for i, tc := range []struct {
		spec    v1alpha1.BGPAdvertisementSpec
		want    reason.Reason
		message string
		// mend brings what is missing into being.
		mend func(t *testing.T, b *bed)
	}{
		{v1alpha1.BGPAdvertisementSpec{Peers: []string{"tor-a"}, Communities: []string{"65000:1", "no-export"}}, reason.Valid, "in use", nil},
		{v1alpha1.BGPAdvertisementSpec{NodeSelectors: bad}, reason.InvalidSelector, `not used: nodeSelectors[0]: "Near"`, nil},
		{
			v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"b", "my-ippool", "a"}},
			reason.UnknownPool, "no IPAddressPool is named a, b;",
			func(t *testing.T, b *bed) {
				t.Helper()
				b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
				b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
			},
		},
		{
			v1alpha1.BGPAdvertisementSpec{Peers: []string{"tor-b"}},
			reason.UnknownPeer, "no BGPPeer is named tor-b",
			func(t *testing.T, b *bed) { t.Helper(); b.peers.Put(t, peer("tor-b", v1alpha1.BGPPeerSpec{})) },
		},
		{
			v1alpha1.BGPAdvertisementSpec{Communities: []string{"gold"}},
			reason.UnknownCommunity, `not used: "gold" is no community`,
			func(t *testing.T, b *bed) {
				t.Helper()
				b.communities.Put(t, &v1alpha1.Community{
					ObjectMeta: metav1.ObjectMeta{Name: "metals"},
					Spec:       v1alpha1.CommunitySpec{Communities: []v1alpha1.CommunityAlias{{Name: "gold", Value: "65000:7"}}},
				})
			},
		},
	} {
		t.Run(fmt.Sprint(i, tc.want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBGP(t)
				b.bgpAds.Put(t, bgpAd("my-bgp", tc.spec))
				wait(t, time.Second)
				b.wantBGPAd(t, tc.want, tc.message)
				if tc.mend != nil {
					tc.mend(t, b)
					wait(t, time.Second)
					b.wantBGPAd(t, reason.Valid, "in use")
				}
				b.drain()
				wait(t, time.Hour)
				b.wantNoWrite(t)
			})
		})
	}
}

// Of two advertisements that say different things of one route the later one is told so, as
// long as a Service has both.
func TestContradiction(t *testing.T) {
	med := func(n int64) *int64 { return &n }
	short := int32(24)
	for _, tc := range []struct {
		name          string
		first, second v1alpha1.BGPAdvertisementSpec
		local         bool
		want          string
	}{
		{"one thing", v1alpha1.BGPAdvertisementSpec{LocalPref: 200}, v1alpha1.BGPAdvertisementSpec{LocalPref: 200}, false, ""},
		{"localPref", v1alpha1.BGPAdvertisementSpec{LocalPref: 200}, v1alpha1.BGPAdvertisementSpec{LocalPref: 50}, false, "says localPref 50 where BGPAdvertisement a says 200"},
		{"one says nothing", v1alpha1.BGPAdvertisementSpec{LocalPref: 200}, v1alpha1.BGPAdvertisementSpec{Communities: []string{"no-export"}}, false, ""},
		{"med", v1alpha1.BGPAdvertisementSpec{MED: med(0)}, v1alpha1.BGPAdvertisementSpec{MED: med(1)}, false, "says med 1 "},
		{"prepend", v1alpha1.BGPAdvertisementSpec{ASPathPrepend: 1}, v1alpha1.BGPAdvertisementSpec{ASPathPrepend: 2}, false, "says asPathPrepend 2 "},
		{
			"other peers",
			v1alpha1.BGPAdvertisementSpec{LocalPref: 200, Peers: []string{"tor-a"}},
			v1alpha1.BGPAdvertisementSpec{LocalPref: 50, Peers: []string{"tor-b"}},
			false, "",
		},
		{
			"other nodes",
			v1alpha1.BGPAdvertisementSpec{LocalPref: 200, NodeSelectors: selector("kubernetes.io/hostname", "worker")},
			v1alpha1.BGPAdvertisementSpec{LocalPref: 50, NodeSelectors: selector("kubernetes.io/hostname", "worker2")},
			false, "",
		},
		{"other length", v1alpha1.BGPAdvertisementSpec{LocalPref: 200, AggregationLength: &short}, v1alpha1.BGPAdvertisementSpec{LocalPref: 50}, false, ""},
		{"other length, Local", v1alpha1.BGPAdvertisementSpec{LocalPref: 200, AggregationLength: &short}, v1alpha1.BGPAdvertisementSpec{LocalPref: 50}, true, ""},
		{
			"both aggregate, Local",
			v1alpha1.BGPAdvertisementSpec{LocalPref: 200, AggregationLength: &short},
			v1alpha1.BGPAdvertisementSpec{LocalPref: 50, AggregationLength: &short},
			true, "for one to default/svc1; BGPAdvertisement a counts",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBGP(t)
				b.peers.Put(t, peer("tor-b", v1alpha1.BGPPeerSpec{}))
				b.bgpAds.Put(t, bgpAd("a", tc.first))
				b.bgpAds.Put(t, bgpAd("my-bgp", tc.second))
				wait(t, time.Second)
				b.wantBGPAd(t, reason.Valid, "in use")
				b.allocate(t, 1)
				if tc.local {
					r, _ := b.records.Find("default/svc1")
					r.Spec.ExternalTrafficPolicy = v1alpha1.TrafficPolicyLocal
					b.records.Put(t, r)
				}
				wait(t, time.Second)
				why := reason.Valid
				if tc.want != "" {
					why = reason.ConflictingAdvertisements
				}
				b.wantBGPAd(t, why, tc.want)
				b.records.Remove("default/svc1")
				wait(t, time.Second)
				b.wantBGPAd(t, reason.Valid, "in use")
			})
		})
	}
}

func (b *bed) wantBGPAd(t *testing.T, why reason.Reason, message string) {
	t.Helper()
	ad, _ := b.bgpAds.Find("my-bgp")
	c := meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Reason != why.String() || (c.Status == metav1.ConditionTrue) != (why == reason.Valid) || !strings.Contains(c.Message, message) {
		t.Errorf("Ready %+v, want %s %q", c, why, message)
	}
}
