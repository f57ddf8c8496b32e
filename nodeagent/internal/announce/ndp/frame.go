// SPDX-License-Identifier: Apache-2.0

package ndp

import (
	"encoding/binary"
	"net/netip"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// message is a Neighbor Solicitation or Advertisement (RFC 4861 §4.3, §4.4) with the
// headers around it.
type message struct {
	advertisement bool
	// solicited and override are flags of an advertisement.
	solicited, override bool
	// from and to are the frame's addresses.
	from, to kernel.MAC
	src, dst netip.Addr
	target   netip.Addr
	// link is the sender's link-layer address as the message tells it: of the source in a
	// solicitation, of the target in an advertisement. It is there if hasLink.
	hasLink bool
	link    kernel.MAC
}

const (
	etherLen  = 14
	ipLen     = 40
	bodyLen   = 24 // type to target
	optionLen = 8  // a link-layer address option

	etherTypeIPv6 = 0x86dd
	nextICMPv6    = 58
	hopLimit      = 255

	typeSolicitation  = 135
	typeAdvertisement = 136
	optionSource      = 1
	optionTarget      = 2
	flagSolicited     = 0x40
	flagOverride      = 0x20
)

// parse decodes a frame that may hold anything, and validates it as RFC 4861 §7.1 says.
// Messages behind extension headers are not looked at: nobody sends any, and fragments
// are forbidden (RFC 6980).
func parse(b []byte) (message, bool) {
	if len(b) < etherLen+ipLen+bodyLen || binary.BigEndian.Uint16(b[12:]) != etherTypeIPv6 {
		return message{}, false
	}
	ip := b[etherLen:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != nextICMPv6 || ip[7] != hopLimit || size < bodyLen || len(ip) < ipLen+size {
		return message{}, false
	}
	ip = ip[:ipLen+size]
	body := ip[ipLen:]
	if body[0] != typeSolicitation && body[0] != typeAdvertisement || body[1] != 0 || checksum(ip) != 0 {
		return message{}, false
	}
	m := message{
		advertisement: body[0] == typeAdvertisement,
		from:          kernel.MAC(b[6:12]), to: kernel.MAC(b[:6]),
		src: netip.AddrFrom16([16]byte(ip[8:24])), dst: netip.AddrFrom16([16]byte(ip[24:40])),
		target: netip.AddrFrom16([16]byte(body[8:24])),
	}
	if m.advertisement {
		m.solicited, m.override = body[4]&flagSolicited != 0, body[4]&flagOverride != 0
	}
	if !m.parseOptions(body[bodyLen:]) || !m.valid() {
		return message{}, false
	}
	return m, true
}

// parseOptions picks the link-layer address and says whether all options are well-formed.
func (m *message) parseOptions(b []byte) bool {
	kind := byte(optionSource)
	if m.advertisement {
		kind = optionTarget
	}
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return false
		}
		if b[0] == kind && b[1] == 1 {
			m.hasLink, m.link = true, kernel.MAC(b[2:8])
		}
		b = b[int(b[1])*8:]
	}
	return true
}

// valid checks what the fields must not say together.
func (m *message) valid() bool {
	switch {
	case m.target.IsMulticast() || m.src.IsMulticast():
		return false
	case m.advertisement:
		return !m.solicited || !m.dst.IsMulticast()
	case m.src.IsUnspecified():
		return !m.hasLink && m.dst == kernel.SolicitedNode(m.target)
	default:
		return true
	}
}

// marshal encodes the message as an Ethernet frame in buf, or in a new array where that is
// too short. What buf held is lost.
func (m *message) marshal(buf []byte) []byte {
	size := bodyLen
	if m.hasLink {
		size += optionLen
	}
	if cap(buf) < etherLen+ipLen+size {
		buf = make([]byte, etherLen+ipLen+size)
	}
	b := buf[:etherLen+ipLen+size]
	clear(b)
	copy(b, m.to[:])
	copy(b[6:], m.from[:])
	binary.BigEndian.PutUint16(b[12:], etherTypeIPv6)
	ip := b[etherLen:]
	ip[0], ip[6], ip[7] = 6<<4, nextICMPv6, hopLimit
	binary.BigEndian.PutUint16(ip[4:], uint16(size))
	src, dst, target := m.src.As16(), m.dst.As16(), m.target.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	body := ip[ipLen:]
	body[0] = typeSolicitation
	option := byte(optionSource)
	if m.advertisement {
		body[0], option = typeAdvertisement, optionTarget
		if m.solicited {
			body[4] |= flagSolicited
		}
		if m.override {
			body[4] |= flagOverride
		}
	}
	copy(body[8:], target[:])
	if m.hasLink {
		body[bodyLen], body[bodyLen+1] = option, 1
		copy(body[bodyLen+2:], m.link[:])
	}
	binary.BigEndian.PutUint16(body[2:], checksum(ip))
	return b
}

// checksum is that of an ICMPv6 packet with its pseudo header (RFC 4443 §2.3, RFC 8200
// §8.1). Over a packet that carries a right one it is 0.
func checksum(ip []byte) uint16 {
	body := ip[ipLen:]
	sum := uint32(len(body)) + nextICMPv6 //nolint:gosec // at most 65535
	for _, part := range [][]byte{ip[8:40], body} {
		for ; len(part) > 1; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
