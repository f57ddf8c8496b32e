// SPDX-License-Identifier: Apache-2.0

package ndp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	typeRouterSolicitation  = 133
	typeRouterAdvertisement = 134
	// Lengths up to the options (RFC 4861 §4.1, §4.2).
	routerSolicitationLen  = 8
	routerAdvertisementLen = 16
)

// RouterMessage is a Router Advertisement or Solicitation, as far as who looks for a router
// needs it.
type RouterMessage struct {
	Advertisement bool
	// From is the sender. It is link-local; of a solicitation it may be unspecified.
	From netip.Addr
	// Lifetime of an advertisement: how long the sender may be a default router, 0 for not at
	// all (RFC 4861 §4.2).
	Lifetime time.Duration
}

// ParseRouter decodes a frame that may hold anything, and validates it as RFC 4861 §6.1 says:
// hop limit 255, so that no router has passed it on, and an advertisement from a link-local
// address.
func ParseRouter(b []byte) (RouterMessage, bool) {
	if len(b) < etherLen+ipLen+routerSolicitationLen || binary.BigEndian.Uint16(b[12:]) != etherTypeIPv6 {
		return RouterMessage{}, false
	}
	ip := b[etherLen:]
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || ip[6] != nextICMPv6 || ip[7] != hopLimit || size < routerSolicitationLen || len(ip) < ipLen+size {
		return RouterMessage{}, false
	}
	ip = ip[:ipLen+size]
	body := ip[ipLen:]
	m := RouterMessage{Advertisement: body[0] == typeRouterAdvertisement, From: netip.AddrFrom16([16]byte(ip[8:24]))}
	options := routerSolicitationLen
	switch {
	case body[1] != 0 || checksum(ip) != 0:
		return RouterMessage{}, false
	case body[0] == typeRouterSolicitation:
		if !m.From.IsLinkLocalUnicast() && !m.From.IsUnspecified() {
			return RouterMessage{}, false
		}
	case body[0] != typeRouterAdvertisement || size < routerAdvertisementLen || !m.From.IsLinkLocalUnicast():
		return RouterMessage{}, false
	default:
		m.Lifetime, options = time.Duration(binary.BigEndian.Uint16(body[6:]))*time.Second, routerAdvertisementLen
	}
	for b := body[options:]; len(b) > 0; b = b[int(b[1])*8:] {
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return RouterMessage{}, false
		}
	}
	return m, true
}

// AdvertiseRouter tells all nodes on the link that there is a router at an address, which is
// nobody's default router (lifetime 0) and says nothing of the link: no prefix, no MTU, no
// timers. Who looks for a neighbour to speak BGP with finds it by that.
func AdvertiseRouter(own kernel.MAC, from netip.Addr) []byte {
	return routerFrame(own, from, typeRouterAdvertisement, routerAdvertisementLen, netip.IPv6LinkLocalAllNodes())
}

// SolicitRouters asks all routers on the link to advertise (RFC 4861 §4.1).
func SolicitRouters(own kernel.MAC, from netip.Addr) []byte {
	return routerFrame(own, from, typeRouterSolicitation, routerSolicitationLen, netip.IPv6LinkLocalAllRouters())
}

func routerFrame(own kernel.MAC, from netip.Addr, kind byte, length int, group netip.Addr) []byte {
	b := make([]byte, etherLen+ipLen+length+optionLen)
	src, dst := from.As16(), group.As16()
	copy(b, []byte{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}) // RFC 2464 §7
	copy(b[6:], own[:])
	binary.BigEndian.PutUint16(b[12:], etherTypeIPv6)
	ip := b[etherLen:]
	ip[0], ip[6], ip[7] = 6<<4, nextICMPv6, hopLimit
	binary.BigEndian.PutUint16(ip[4:], uint16(length+optionLen)) //nolint:gosec // 24 at most
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	body := ip[ipLen:]
	body[0] = kind
	body[length], body[length+1] = optionSource, 1
	copy(body[length+2:], own[:])
	binary.BigEndian.PutUint16(body[2:], checksum(ip))
	return b
}
