// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// peerInput is a plain peer of a node with two addresses.
func peerInput() convert.PeerInput {
	return convert.PeerInput{
		Peer: &v1alpha1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: "r"},
			Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "10.0.0.254"},
		},
		Node: loadbalancer.Node{
			Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.1")},
			InternalIPs: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.1")},
		},
		Labels: map[string]string{"rack": "a", "asn": " 65001 "}, Annotations: map[string]string{"bgp.example.com/router": "10.0.0.253", "fairlead.dev/asn": "1.10", "example.com/asn": "65002"},
		Interfaces: []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}},
	}
}

func plainSession() loadbalancer.BGPSession {
	return loadbalancer.BGPSession{
		Peer: "r", MyASN: 64512, PeerASN: 64513, Addr: netip.MustParseAddr("10.0.0.254"), Port: 179,
		Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: 10 * time.Second, IdleHold: time.Second,
		RouterID: netip.MustParseAddr("10.0.0.1"), IPv4: true,
	}
}

func seconds(n int64) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Second}
}

func TestBGPSession(t *testing.T) {
	t.Parallel()
	type spec = v1alpha1.BGPPeerSpec
	for _, tt := range []struct {
		name string
		spec func(*spec)
		want func(*loadbalancer.BGPSession)
	}{
		{name: "plain"},
		{
			name: "everything",
			spec: func(s *spec) {
				s.LocalASN, s.SourceAddress, s.PeerPort, s.HoldTime, s.KeepaliveTime = 64999, "10.0.0.1", 1790, seconds(9), seconds(2)
				s.ConnectTime, s.IdleHoldTime, s.RouterID, s.Password = seconds(3), seconds(4), "1.2.3.4", "secret"
				s.EnableGracefulRestart, s.EBGPMultiHop, s.DisableMP, s.DualStackAddressFamily = true, true, true, true
			},
			want: func(s *loadbalancer.BGPSession) {
				s.LocalASN, s.Source, s.Port, s.Hold, s.Keepalive = 64999, netip.MustParseAddr("10.0.0.1"), 1790, 9*time.Second, 2*time.Second
				s.Connect, s.IdleHold, s.RouterID, s.Password = 3*time.Second, 4*time.Second, netip.MustParseAddr("1.2.3.4"), "secret"
				s.GracefulRestart, s.MultiHop, s.IPv6 = true, true, true
			},
		},
		{
			name: "IPv6", spec: func(s *spec) { s.PeerAddress = "2001:db8::fe" },
			want: func(s *loadbalancer.BGPSession) {
				s.Addr, s.IPv4, s.IPv6 = netip.MustParseAddr("2001:db8::fe"), false, true
			},
		},
		{
			name: "link-local", spec: func(s *spec) { s.PeerAddress = "fe80::1%eth0" },
			want: func(s *loadbalancer.BGPSession) {
				s.Addr, s.IPv4, s.IPv6 = netip.MustParseAddr("fe80::1%eth0"), false, true
			},
		},
		{
			name: "unnumbered", spec: func(s *spec) { s.PeerAddress, s.Interface = "", "eth0" },
			want: func(s *loadbalancer.BGPSession) { s.Addr, s.Interface, s.IPv6 = netip.Addr{}, "eth0", true },
		},
		{
			name: "from label and annotation", spec: func(s *spec) {
				s.PeerASN, s.PeerASNFrom = 0, &v1alpha1.NodeValue{Label: "asn"}
				s.MyASN, s.MyASNFrom = 0, &v1alpha1.NodeValue{Annotation: "fairlead.dev/asn"}
				s.PeerAddress, s.PeerAddressFrom = "", &v1alpha1.NodeValue{Annotation: "bgp.example.com/router"}
			},
			want: func(s *loadbalancer.BGPSession) {
				s.PeerASN, s.MyASN, s.Addr = 65001, 65546, netip.MustParseAddr("10.0.0.253")
			},
		},
		{
			name: "internal", spec: func(s *spec) { s.PeerASN, s.DynamicASN = 0, "internal" },
			want: func(s *loadbalancer.BGPSession) { s.PeerASN, s.Dynamic = 0, loadbalancer.InternalASN },
		},
		{
			name: "external", spec: func(s *spec) { s.PeerASN, s.DynamicASN = 0, "external" },
			want: func(s *loadbalancer.BGPSession) { s.PeerASN, s.Dynamic = 0, loadbalancer.ExternalASN },
		},
		{name: "a local AS number that is ours", spec: func(s *spec) { s.LocalASN = 64512 }},
		{
			name: "no hold time", spec: func(s *spec) { s.HoldTime = seconds(0) },
			want: func(s *loadbalancer.BGPSession) { s.Hold, s.Keepalive = 0, 0 },
		},
		{
			name: "a third of the hold time, in whole seconds", spec: func(s *spec) { s.HoldTime = seconds(4) },
			want: func(s *loadbalancer.BGPSession) { s.Hold, s.Keepalive = 4*time.Second, time.Second },
		},
		{
			name: "passive", spec: func(s *spec) { s.Passive, s.PeerPort = true, 179 },
			want: func(s *loadbalancer.BGPSession) { s.Passive = true },
		},
		{
			name: "within two hops", spec: func(s *spec) { s.TTLSecurityHops = 2 },
			want: func(s *loadbalancer.BGPSession) { s.TTLSecurity = 2 },
		},
		{name: "selected by one of two", spec: func(s *spec) {
			s.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "b"}}, {MatchLabels: map[string]string{"rack": "a"}}}
		}},
		{
			name: "a Secret", spec: func(s *spec) { s.PasswordSecret = &corev1.SecretReference{Name: "s"} },
			want: func(s *loadbalancer.BGPSession) { s.Password = "of the Secret" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, want := peerInput(), plainSession()
			in.Password = "of the Secret"
			if tt.spec != nil {
				tt.spec(&in.Peer.Spec)
			}
			if tt.want != nil {
				tt.want(&want)
			}
			got, selected, faults, usable := convert.BGPSession(in)
			if !selected || !usable || len(faults) > 0 {
				t.Errorf("selected %t, usable %t, faults %+v", selected, usable, faults)
			}
			if diff := cmp.Diff(want, got, values()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBGPSessionFaults(t *testing.T) {
	t.Parallel()
	type spec = v1alpha1.BGPPeerSpec
	from := func(label string) *v1alpha1.NodeValue { return &v1alpha1.NodeValue{Label: label} }
	for _, tt := range []struct {
		name   string
		change func(*spec)
		faults []string
	}{
		{"a selector that is none", func(s *spec) {
			s.NodeSelectors = []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}
		}, []string{"InvalidSelector nodeSelectors[0]"}},
		{"no AS numbers", func(s *spec) { s.MyASN, s.PeerASN = 0, 0 }, []string{"InvalidPeer myASN: 0", "InvalidPeer peerASN: 0"}},
		{"the AS number that stands for others", func(s *spec) { s.PeerASN = 23456 }, []string{"InvalidPeer peerASN: 23456"}},
		{"a label that the node lacks", func(s *spec) { s.MyASNFrom = from("row") }, []string{`InvalidPeer myASNFrom: node n1 has no label "row"`}},
		{"a label that is no number", func(s *spec) { s.PeerASNFrom = from("rack") }, []string{`InvalidPeer peerASNFrom: node n1: "a" is no AS number`}},
		{"an annotation that is not read", func(s *spec) { s.PeerASNFrom = &v1alpha1.NodeValue{Annotation: "example.com/asn"} }, []string{"InvalidPeer peerASNFrom: annotation"}},
		{"a label that is no address", func(s *spec) { s.PeerAddressFrom = from("rack") }, []string{`InvalidPeer peerAddressFrom: "a" is not an IP address`}},
		{"another dynamic AS number", func(s *spec) { s.DynamicASN = "any" }, []string{"InvalidPeer dynamicASN"}},
		{"no address", func(s *spec) { s.PeerAddress = "" }, []string{"InvalidPeer one of peerAddress"}},
		{"passive by interface", func(s *spec) { s.Passive, s.PeerAddress, s.Interface = true, "", "eth0" }, []string{"InvalidPeer passive needs the peer's address"}},
		{"passive with a port", func(s *spec) { s.Passive, s.PeerPort = true, 1790 }, []string{"InvalidPeer passive and peerPort"}},
		{"passive with a time between attempts", func(s *spec) { s.Passive, s.ConnectTime = true, seconds(10) }, []string{"InvalidPeer passive and connectTime"}},
		{"interface and source", func(s *spec) { s.PeerAddress, s.Interface, s.SourceAddress = "", "eth0", "10.0.0.1" }, []string{"InvalidPeer sourceAddress and interface"}},
		{"interface and several hops", func(s *spec) { s.PeerAddress, s.Interface, s.EBGPMultiHop = "", "eth0", true }, []string{"InvalidPeer ebgpMultiHop and interface"}},
		{"interface and two hops", func(s *spec) { s.PeerAddress, s.Interface, s.TTLSecurityHops = "", "eth0", 2 }, []string{"InvalidPeer ttlSecurityHops: 2 and interface"}},
		{"address and interface", func(s *spec) { s.Interface = "eth0" }, []string{"InvalidPeer peerAddress and interface"}},
		{"a name", func(s *spec) { s.PeerAddress = "router" }, []string{`InvalidPeer peerAddress: "router"`}},
		{"mapped", func(s *spec) { s.PeerAddress = "::ffff:10.0.0.254" }, []string{"InvalidPeer peerAddress"}},
		{"multicast", func(s *spec) { s.PeerAddress = "224.0.0.1" }, []string{"InvalidPeer peerAddress: 224.0.0.1 is no router's"}},
		{"link-local without a link", func(s *spec) { s.PeerAddress = "fe80::1" }, []string{"InvalidPeer peerAddress: fe80::1 is link-local"}},
		{"a link where none belongs", func(s *spec) { s.PeerAddress = "2001:db8::1%eth0" }, []string{"InvalidPeer peerAddress: 2001:db8::1%eth0 is not link-local"}},
		{"source of the other family", func(s *spec) { s.SourceAddress = "2001:db8::1" }, []string{"InvalidPeer sourceAddress: 2001:db8::1 and the peer 10.0.0.254"}},
		{"source that is no address", func(s *spec) { s.SourceAddress = "eth0" }, []string{"InvalidPeer sourceAddress"}},
		{"hold time of 2 s", func(s *spec) { s.HoldTime = seconds(2) }, []string{"InvalidPeer holdTime: 2s"}},
		{"hold time in halves", func(s *spec) { s.HoldTime = &metav1.Duration{Duration: 3500 * time.Millisecond} }, []string{"InvalidPeer holdTime: 3.5s"}},
		{"keepalive above the hold time", func(s *spec) { s.KeepaliveTime = seconds(91) }, []string{"InvalidPeer keepaliveTime: 1m31s"}},
		{"keepalive below a second", func(s *spec) { s.KeepaliveTime = &metav1.Duration{Duration: time.Millisecond} }, []string{"InvalidPeer keepaliveTime: 1ms"}},
		{"keepalive without hold time", func(s *spec) { s.HoldTime, s.KeepaliveTime = seconds(0), seconds(1) }, []string{"InvalidPeer keepaliveTime: 1s goes with no"}},
		{"negative times", func(s *spec) { s.ConnectTime, s.IdleHoldTime = seconds(-1), seconds(0) }, []string{"InvalidPeer connectTime: -1s", "InvalidPeer idleHoldTime: 0s"}},
		{"router ID 0", func(s *spec) { s.RouterID = "0.0.0.0" }, []string{"InvalidPeer routerID"}},
		{"router ID of IPv6", func(s *spec) { s.RouterID = "2001:db8::1" }, []string{"InvalidPeer routerID"}},
		{"both passwords", func(s *spec) { s.Password, s.PasswordSecret = "p", &corev1.SecretReference{Name: "s"} }, []string{"InvalidPeer password and passwordSecret"}},
		{"no Secret", func(s *spec) { s.PasswordSecret = &corev1.SecretReference{Name: "gone"} }, []string{"NoPassword passwordSecret gone: injected"}},
		{"password too long", func(s *spec) { s.Password = strings.Repeat("p", 81) }, []string{"NoPassword the password is longer than 80"}},
		{"hops both ways", func(s *spec) { s.TTLSecurityHops, s.EBGPMultiHop = 1, true }, []string{"InvalidPeer ttlSecurityHops and ebgpMultiHop"}},
		{"VRF", func(s *spec) { s.VRF = "red" }, []string{`VRFNotSupported vrf "red"`}},
		{"no profile", func(s *spec) { s.BFDProfile = "gone" }, []string{`UnknownProfile there is no BFDProfile "gone"`}},
		{"several at once", func(s *spec) { s.VRF, s.BFDProfile, s.PeerAddress = "red", "gone", "router" }, []string{"InvalidPeer peerAddress", "UnknownProfile there", "VRFNotSupported vrf"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := peerInput()
			in.PasswordErr = errors.New("injected")
			tt.change(&in.Peer.Spec)
			_, _, faults, usable := convert.BGPSession(in)
			if usable {
				t.Error("the peer is used all the same")
			}
			wantFaults(t, tt.faults, faults)
			if slices.ContainsFunc(faults, func(f loadbalancer.BGPFault) bool { return f.Peer != "r" }) {
				t.Errorf("faults %+v do not name the peer", faults)
			}
		})
	}
	in := peerInput()
	in.Peer.Spec.PasswordSecret = &corev1.SecretReference{Name: "empty"}
	if _, _, faults, usable := convert.BGPSession(in); usable {
		t.Error("used without a password")
	} else {
		wantFaults(t, []string{"NoPassword passwordSecret empty: it is empty"}, faults)
	}
}

// Other nodes have nothing to do with a session, and nothing to say of it.
func TestBGPSessionElsewhere(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.BGPPeerSpec){
		"by selector": func(s *v1alpha1.BGPPeerSpec) {
			s.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "b"}}}
		},
		"by source address": func(s *v1alpha1.BGPPeerSpec) { s.SourceAddress = "10.0.0.2" },
	} {
		in := peerInput()
		in.Peer.Spec.BFDProfile = "gone"
		change(&in.Peer.Spec)
		if _, selected, faults, usable := convert.BGPSession(in); selected || usable || len(faults) > 0 {
			t.Errorf("%s: selected %t, usable %t, faults %+v", name, selected, usable, faults)
		}
	}
	in := peerInput()
	in.Peer.Spec.SourceAddress, in.Interfaces = "10.0.0.2", nil
	if _, selected, _, usable := convert.BGPSession(in); !selected || !usable {
		t.Error("a source address is refused although the node's are not known")
	}
}

// A node without an IPv4 address has a router ID all the same, always the same and its own.
func TestBGPRouterIDs(t *testing.T) {
	t.Parallel()
	id := func(name string, addrs ...string) netip.Addr {
		in := peerInput()
		in.Node = loadbalancer.Node{Name: loadbalancer.NodeName(name)}
		for _, a := range addrs {
			in.Node.Addrs = append(in.Node.Addrs, netip.MustParseAddr(a))
		}
		s, _, _, _ := convert.BGPSession(in)
		return s.RouterID
	}
	a, b := id("a", "2001:db8::1"), id("b")
	if !a.Is4() || a.IsUnspecified() || a == b || a != id("a") {
		t.Errorf("router IDs %s and %s", a, b)
	}
	if got := id("a", "2001:db8::1", "203.0.113.1"); got != netip.MustParseAddr("203.0.113.1") {
		t.Errorf("router ID %s, want the node's address", got)
	}
}

func TestBGPSessionBFD(t *testing.T) {
	t.Parallel()
	full := v1alpha1.BFDProfileSpec{
		ReceiveInterval: new(int32(50)), TransmitInterval: new(int32(60)), DetectMultiplier: new(int32(5)), PassiveMode: new(true), MinimumTTL: new(int32(250)), Strict: true,
	}
	const usual = 300 * time.Millisecond
	single := loadbalancer.BFDSession{Profile: "b", Receive: usual, Transmit: usual, Multiplier: 3, MinTTL: 255}
	for _, tt := range []struct {
		name    string
		change  func(*v1alpha1.BGPPeerSpec)
		profile v1alpha1.BFDProfileSpec
		want    func(*loadbalancer.BFDSession)
	}{
		{name: "usual"},
		{
			name: "everything", profile: full,
			want: func(b *loadbalancer.BFDSession) {
				b.Receive, b.Transmit, b.Multiplier, b.Passive, b.Strict = 50*time.Millisecond, 60*time.Millisecond, 5, true, true
			},
		},
		{name: "several hops", change: func(s *v1alpha1.BGPPeerSpec) { s.EBGPMultiHop = true }, want: func(b *loadbalancer.BFDSession) { b.MinTTL = 254 }},
		{
			name: "several hops, with a least TTL", change: func(s *v1alpha1.BGPPeerSpec) { s.EBGPMultiHop = true },
			profile: v1alpha1.BFDProfileSpec{MinimumTTL: new(int32(250))}, want: func(b *loadbalancer.BFDSession) { b.MinTTL = 250 },
		},
		{name: "within three hops", change: func(s *v1alpha1.BGPPeerSpec) { s.TTLSecurityHops = 3 }, want: func(b *loadbalancer.BFDSession) { b.MinTTL = 253 }},
		{name: "within one hop", change: func(s *v1alpha1.BGPPeerSpec) { s.TTLSecurityHops = 1 }},
		{name: "internal, connected", change: func(s *v1alpha1.BGPPeerSpec) { s.PeerASN = 64512 }},
		{
			name: "internal, hops away", change: func(s *v1alpha1.BGPPeerSpec) { s.PeerASN, s.PeerAddress = 64512, "10.9.9.9" },
			want: func(b *loadbalancer.BFDSession) { b.MinTTL = 254 },
		},
		{
			name: "unnumbered and internal", change: func(s *v1alpha1.BGPPeerSpec) { s.PeerASN, s.PeerAddress, s.Interface = 64512, "", "eth0" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in, want := peerInput(), single
			in.Peer.Spec.BFDProfile = "b"
			in.Profile = &v1alpha1.BFDProfile{Spec: tt.profile}
			if tt.change != nil {
				tt.change(&in.Peer.Spec)
			}
			if tt.want != nil {
				tt.want(&want)
			}
			got, _, faults, usable := convert.BGPSession(in)
			if !usable || len(faults) > 0 || got.BFD != want {
				t.Errorf("BFD %+v, want %+v; usable %t, faults %+v", got.BFD, want, usable, faults)
			}
		})
	}
	in := peerInput()
	in.Peer.Spec.BFDProfile, in.Profile = "b", &v1alpha1.BFDProfile{Spec: v1alpha1.BFDProfileSpec{EchoMode: new(true)}}
	got, _, faults, usable := convert.BGPSession(in)
	if !usable || got.BFD != single {
		t.Errorf("usable %t, BFD %+v", usable, got.BFD)
	}
	wantFaults(t, []string{`FieldNotSupported BFDProfile "b": echoMode`}, faults)
}

func FuzzBGPSession(f *testing.F) {
	f.Add("10.0.0.254", "10.0.0.1", "65001", "1.2.3.4", int64(90), int64(30))
	f.Add("fe80::1%eth0", "", "1.10", "", int64(0), int64(0))
	f.Fuzz(func(t *testing.T, addr, source, asn, id string, hold, keepalive int64) {
		in := peerInput()
		s := &in.Peer.Spec
		s.PeerAddress, s.SourceAddress, s.RouterID, s.HoldTime, s.KeepaliveTime = addr, source, id, &metav1.Duration{Duration: time.Duration(hold)}, &metav1.Duration{Duration: time.Duration(keepalive)}
		in.Labels["asn"], s.PeerASN, s.PeerASNFrom = asn, 0, &v1alpha1.NodeValue{Label: "asn"}
		got, selected, faults, usable := convert.BGPSession(in)
		switch {
		case usable && (!selected || !got.Addr.IsValid() || got.PeerASN == 0 || !got.RouterID.Is4() || got.IPv4 == got.IPv6):
			t.Errorf("used: %+v", got)
		case usable && got.Hold != 0 && (got.Hold < 3*time.Second || got.Keepalive < time.Second || got.Keepalive > got.Hold):
			t.Errorf("timers %s and %s", got.Hold, got.Keepalive)
		case selected && !usable && len(faults) == 0:
			t.Error("not used, and nobody knows why")
		}
	})
}
