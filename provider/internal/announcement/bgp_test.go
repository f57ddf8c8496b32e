// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func workerNodes() []string { return []string{"worker", "worker2", "worker3"} }

// startBGP is a bed whose pool is announced by BGP only, to one router; no session is begun.
func startBGP(t *testing.T) *bed {
	t.Helper()
	b := start(t)
	b.ads.Remove("my-l2")
	b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"my-ippool"}}))
	b.peers.Put(t, peer("tor-a", v1alpha1.BGPPeerSpec{PeerAddress: "10.0.0.1"}))
	wait(t, time.Second)
	b.drain()
	b.takeEvents()
	return b
}

func bgpAd(name string, spec v1alpha1.BGPAdvertisementSpec) *v1alpha1.BGPAdvertisement {
	return &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func peer(name string, spec v1alpha1.BGPPeerSpec) *v1alpha1.BGPPeer {
	spec.MyASN, spec.PeerASN = 65001, 65000
	return &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// session sets what nodes' agents say of their session with a peer.
func (b *bed) session(t *testing.T, peer string, state v1alpha1.BGPSessionState, why reason.Reason, nodes ...string) {
	t.Helper()
	for _, name := range nodes {
		b.agent(t, name, func(s *v1alpha1.NodeAgentStatus) {
			s.BGP = slices.DeleteFunc(s.BGP, func(e v1alpha1.BGPSessionStatus) bool { return e.Peer == peer })
			e := v1alpha1.BGPSessionStatus{Peer: peer, Address: "10.0.0.1", State: state, Reason: why.String()}
			if why != "" {
				e.Message = "the router said " + why.String() + "."
			}
			s.BGP = append(s.BGP, e)
		})
	}
}

func (b *bed) up(t *testing.T, peer string, nodes ...string) {
	t.Helper()
	b.session(t, peer, v1alpha1.BGPEstablished, "", nodes...)
}

func (b *bed) down(t *testing.T, peer string, nodes ...string) {
	t.Helper()
	b.session(t, peer, v1alpha1.BGPActive, reason.NotEstablished, nodes...)
}

// wantAnnounced checks the condition of record svc1, and that Ready says the same.
func (b *bed) wantAnnounced(t *testing.T, ok bool, why reason.Reason, message string) {
	t.Helper()
	for _, name := range []string{v1alpha1.ConditionAnnounced, v1alpha1.ConditionReady} {
		c := b.condition(t, 1, name)
		if (c.Status == metav1.ConditionTrue) != ok || c.Reason != why.String() || !strings.Contains(c.Message, message) {
			t.Errorf("%s is %s %s %q, want %t %s %q", name, c.Status, c.Reason, c.Message, ok, why, message)
		}
	}
}

func (b *bed) references(t *testing.T) []v1alpha1.AdvertisementReference {
	t.Helper()
	r, found := b.records.Find("default/svc1")
	if !found {
		t.Fatal("no record")
	}
	return r.Spec.Advertisements
}

// A Service that only BGP announces has no owner and no successors; its record and its
// events say who tells whom.
func TestAnnouncedByBGPOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.peers.Put(t, peer("tor-b", v1alpha1.BGPPeerSpec{PeerAddress: "10.0.0.2"}))
		b.up(t, "tor-a", "worker", "worker2", "control-plane")
		b.up(t, "tor-b", "worker2")
		wait(t, time.Second)
		p := b.allocate(t, 1)
		want := []v1alpha1.AdvertisementReference{{Kind: "BGPAdvertisement", Name: "my-bgp"}}
		if diff := cmp.Diff(want, p.Advertisements); diff != "" || len(p.Successors) > 0 {
			t.Errorf("proposal %+v (-want +got):\n%s", p, diff)
		}
		wait(t, time.Second)
		b.wantAnnounced(t, true, reason.Announced, "172.20.255.1 is announced by 2 nodes to 2 peers: tor-a, tor-b (BGP)")
		b.own(t, 1, "worker", 1) // of a layer 2 that is wanted no more
		wait(t, time.Second)
		if r, _ := b.records.Find("default/svc1"); r.Status.Owner != nil {
			t.Errorf("owner %+v", r.Status.Owner)
		}
		if got := b.successorsOf(t, 1); len(got) > 0 {
			t.Errorf("successors %v", got)
		}
		if diff := cmp.Diff([]string{"Normal Announcing announcing 172.20.255.1 from 2 nodes by BGP to 2 peers: tor-a, tor-b"}, b.takeEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		b.wantWrites(t, "apply default/svc1", 1)
		wait(t, time.Hour)
		b.wantNoWrite(t)
	})
}

// Why nobody is told, in words that say what to do.
func TestNotAnnouncedByBGP(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, b *bed)
		why    reason.Reason
		says   string
		event  bool
	}{
		{"no peer at all", func(_ *testing.T, b *bed) { b.peers.Remove("tor-a") }, reason.NoSession, "there is no BGPPeer; create one", true},
		{
			"no peer of the advertisement's names", func(t *testing.T, b *bed) {
				t.Helper()
				b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{Peers: []string{"gone"}}))
				b.up(t, "tor-a", workerNodes()...)
			}, reason.NoSession, "no BGPPeer has a name that its BGPAdvertisements list in spec.peers", true,
		},
		{"no session begun", func(*testing.T, *bed) {}, reason.NoSession, "has a session with the routers (BGPPeer tor-a); look at the peers' nodeSelectors", true},
		{
			"no session established", func(t *testing.T, b *bed) {
				t.Helper()
				b.down(t, "tor-a", "worker", "worker2")
				b.session(t, "tor-a", v1alpha1.BGPIdle, reason.WrongASN, "worker3")
			}, reason.NoSession,
			"nobody hears of 172.20.255.1: no session with the routers (BGPPeer tor-a) is established (2 sessions NotEstablished, 1 session WrongASN)", true,
		},
		{
			"only a node that may not", func(t *testing.T, b *bed) {
				t.Helper()
				b.up(t, "tor-a", "control-plane")
			}, reason.NoSession, "no node that may announce has a session", true,
		},
		{
			"another family only", func(t *testing.T, b *bed) {
				t.Helper()
				b.up(t, "tor-a", workerNodes()...)
				for _, n := range workerNodes() {
					b.agent(t, n, func(s *v1alpha1.NodeAgentStatus) { s.BGP[0].Address = "fd00::99" })
				}
			}, reason.NoSession, "no established session carries IPv4; set dualStackAddressFamily in the BGPPeer (tor-a)", true,
		},
		{
			"no node selected", func(t *testing.T, b *bed) {
				t.Helper()
				b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{NodeSelectors: selector("rack", "z")}))
				b.up(t, "tor-a", workerNodes()...)
			}, reason.NoEligibleNode, "no node may announce 172.20.255.1 (1 node NodeExcluded, 3 nodes NodeNotSelected)", true,
		},
		{
			"no agent runs", func(t *testing.T, b *bed) {
				t.Helper()
				b.up(t, "tor-a", workerNodes()...)
				for _, n := range workerNodes() {
					b.agent(t, n, readyBecause(metav1.ConditionFalse, reason.Leaving))
				}
			}, reason.WaitingForAgent, "no node agent is ready", false,
		},
		{
			"an advertisement that is not valid", func(t *testing.T, b *bed) {
				t.Helper()
				b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{Communities: []string{"banana"}}))
				b.up(t, "tor-a", workerNodes()...)
			}, reason.NoAdvertisement, "no valid L2Advertisement or BGPAdvertisement selects", true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBGP(t)
				tc.change(t, b)
				wait(t, time.Second)
				b.allocate(t, 1)
				wait(t, time.Second)
				b.wantAnnounced(t, false, tc.why, tc.says)
				events := b.takeEvents()
				if tc.event != (len(events) == 1) || tc.event && !strings.HasPrefix(events[0], "Warning "+tc.why.String()+" ") {
					t.Errorf("events %q, want one of %s: %t", events, tc.why, tc.event)
				}
				b.drain()
				wait(t, time.Hour)
				b.wantNoWrite(t)
			})
		})
	}
}

// Under the policy Local those nodes tell that serve.
func TestLocalByBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.up(t, "tor-a", "worker2", "worker3")
		b.allocate(t, 1) // with a pod on worker
		r, _ := b.records.Find("default/svc1")
		r.Spec.ExternalTrafficPolicy = v1alpha1.TrafficPolicyLocal
		b.records.Put(t, r)
		wait(t, time.Second)
		b.wantAnnounced(t, false, reason.NoSession, "no node that may announce has a session")
		b.slices.Put(t, endpointSlice("svc1", "worker3"))
		wait(t, time.Second)
		b.wantAnnounced(t, true, reason.Announced, "by node worker3 to peer tor-a (BGP)")
		b.slices.Put(t, endpointSlice("svc1", "control-plane"))
		wait(t, time.Second)
		b.wantAnnounced(t, false, reason.NoEligibleNode, "no node that may announce 172.20.255.1 runs a ready pod")
		b.slices.Put(t, endpointSlice("svc1", ""))
		wait(t, time.Second)
		b.wantAnnounced(t, false, reason.NoEndpoints, "no pod of the Service is ready")
	})
}

// What two Services that share an address limit holds for both.
func TestSharersByBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.peers.Put(t, peer("tor-b", v1alpha1.BGPPeerSpec{PeerAddress: "10.0.0.2"}))
		b.bgpAds.Put(t, bgpAd("other", v1alpha1.BGPAdvertisementSpec{
			Peers: []string{"tor-b"}, NodeSelectors: selector("kubernetes.io/hostname", "worker2"), ServiceSelectors: selector("app", "svc2"),
		}))
		b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{ServiceSelectors: selector("app", "svc1")}))
		for _, p := range []string{"tor-a", "tor-b"} {
			b.up(t, p, workerNodes()...)
		}
		b.allocate(t, 1)
		wait(t, time.Second)
		b.wantAnnounced(t, true, reason.Announced, "by 3 nodes to 2 peers")
		b.services.Put(t, svc(2))
		claim, _ := b.claims.Find(address(1).Claim)
		claim.Spec.Services = append(claim.Spec.Services, v1alpha1.ServiceReference{Namespace: "default", Name: "svc2", UID: svc(2).UID})
		b.records.Put(t, &v1alpha1.LoadBalancer{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc2"},
			Spec:       v1alpha1.LoadBalancerSpec{ServiceUID: svc(2).UID, Addresses: []v1alpha1.LoadBalancerAddress{address(1)}, ExternalTrafficPolicy: "Cluster"},
		})
		b.claims.Put(t, claim)
		wait(t, 2*wordsDelay)
		b.wantAnnounced(t, true, reason.Announced, "by node worker2 to peer tor-b (BGP)")
	})
}

// Layer 2 and BGP at once: one way is enough, and what the other lacks is said.
func TestLayer2AndBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "my-l2"}})
		b.up(t, "tor-a", workerNodes()...)
		wait(t, time.Second)
		p := b.allocate(t, 1)
		want := []v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "my-l2"}, {Kind: "BGPAdvertisement", Name: "my-bgp"}}
		if diff := cmp.Diff(want, p.Advertisements); diff != "" || len(p.Successors) != 3 {
			t.Errorf("proposal %+v (-want +got):\n%s", p, diff)
		}
		wait(t, time.Second)
		b.own(t, 1, "worker", 1)
		wait(t, time.Second)
		b.wantWrites(t, "apply default/svc1", 1) // the owner was waited for
		b.wantAnnounced(t, true, reason.Announced, "172.20.255.1 is announced by node worker (layer 2); 172.20.255.1 is announced by 3 nodes to peer tor-a (BGP)")
		if r, _ := b.records.Find("default/svc1"); ownerNode(r.Status.Owner) != "worker" {
			t.Errorf("owner %+v", r.Status.Owner)
		}
		b.wantEvents(t, `Normal Announcing announcing 172.20.255.1 from node "worker" by layer 2`, "Normal Announcing announcing 172.20.255.1 from 3 nodes by BGP to peer tor-a")
		b.down(t, "tor-a", workerNodes()...)
		wait(t, 2*wordsDelay)
		b.wantAnnounced(t, true, reason.Announced, "by node worker (layer 2), but not by BGP (NoSession): nobody hears of 172.20.255.1")
		b.wantEvents(t, "Warning NoSession nobody hears of 172.20.255.1: ")
		claim, _ := b.claims.Find(address(1).Claim)
		claim.Status.Owner = nil
		b.claims.Put(t, claim)
		wait(t, time.Second)
		b.wantAnnounced(t, false, reason.WaitingForAgent, "waiting for a node agent to take 172.20.255.1 over; by BGP: nobody hears")
		b.up(t, "tor-a", workerNodes()...)
		wait(t, time.Minute)
		b.wantAnnounced(t, true, reason.Announced, "(BGP), but not by layer 2 (WaitingForAgent): waiting")
	})
}

func (b *bed) wantEvents(t *testing.T, prefixes ...string) {
	t.Helper()
	got := b.takeEvents()
	if !slices.EqualFunc(got, prefixes, strings.HasPrefix) {
		t.Errorf("events %q, want %q", got, prefixes)
	}
}

// The annotation and the pool's default name advertisements of either kind; a name that
// both have means both.
func TestAdvertisementsByNameOfEitherKind(t *testing.T) {
	for asked, want := range map[string]string{
		"": "L2Advertisement both, L2Advertisement lan, BGPAdvertisement both, BGPAdvertisement wan", "both": "L2Advertisement both, BGPAdvertisement both",
		"wan": "BGPAdvertisement wan", "lan,wan": "L2Advertisement lan, BGPAdvertisement wan", "wan,gone": "BGPAdvertisement wan", "gone": "",
	} {
		for _, way := range []string{"annotation", "default"} {
			t.Run(way+" "+asked, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := startBGP(t)
					b.bgpAds.Remove("my-bgp")
					for _, name := range []string{"both", "lan"} {
						b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}})
					}
					for _, name := range []string{"both", "wan"} {
						b.bgpAds.Put(t, bgpAd(name, v1alpha1.BGPAdvertisementSpec{}))
					}
					if way == "default" && asked != "" {
						b.pools.Put(t, &v1alpha1.IPAddressPool{
							ObjectMeta: metav1.ObjectMeta{Name: "my-ippool"},
							Spec:       v1alpha1.IPAddressPoolSpec{Defaults: &v1alpha1.PoolDefaults{Advertisements: strings.Split(asked, ",")}},
						})
					}
					b.allocate(t, 1)
					if way == "annotation" {
						s := svc(1)
						s.Annotations = map[string]string{v1alpha1.AnnotationAdvertisements: asked}
						b.services.Put(t, s)
					}
					wait(t, time.Second)
					var got []string
					for _, ref := range b.references(t) {
						got = append(got, ref.Kind+" "+ref.Name)
					}
					if strings.Join(got, ", ") != want {
						t.Errorf("references %v, want %s", got, want)
					}
				})
			})
		}
	}
}

// An address of each of two pools is told as its own pool's advertisements want.
func TestAddressesOfTwoPoolsByBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.peers.Put(t, peer("tor-b", v1alpha1.BGPPeerSpec{PeerAddress: "10.0.0.2"}))
		b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"my-ippool"}, Peers: []string{"tor-a"}}))
		b.bgpAds.Put(t, bgpAd("other", v1alpha1.BGPAdvertisementSpec{IPAddressPools: []string{"b"}, Peers: []string{"tor-b"}}))
		b.bgpAds.Put(t, bgpAd("whole", v1alpha1.BGPAdvertisementSpec{NodeSelectors: selector("rack", "z")}))
		for _, p := range []string{"tor-a", "tor-b"} {
			b.up(t, p, "worker")
		}
		b.allocate(t, 1)
		second := v1alpha1.LoadBalancerAddress{Address: "172.20.255.7", Pool: "b", Claim: "172.20.255.7"}
		first, _ := b.claims.Find(address(1).Claim)
		first.Name, first.UID, first.Spec.Address = second.Claim, "", second.Address
		b.claims.Put(t, first)
		r, _ := b.records.Find("default/svc1")
		r.Spec.Addresses = append(r.Spec.Addresses, second)
		b.records.Put(t, r)
		wait(t, 2*wordsDelay)
		want := []v1alpha1.AdvertisementReference{
			{Kind: "BGPAdvertisement", Name: "my-bgp", Addresses: []string{"172.20.255.1"}},
			{Kind: "BGPAdvertisement", Name: "other", Addresses: []string{"172.20.255.7"}},
			{Kind: "BGPAdvertisement", Name: "whole"},
		}
		if diff := cmp.Diff(want, b.references(t)); diff != "" {
			t.Errorf("references (-want +got):\n%s", diff)
		}
		b.wantAnnounced(t, true, reason.Announced,
			"172.20.255.1 is announced by node worker to peer tor-a, 172.20.255.7 is announced by node worker to peer tor-b (BGP)")
		b.bgpAds.Remove("whole")
		b.bgpAds.Remove("other")
		wait(t, 2*wordsDelay)
		b.wantAnnounced(t, false, reason.NoAdvertisement, `selects pool "b" and this Service: create or correct one; 172.20.255.1 is announced by`)
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "my-l2"}})
		b.own(t, 1, "worker", 1)
		first, _ = b.claims.Find(second.Claim)
		first.Status.Owner = &v1alpha1.Owner{Node: "worker", Epoch: 1}
		b.claims.Put(t, first)
		wait(t, 2*wordsDelay)
		b.wantAnnounced(t, true, reason.Announced, "172.20.255.1, 172.20.255.7 are announced by node worker (layer 2); 172.20.255.1 is announced by node worker to peer tor-a (BGP)")
	})
}

// A session that is back within seconds is nobody's news; one that stays away is, once;
// one that comes and goes all the time is told of ever more seldom.
func TestFlappingSessionIsToldCalmly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.up(t, "tor-a", workerNodes()...)
		b.allocate(t, 1)
		wait(t, 5*time.Second)
		b.drain()
		b.takeEvents()

		b.down(t, "tor-a", workerNodes()...)
		wait(t, fallGrace/2)
		b.up(t, "tor-a", workerNodes()...)
		wait(t, time.Minute)
		b.wantNoWrite(t)

		b.down(t, "tor-a", workerNodes()...)
		wait(t, 2*fallGrace)
		b.wantAnnounced(t, false, reason.NoSession, "3 sessions NotEstablished")
		b.wantWrites(t, "apply default/svc1", 1)
		b.wantEvents(t, "Warning NoSession")
		b.up(t, "tor-a", workerNodes()...)
		wait(t, time.Second)
		b.wantAnnounced(t, true, reason.Announced, "3 nodes")
		b.drain()
		b.takeEvents()

		for range 60 { // for half an hour
			b.down(t, "tor-a", workerNodes()...)
			wait(t, fallGrace+5*time.Second)
			b.up(t, "tor-a", workerNodes()...)
			wait(t, fallGrace+5*time.Second)
		}
		if log := b.drain(); len(log) > 24 {
			t.Errorf("%d writes for 60 falls: %v", len(log), log)
		}
		if events := b.takeEvents(); len(events) > 10 {
			t.Errorf("%d events for 60 falls: %v", len(events), events)
		}
		wait(t, lastHold+time.Minute)
		b.wantAnnounced(t, true, reason.Announced, "3 nodes")
	})
}

// What differs in numbers only is written once a minute.
func TestNumbersAreWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.up(t, "tor-a", "worker")
		b.allocate(t, 1)
		wait(t, 5*time.Second)
		b.drain()
		for i := range 9 {
			b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{}))
			b.up(t, "tor-a", workerNodes()[i%3])
			wait(t, 5*time.Second)
		}
		b.wantWrites(t, "apply default/svc1", 0)
		wait(t, wordsDelay)
		b.wantAnnounced(t, true, reason.Announced, "by 3 nodes to peer tor-a")
		b.wantWrites(t, "apply default/svc1", 1)
	})
}

// An API server without the kinds of BGP says nothing about which advertisements there are.
func TestReferencesStayWhereBGPCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.allocate(t, 1)
		wait(t, time.Second)
		before := b.references(t)
		b.blind.Store(true)
		b.bgpAds.Remove("my-bgp")
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "my-l2"}})
		wait(t, time.Second)
		if diff := cmp.Diff(append([]v1alpha1.AdvertisementReference{{Kind: "L2Advertisement", Name: "my-l2"}}, before...), b.references(t)); diff != "" {
			t.Errorf("blind (-want +got):\n%s", diff)
		}
		b.blind.Store(false)
		b.ads.Remove("my-l2")
		wait(t, time.Second)
		if got := b.references(t); len(got) > 0 {
			t.Errorf("with eyes open %v", got)
		}
	})
}

// What becomes of ipMode does not depend on how an address is announced.
func TestForwardedByBGPAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.up(t, "tor-a", workerNodes()...)
		b.allocate(t, 1)
		r, _ := b.records.Find("default/svc1")
		r.Spec.Forwarding = v1alpha1.ForwardingIPVS
		b.records.Put(t, r)
		for _, name := range agents() {
			b.agent(t, name, programmed())
		}
		wait(t, time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionForwarded); c.Status != metav1.ConditionTrue {
			t.Errorf("Forwarded %+v", c)
		}
	})
}
