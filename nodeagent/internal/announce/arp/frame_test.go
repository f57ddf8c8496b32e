// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package arp

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// byLibrary reads a frame by code that is not ours.
func byLibrary(b []byte) (packet, bool) {
	var f ethernet.Frame
	if err := f.UnmarshalBinary(b); err != nil || f.EtherType != ethernet.EtherTypeARP || f.VLAN != nil || f.ServiceVLAN != nil {
		return packet{}, false
	}
	// The library trusts the length fields.
	if len(f.Payload) < packetLen || f.Payload[4] != 6 || f.Payload[5] != 4 {
		return packet{}, false
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(f.Payload); err != nil || p.HardwareType != 1 || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) ||
		p.Operation != arp.OperationRequest && p.Operation != arp.OperationReply {
		return packet{}, false
	}
	return packet{
		request: p.Operation == arp.OperationRequest,
		sender:  kernel.MAC(p.SenderHardwareAddr), senderIP: p.SenderIP,
		target: kernel.MAC(p.TargetHardwareAddr), targetIP: p.TargetIP,
		frameDest: kernel.MAC(f.Destination),
	}, true
}

// What is sent is what the library would send.
func TestFramesAsTheLibraryHasThem(t *testing.T) {
	t.Parallel()
	own, peer := kernel.MAC{2, 0, 0, 0, 0, 1}, kernel.MAC{2, 0, 0, 0, 0, 9}
	vip, host := netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("192.0.2.9")
	packets := []packet{
		{sender: own, senderIP: vip, target: peer, targetIP: host, frameDest: peer},
		{request: true, sender: own, senderIP: netip.IPv4Unspecified(), targetIP: vip, frameDest: broadcast()},
	}
	for _, p := range gratuitous(vip, own) {
		packets = append(packets, p)
	}
	for _, p := range packets {
		op := arp.OperationReply
		if p.request {
			op = arp.OperationRequest
		}
		lib, err := arp.NewPacket(op, net.HardwareAddr(p.sender[:]), p.senderIP, net.HardwareAddr(p.target[:]), p.targetIP)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := lib.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		f := ethernet.Frame{
			Destination: net.HardwareAddr(p.frameDest[:]), Source: net.HardwareAddr(p.sender[:]),
			EtherType: ethernet.EtherTypeARP, Payload: payload,
		}
		want, err := f.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got := marshal(nil, &p); !bytes.Equal(got, want) {
			t.Errorf("%+v:\n%x, want\n%x", p, got, want)
		}
	}
}

// hostile are frames that somebody might send to do harm, and a good one.
func hostile() map[string][]byte {
	good := func() []byte { return request(peerMAC(), "192.0.2.9", "192.0.2.200") }
	with := func(at int, v ...byte) []byte {
		b := good()
		copy(b[at:], v)
		return b
	}
	tagged := append(append(append([]byte{}, good()[:12]...), 0x81, 0, 0, 5), good()[12:]...)
	return map[string][]byte{
		"good": good(), "empty": {}, "header only": good()[:14], "cut off": good()[:41], "jumbo": append(good(), make([]byte, 9000)...),
		"hardware length 255": with(18, 255), "protocol length 0": with(19, 0), "InfiniBand": with(15, 32), "protocol IPv6": with(16, 0x86, 0xdd),
		"operation 0": with(20, 0, 0), "RARP": with(20, 0, 3), "operation 0x0101": with(20, 1, 1),
		"VLAN tag": tagged, "two tags": append(append(append([]byte{}, good()[:12]...), 0x88, 0xa8, 0, 7), tagged[12:]...),
		"from all": with(22, 255, 255, 255, 255, 255, 255), "from a group": with(22, 1, 0, 0x5e, 0, 0, 1), "from 255.255.255.255": with(28, 255, 255, 255, 255),
		"from a multicast address": with(28, 224, 0, 0, 1),
	}
}

func TestHostileFrames(t *testing.T) {
	t.Parallel()
	for name, b := range hostile() {
		_, got := parse(b)
		_, want := byLibrary(b)
		if got != want {
			t.Errorf("%s: parsed %t, the library says %t", name, got, want)
		}
	}
	for _, name := range []string{"good", "jumbo"} {
		if _, ok := parse(hostile()[name]); !ok {
			t.Errorf("%s: not understood", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range gratuitous(netip.MustParseAddr("192.0.2.1"), peerMAC()) {
		f.Add(marshal(nil, &p))
	}
	for _, b := range hostile() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		if want, should := byLibrary(b); ok != should || p != want {
			t.Fatalf("parsed %+v (%t), the library has %+v (%t)", p, ok, want, should)
		}
		if !ok {
			return
		}
		again, ok := parse(marshal(nil, &p))
		if !ok || again != p {
			t.Errorf("round trip: %+v (%t), want %+v", again, ok, p)
		}
		if out, ok := (protocol{}).Parse(b); ok == p.sender.IsGroup() || out.Asks.IsValid() && out.Claims == out.Asks {
			t.Errorf("understood as %+v (%t)", out, ok)
		}
	})
}
