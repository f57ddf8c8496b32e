// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// ownNamespace is where Fairlead reads passwords.
	ownNamespace = "fairlead-system"
	bgpPort      = 179
	kindPeer     = "BGPPeer"
	// hostBits4 and hostBits6 are the lengths of routes to one address.
	hostBits4 = 32
	hostBits6 = 128
)

// bgpKinds are the kinds that configure BGP.
func bgpKinds(o Options) []*kind {
	return []*kind{peerKind(o), bgpAdvertisementKind(o), profileKind(o), communityKind(o)}
}

func peerKind(o Options) *kind {
	return &kind{
		name: kindPeer, invalid: reason.InvalidPeer,
		source: newSource("bgppeers", probeInterval, "v1beta2", "v1beta1"),
		target: &typedTarget[*v1alpha1.BGPPeer, v1alpha1.BGPPeerSpec]{
			client: o.Peers, cache: o.PeerInformer,
			fields: []string{
				"myASN", "localASN", "peerASN", "dynamicASN", "peerAddress", "interface", "sourceAddress", "peerPort",
				"holdTime", "keepaliveTime", "connectTime", "routerID", "nodeSelectors", "password", "passwordSecret",
				"bfdProfile", "enableGracefulRestart", "ebgpMultiHop", "vrf", "disableMP", "dualStackAddressFamily",
			},
			make:      func() *v1alpha1.BGPPeer { return &v1alpha1.BGPPeer{} },
			spec:      func(p *v1alpha1.BGPPeer) *v1alpha1.BGPPeerSpec { return &p.Spec },
			normalise: func(s *v1alpha1.BGPPeerSpec) string { return normalisePeer(s, o.Namespace) },
		},
	}
}

func bgpAdvertisementKind(o Options) *kind {
	return &kind{
		name: v1alpha1.KindBGPAdvertisement, invalid: reason.InvalidSelector,
		source: newSource("bgpadvertisements", probeInterval, "v1beta1"),
		target: &typedTarget[*v1alpha1.BGPAdvertisement, v1alpha1.BGPAdvertisementSpec]{
			client: o.BGPAdvertisements, cache: o.BGPAdvertisementInformer,
			fields: []string{
				"aggregationLength", "aggregationLengthV6", "localPref", "communities", "ipAddressPools", "ipAddressPoolSelectors",
				"nodeSelectors", "peers", "serviceSelectors",
			},
			make:      func() *v1alpha1.BGPAdvertisement { return &v1alpha1.BGPAdvertisement{} },
			spec:      func(a *v1alpha1.BGPAdvertisement) *v1alpha1.BGPAdvertisementSpec { return &a.Spec },
			normalise: normaliseBGPAdvertisement,
		},
	}
}

func profileKind(o Options) *kind {
	return &kind{
		name: "BFDProfile", invalid: reason.InvalidPeer,
		source: newSource("bfdprofiles", probeInterval, "v1beta1"),
		target: &typedTarget[*v1alpha1.BFDProfile, v1alpha1.BFDProfileSpec]{
			client: o.Profiles, cache: o.ProfileInformer,
			fields:    []string{"receiveInterval", "transmitInterval", "detectMultiplier", "echoInterval", "echoMode", "passiveMode", "minimumTtl"},
			make:      func() *v1alpha1.BFDProfile { return &v1alpha1.BFDProfile{} },
			spec:      func(p *v1alpha1.BFDProfile) *v1alpha1.BFDProfileSpec { return &p.Spec },
			normalise: func(*v1alpha1.BFDProfileSpec) string { return "" },
		},
	}
}

func communityKind(o Options) *kind {
	return &kind{
		name: "Community", invalid: reason.UnknownCommunity,
		source: newSource("communities", probeInterval, "v1beta1"),
		target: &typedTarget[*v1alpha1.Community, v1alpha1.CommunitySpec]{
			client: o.Communities, cache: o.CommunityInformer,
			fields:    []string{"communities"},
			make:      func() *v1alpha1.Community { return &v1alpha1.Community{} },
			spec:      func(c *v1alpha1.Community) *v1alpha1.CommunitySpec { return &c.Spec },
			normalise: func(*v1alpha1.CommunitySpec) string { return "" },
		},
	}
}

// normalisePeer also says where the password is read: the agents, which need it, may read
// Secrets of their own namespace only, and the controller, which could copy one, none at all.
func normalisePeer(s *v1alpha1.BGPPeerSpec, namespace string) string {
	if s.PeerPort == 0 {
		s.PeerPort = bgpPort
	}
	if s.PasswordSecret == nil {
		return ""
	}
	name := s.PasswordSecret.Name
	if name == "" {
		s.PasswordSecret = nil // as MetalLB's own clients write "none"
		return ""
	}
	if s.PasswordSecret.Namespace != "" {
		namespace = s.PasswordSecret.Namespace
		s.PasswordSecret.Namespace = ""
	}
	return fmt.Sprintf("passwordSecret: the password is read from the Secret %[1]s/%[2]s; copy %[3]s/%[2]s there unless that is done: "+
		"see docs/reference/metallb-compatibility.md", ownNamespace, name, namespace)
}

func normaliseBGPAdvertisement(s *v1alpha1.BGPAdvertisementSpec) string {
	if s.AggregationLength == nil {
		n := int32(hostBits4)
		s.AggregationLength = &n
	}
	if s.AggregationLengthV6 == nil {
		n := int32(hostBits6)
		s.AggregationLengthV6 = &n
	}
	s.Communities = unique(s.Communities)
	s.IPAddressPools = unique(s.IPAddressPools)
	s.Peers = unique(s.Peers)
	return ""
}
