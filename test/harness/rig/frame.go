// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	etherLen  = 14
	arpLen    = etherLen + 28
	icmpLen   = etherLen + 40 + 24
	optionLen = 8

	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	arpAsk    = 1
	arpAnswer = 2
	// ICMPv6 types of RFC 4861.
	solicitation  = 135
	advertisement = 136
	solicited     = 0x40
)

//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Kind of a frame that speaks of an address.
type Kind int

// Kinds.
const (
	// Request asks who has Addr.
	Request Kind = iota + 1
	// Answer says to one host that MAC has Addr.
	Answer
	// Announcement says to all that MAC has Addr: a gratuitous ARP request or reply, an
	// unsolicited advertisement.
	Announcement
)

// Frame is an ARP packet or a message of neighbour discovery.
type Frame struct {
	At   time.Time
	Kind Kind
	Addr netip.Addr
	// MAC that has the address; for requests, who asks.
	MAC MAC
}

// parseFrame reads a frame, false for what speaks of no address.
func parseFrame(b []byte, at time.Time) (Frame, bool) {
	if len(b) < arpLen {
		return Frame{}, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		return parseARP(b, at)
	case etherIPv6:
		return parseNDP(b, at)
	}
	return Frame{}, false
}

func parseARP(b []byte, at time.Time) (Frame, bool) {
	p := b[etherLen:]
	if binary.BigEndian.Uint64(p)>>16 != 0x000108000604 {
		return Frame{}, false
	}
	sender, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	f := Frame{At: at, Addr: sender, MAC: MAC(p[8:14])}
	switch {
	case sender == target:
		f.Kind = Announcement
	case p[7] == arpAsk:
		f.Kind, f.Addr = Request, target
	case p[7] == arpAnswer:
		f.Kind = Answer
	default:
		return Frame{}, false
	}
	return f, true
}

func parseNDP(b []byte, at time.Time) (Frame, bool) {
	if len(b) < icmpLen || b[etherLen+6] != 58 {
		return Frame{}, false
	}
	icmp := b[etherLen+40:]
	f := Frame{At: at, Addr: netip.AddrFrom16([16]byte(icmp[8:24])), MAC: MAC(b[6:12])}
	switch {
	case icmp[0] == solicitation:
		f.Kind = Request
	case icmp[0] == advertisement && icmp[4]&solicited != 0:
		f.Kind = Answer
	case icmp[0] == advertisement:
		f.Kind = Announcement
	default:
		return Frame{}, false
	}
	// The option with the link-layer address speaks, not the sender of the frame.
	if len(icmp) >= 24+optionLen && icmp[24] == 2 && icmp[25] == 1 {
		f.MAC = MAC(icmp[26:32])
	}
	return f, true
}

// host is one end of a link.
type host struct {
	mac MAC
	ip4 netip.Addr
	ip6 netip.Addr
}

// ask returns the frame that asks all who has an address, or asks one host when to is not
// zero.
func (h host) ask(addr netip.Addr, to MAC) []byte {
	if addr.Is4() {
		return h.askARP(addr, to)
	}
	return h.askNDP(addr, to)
}

func ether(size int, to, from MAC, kind uint16) []byte {
	b := make([]byte, size)
	copy(b, to[:])
	copy(b[6:], from[:])
	binary.BigEndian.PutUint16(b[12:], kind)
	return b
}

func (h host) askARP(addr netip.Addr, to MAC) []byte {
	if to == (MAC{}) {
		to = broadcast
	}
	b := ether(arpLen, to, h.mac, etherARP)
	arp(b[etherLen:], arpAsk, h.mac, h.ip4, MAC{}, addr)
	return b
}

// arp fills in the 28 bytes of an ARP packet (RFC 826).
func arp(p []byte, op byte, sender MAC, from netip.Addr, target MAC, to netip.Addr) {
	copy(p, []byte{0, 1, 8, 0, 6, 4, 0, op})
	copy(p[8:], sender[:])
	copy(p[14:], from.AsSlice())
	copy(p[18:], target[:])
	copy(p[24:], to.AsSlice())
}

// askNDP is a neighbour solicitation with the source link-layer address option
// (RFC 4861 §4.3), to the solicited-node multicast address unless to says otherwise.
func (h host) askNDP(addr netip.Addr, to MAC) []byte {
	a := addr.As16()
	dst := a
	if to == (MAC{}) {
		dst = [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}
		to = MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}
	}
	b := ether(icmpLen+optionLen, to, h.mac, etherIPv6)
	ip := b[etherLen:]
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], 24+optionLen)
	ip[6], ip[7] = 58, 255
	copy(ip[8:], h.ip6.AsSlice())
	copy(ip[24:], dst[:])
	icmp := ip[40:]
	icmp[0] = solicitation
	copy(icmp[8:], a[:])
	icmp[24], icmp[25] = 1, 1
	copy(icmp[26:], h.mac[:])
	binary.BigEndian.PutUint16(icmp[2:], checksum(ip[8:40], icmp))
	return b
}

// checksum of an ICMPv6 message with its pseudo header (RFC 8200 §8.1).
func checksum(addresses, message []byte) uint16 {
	sum := uint32(len(message)) + 58 //nolint:gosec // a few dozen bytes
	for _, b := range [][]byte{addresses, message} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
