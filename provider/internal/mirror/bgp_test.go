// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
)

// peer is a BGPPeer with some fields in addition.
func peer(name string, fields map[string]any) *unstructured.Unstructured {
	spec := map[string]any{"myASN": int64(64512), "peerASN": int64(64513), "peerAddress": "10.0.0.1"}
	maps.Copy(spec, fields)
	u := object("BGPPeer", namespace, name, nil, spec)
	u.SetAPIVersion("metallb.io/v1beta2")
	return u
}

func (b *bed) createPeer(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	peers := b.dynamic.Resource(gvr("bgppeers").GroupResource().WithVersion("v1beta2")).Namespace(u.GetNamespace())
	if _, err := peers.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Every field of what configures BGP arrives.
func TestMirrorsBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		sel := []any{map[string]any{"matchLabels": map[string]any{"a": "b"}}}
		want := []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}
		b.createPeer(t, peer("all", map[string]any{
			"localASN": int64(64999), "sourceAddress": "10.0.0.2", "peerPort": int64(1790), "holdTime": "9s", "keepaliveTime": "3s", "connectTime": "5s",
			"routerID": "1.2.3.4", "nodeSelectors": sel, "password": "p", "bfdProfile": "b", "enableGracefulRestart": true, "ebgpMultiHop": true,
			"vrf": "red", "disableMP": true, "dualStackAddressFamily": true,
		}))
		b.createPeer(t, object2(peer("unnumbered", nil), "peerASN", "peerAddress", map[string]any{"interface": "eth0", "dynamicASN": "external", "passwordSecret": map[string]any{}}))
		b.create(t, "bgpadvertisements", object("BGPAdvertisement", namespace, "all", nil, map[string]any{
			"aggregationLength": int64(24), "aggregationLengthV6": int64(64), "localPref": int64(100), "communities": []any{"65000:1", "65000:1", "x"},
			"ipAddressPools": []any{"p", "p"}, "ipAddressPoolSelectors": sel, "nodeSelectors": sel, "peers": []any{"r", "r"}, "serviceSelectors": sel,
		}))
		b.create(t, "bgpadvertisements", object("BGPAdvertisement", namespace, "plain", nil, nil))
		b.create(t, "bfdprofiles", object("BFDProfile", namespace, "b", nil, map[string]any{
			"receiveInterval": int64(50), "transmitInterval": int64(60), "detectMultiplier": int64(4), "echoInterval": int64(70), "echoMode": true, "passiveMode": true, "minimumTtl": int64(250),
		}))
		b.create(t, "communities", object("Community", namespace, "c", nil, map[string]any{"communities": []any{map[string]any{"name": "x", "value": "65000:2"}}}))
		wait(t, time.Second)

		seconds := func(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Second} }
		for name, spec := range map[string]v1alpha1.BGPPeerSpec{
			"all": {
				MyASN: 64512, PeerASN: 64513, PeerAddress: "10.0.0.1", LocalASN: 64999, SourceAddress: "10.0.0.2", PeerPort: 1790,
				HoldTime: seconds(9), KeepaliveTime: seconds(3), ConnectTime: seconds(5), RouterID: "1.2.3.4", NodeSelectors: want, Password: "p", BFDProfile: "b",
				EnableGracefulRestart: true, EBGPMultiHop: true, VRF: "red", DisableMP: true, DualStackAddressFamily: true,
			},
			"unnumbered": {MyASN: 64512, DynamicASN: "external", Interface: "eth0", PeerPort: 179},
		} {
			p, found := b.peers.Find(name)
			if diff := cmp.Diff(spec, p.Spec); !found || diff != "" {
				t.Errorf("peer %s, found %t (-want +got):\n%s", name, found, diff)
			}
		}
		for name, spec := range map[string]v1alpha1.BGPAdvertisementSpec{
			"all": {
				AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(64)), LocalPref: 100, Communities: []string{"65000:1", "x"},
				IPAddressPools: []string{"p"}, IPAddressPoolSelectors: want, NodeSelectors: want, Peers: []string{"r"}, ServiceSelectors: want,
			},
			"plain": {AggregationLength: new(int32(32)), AggregationLengthV6: new(int32(128))},
		} {
			a, found := b.bgp.Find(name)
			if diff := cmp.Diff(spec, a.Spec); !found || diff != "" {
				t.Errorf("advertisement %s, found %t (-want +got):\n%s", name, found, diff)
			}
		}
		p, _ := b.profiles.Find("b")
		if diff := cmp.Diff(v1alpha1.BFDProfileSpec{
			ReceiveInterval: new(int32(50)), TransmitInterval: new(int32(60)), DetectMultiplier: new(int32(4)), EchoInterval: new(int32(70)),
			EchoMode: new(true), PassiveMode: new(true), MinimumTTL: new(int32(250)),
		}, p.Spec); diff != "" {
			t.Errorf("profile (-want +got):\n%s", diff)
		}
		c, _ := b.communities.Find("c")
		if diff := cmp.Diff([]v1alpha1.CommunityAlias{{Name: "x", Value: "65000:2"}}, c.Spec.Communities); diff != "" {
			t.Errorf("community (-want +got):\n%s", diff)
		}
		if got := b.takeEvents(); len(got) != 0 {
			t.Errorf("events %v, want none", got)
		}
		// A copy that is what it should be is written once.
		b.peers.Log()
		b.bgp.Log()
		wait(t, time.Hour)
		if log := append(b.peers.Log(), b.bgp.Log()...); len(log) > 0 {
			t.Errorf("writes %v without a change", log)
		}
		b.delete(t, "communities", namespace, "c")
		wait(t, time.Second)
		if _, found := b.communities.Find("c"); found {
			t.Error("the copy stays without its source")
		}
	})
}

// object2 takes two fields out of a spec and adds others.
func object2(u *unstructured.Unstructured, without1, without2 string, with map[string]any) *unstructured.Unstructured {
	unstructured.RemoveNestedField(u.Object, "spec", without1)
	unstructured.RemoveNestedField(u.Object, "spec", without2)
	for k, v := range with {
		if err := unstructured.SetNestedField(u.Object, v, "spec", k); err != nil {
			return nil
		}
	}
	return u
}

// A password's Secret is looked for in Fairlead's own namespace, and its owner is told.
func TestPasswordsAreReadElsewhere(t *testing.T) {
	for name, secret := range map[string]map[string]any{
		"in MetalLB's namespace": {"name": "s", "namespace": namespace}, "without namespace": {"name": "s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(*bed) {})
				b.createPeer(t, peer("r", map[string]any{"passwordSecret": secret}))
				wait(t, time.Hour)
				p, found := b.peers.Find("r")
				if diff := cmp.Diff(&corev1.SecretReference{Name: "s"}, p.Spec.PasswordSecret); !found || diff != "" {
					t.Errorf("found %t (-want +got):\n%s", found, diff)
				}
				events := b.takeEvents()
				if len(events) != 1 || !strings.HasPrefix(events[0], "Normal NoPassword ") || !strings.Contains(events[0], "Secret fairlead-system/s; copy "+namespace+"/s there") {
					t.Errorf("events %q, want one that says where the password is read", events)
				}
			})
		})
	}
}

// MetalLB before 0.13.2 has version v1beta1 of the kind only.
func TestMirrorsOldPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) {
			b.dynamic.PrependReactor("list", "bgppeers", func(a clienttesting.Action) (bool, runtime.Object, error) {
				return a.GetResource().Version == "v1beta2", nil, apierrors.NewNotFound(schema.GroupResource{Group: "metallb.io"}, "")
			})
		})
		b.create(t, "bgppeers", object("BGPPeer", namespace, "old", nil, map[string]any{
			"myASN": int64(64512), "peerASN": int64(64513), "peerAddress": "10.0.0.1", "holdTime": "30s", "routerID": "1.2.3.4", "ebgpMultiHop": true,
			"nodeSelectors": []any{map[string]any{"matchExpressions": []any{map[string]any{"key": "rack", "operator": "In", "values": []any{"a"}}}}},
		}))
		wait(t, time.Second)
		p, found := b.peers.Find("old")
		if diff := cmp.Diff(v1alpha1.BGPPeerSpec{
			MyASN: 64512, PeerASN: 64513, PeerAddress: "10.0.0.1", PeerPort: 179, HoldTime: &metav1.Duration{Duration: 30 * time.Second}, RouterID: "1.2.3.4", EBGPMultiHop: true,
			NodeSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "In", Values: []string{"a"}}}}},
		}, p.Spec); !found || diff != "" {
			t.Errorf("found %t (-want +got):\n%s", found, diff)
		}
	})
}

// A field of our own kind is none of MetalLB's; a value that fits nowhere is refused.
func TestBGPRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		fields map[string]any
		event  string
		found  bool
	}{
		"a field that only Fairlead's kind has": {map[string]any{"ttlSecurityHops": int64(1)}, "Warning FieldNotSupported used without spec.ttlSecurityHops", true},
		"no duration":                           {map[string]any{"holdTime": "soon"}, "Warning InvalidPeer not used", false},
		"no number":                             {map[string]any{"myASN": "x"}, "Warning InvalidPeer not used", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(*bed) {})
				b.createPeer(t, peer("r", tc.fields))
				wait(t, time.Hour)
				events := b.takeEvents()
				if len(events) != 1 || !strings.HasPrefix(events[0], tc.event) {
					t.Errorf("events %q, want %q", events, tc.event)
				}
				if p, found := b.peers.Find("r"); found != tc.found || found && p.Spec.TTLSecurityHops != 0 {
					t.Errorf("found %t, %+v", found, p)
				}
			})
		})
	}
}

// An API server that lacks one of Fairlead's kinds keeps the others going.
func TestMirrorsWithoutBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) { b.noPeers = true })
		b.createPeer(t, peer("r", nil))
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, time.Hour)
		if _, found := b.pools.Find("p"); !found {
			t.Error("the pool is not mirrored")
		}
		if _, found := b.peers.Find("r"); found {
			t.Error("a peer was written although nobody knows which there are")
		}
	})
}
