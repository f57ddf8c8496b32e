// SPDX-License-Identifier: Apache-2.0

package arp

import (
	"encoding/binary"
	"net/netip"

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

const (
	etherLen     = 14
	packetLen    = 28
	frameLen     = 60 // the shortest frame that Ethernet takes, without its checksum
	etherTypeARP = 0x0806

	// fixed are hardware type Ethernet, protocol IPv4, and the lengths of their addresses.
	fixed       = 0x0001_0800_0604_0000
	fixedMask   = 0xffff_ffff_ffff_0000
	opRequest   = 1
	opReply     = 2
	etherTypeAt = 12
)

// parse decodes a frame that may hold anything; false says that it is no request and no
// reply for IPv4 over Ethernet. It does not allocate: most frames are for others. That it
// understands what the library does is for the tests to show.
func parse(b []byte) (packet, bool) {
	if len(b) < etherLen+packetLen || binary.BigEndian.Uint16(b[etherTypeAt:]) != etherTypeARP {
		return packet{}, false
	}
	a := b[etherLen : etherLen+packetLen]
	head := binary.BigEndian.Uint64(a)
	op := head &^ uint64(fixedMask)
	if head&fixedMask != fixed || op != opRequest && op != opReply {
		return packet{}, false
	}
	return packet{
		request: op == opRequest,
		sender:  kernel.MAC(a[8:14]), senderIP: netip.AddrFrom4([4]byte(a[14:18])),
		target: kernel.MAC(a[18:24]), targetIP: netip.AddrFrom4([4]byte(a[24:28])),
		frameDest: kernel.MAC(b[:6]),
	}, true
}

// marshal appends a packet to buf as an Ethernet frame from p.sender to p.frameDest. Its
// addresses must be IPv4 ones.
func marshal(buf []byte, p *packet) []byte {
	op := byte(opReply)
	if p.request {
		op = opRequest
	}
	senderIP, targetIP := p.senderIP.As4(), p.targetIP.As4()
	start := len(buf)
	buf = append(buf, p.frameDest[:]...)
	buf = append(buf, p.sender[:]...)
	buf = append(buf, etherTypeARP>>8, etherTypeARP&0xff, 0, 1, 8, 0, 6, 4, 0, op)
	buf = append(buf, p.sender[:]...)
	buf = append(buf, senderIP[:]...)
	buf = append(buf, p.target[:]...)
	buf = append(buf, targetIP[:]...)
	var padding [frameLen - etherLen - packetLen]byte
	return append(buf, padding[:frameLen-(len(buf)-start)]...)
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
