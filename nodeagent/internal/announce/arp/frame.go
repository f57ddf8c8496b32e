// SPDX-License-Identifier: Apache-2.0

package arp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// packet is one ARP packet for IPv4 over Ethernet.
type packet struct {
	request   bool
	sender    kernel.MAC
	senderIP  netip.Addr
	target    kernel.MAC
	targetIP  netip.Addr
	frameDest kernel.MAC
}

func broadcast() kernel.MAC { return kernel.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

var errNotARP = errors.New("not an ARP request or reply for IPv4")

// parse decodes a frame that may hold anything.
func parse(b []byte) (packet, error) {
	var f ethernet.Frame
	if err := f.UnmarshalBinary(b); err != nil {
		return packet{}, fmt.Errorf("parse Ethernet frame: %w", err)
	}
	if f.EtherType != ethernet.EtherTypeARP {
		return packet{}, errNotARP
	}
	// The library trusts the length fields of the packet; check them first.
	const fixed = 8
	if len(f.Payload) < fixed+2*(6+4) || f.Payload[4] != 6 || f.Payload[5] != 4 {
		return packet{}, errNotARP
	}
	var p arp.Packet
	if err := p.UnmarshalBinary(f.Payload); err != nil {
		return packet{}, fmt.Errorf("parse ARP packet: %w", err)
	}
	isRequest := p.Operation == arp.OperationRequest
	if !isRequest && p.Operation != arp.OperationReply {
		return packet{}, errNotARP
	}
	return packet{
		request: isRequest,
		sender:  kernel.MAC(p.SenderHardwareAddr), senderIP: p.SenderIP,
		target: kernel.MAC(p.TargetHardwareAddr), targetIP: p.TargetIP,
		frameDest: kernel.MAC(f.Destination),
	}, nil
}

// marshal encodes a packet as an Ethernet frame from p.sender to p.frameDest.
func marshal(p packet) ([]byte, error) {
	op := arp.OperationReply
	if p.request {
		op = arp.OperationRequest
	}
	a, err := arp.NewPacket(op, net.HardwareAddr(p.sender[:]), p.senderIP, net.HardwareAddr(p.target[:]), p.targetIP)
	if err != nil {
		return nil, fmt.Errorf("make ARP packet: %w", err)
	}
	payload, err := a.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode ARP packet: %w", err)
	}
	f := ethernet.Frame{
		Destination: net.HardwareAddr(p.frameDest[:]), Source: net.HardwareAddr(p.sender[:]),
		EtherType: ethernet.EtherTypeARP, Payload: payload,
	}
	b, err := f.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode Ethernet frame: %w", err)
	}
	return b, nil
}

// gratuitous returns the two forms in which neighbours learn of a new owner: an
// announcement, which is a request with the address as sender and target (RFC 5227
// §3), and an unsolicited reply, which some stacks accept instead. The reply names the
// sender as target hardware address too (RFC 5944 §4.6): Linux takes it for gratuitous,
// and lets it replace an entry younger than a second, only then.
func gratuitous(addr netip.Addr, own kernel.MAC) [2]packet {
	return [2]packet{
		{request: true, sender: own, senderIP: addr, targetIP: addr, frameDest: broadcast()},
		{sender: own, senderIP: addr, target: own, targetIP: addr, frameDest: broadcast()},
	}
}
