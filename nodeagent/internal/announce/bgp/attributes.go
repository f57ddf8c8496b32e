// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	// perEndpoint is what the link bandwidth of one endpoint is, in octets per second: 1 Mbit/s.
	// Routers compare the values of several nodes among themselves only.
	perEndpoint = 125_000
	maxASN2     = 65_535
)

// hops are the next hops of routes; one that is not valid leaves its family out.
type hops struct{ four, six netip.Addr }

// hopsOf chooses next hops for a session whose address here is local. A peer that knows RFC
// 8950 gets IPv4 routes by our IPv6 address; an IPv6 route never gets an IPv4-mapped one,
// which kernels refuse. A router that was found on a link has no route to other addresses of
// ours there: it gets our link-local one.
func hopsOf(local netip.Addr, found bool, g greeting, at NextHops) hops {
	bare := local.WithZone("").Unmap()
	var four, six netip.Addr
	if at != nil {
		four, six = at(local)
	}
	if six.Is4In6() || six.IsLinkLocalUnicast() {
		six = netip.Addr{}
	}
	if bare.Is4() {
		return hops{bare, six}
	}
	if found || !bare.IsLinkLocalUnicast() {
		six = bare
	}
	if g.extended && six.IsValid() {
		four = six
	}
	return hops{four, six}
}

func familyOf(p netip.Prefix) gobgp.Family {
	if p.Addr().Is4() {
		return gobgp.RF_IPv4_UC
	}
	return gobgp.RF_IPv6_UC
}

// path is a route as the BGP server takes it.
func path(s *loadbalancer.BGPSession, r *loadbalancer.BGPRoute, hop netip.Addr) (*apiutil.Path, error) {
	nlri, err := gobgp.NewIPAddrPrefix(r.Prefix)
	if err != nil {
		return nil, fmt.Errorf("prefix %s: %w", r.Prefix, err)
	}
	family := familyOf(r.Prefix)
	attrs := []gobgp.PathAttributeInterface{gobgp.NewPathAttributeOrigin(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	if family == gobgp.RF_IPv4_UC && hop.Is4() {
		next, err := gobgp.NewPathAttributeNextHop(hop)
		if err != nil {
			return nil, fmt.Errorf("next hop %s: %w", hop, err)
		}
		attrs = append(attrs, next)
	} else {
		hops := []netip.Addr{hop}
		if hop.IsLinkLocalUnicast() {
			hops = append(hops, hop)
		}
		reach, err := gobgp.NewPathAttributeMpReachNLRI(family, []gobgp.PathNLRI{{NLRI: nlri}}, hops...)
		if err != nil {
			return nil, fmt.Errorf("next hop %s: %w", hop, err)
		}
		attrs = append(attrs, reach)
	}
	if r.HasMED {
		attrs = append(attrs, gobgp.NewPathAttributeMultiExitDisc(r.MED))
	}
	if s.Internal() {
		if r.HasLocalPref {
			attrs = append(attrs, gobgp.NewPathAttributeLocalPref(r.LocalPref))
		}
	} else if as := asPath(s, r.Prepend); len(as) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{
			gobgp.NewAs4PathParam(gobgp.BGP_ASPATH_ATTR_TYPE_SEQ, as),
		}))
	}
	attrs, err = communities(attrs, s, r)
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attrs}, nil
}

// asPath is what comes behind the AS number that the BGP server puts in front.
func asPath(s *loadbalancer.BGPSession, prepend uint8) []uint32 {
	var as []uint32
	for range prepend {
		as = append(as, ownASN(s))
	}
	if s.LocalASN != 0 && s.LocalASN != s.MyASN {
		as = append(as, s.MyASN)
	}
	return as
}

func communities(attrs []gobgp.PathAttributeInterface, s *loadbalancer.BGPSession, r *loadbalancer.BGPRoute) ([]gobgp.PathAttributeInterface, error) {
	var standard []uint32
	var large []*gobgp.LargeCommunity
	var extended []gobgp.ExtendedCommunityInterface
	for _, c := range r.Communities {
		switch c.Kind {
		case loadbalancer.StandardCommunity:
			standard = append(standard, c.A<<16|c.B&0xffff)
		case loadbalancer.LargeCommunity:
			large = append(large, gobgp.NewLargeCommunity(c.A, c.B, c.C))
		case loadbalancer.RouteTarget, loadbalancer.RouteOrigin:
			e, err := extendedOf(c)
			if err != nil {
				return nil, err
			}
			extended = append(extended, e)
		}
	}
	if r.LinkBandwidth > 0 {
		as := ownASN(s)
		if as > maxASN2 {
			as = gobgp.AS_TRANS
		}
		extended = append(extended, gobgp.NewLinkBandwidthExtended(uint16(as), float32(r.LinkBandwidth)*perEndpoint))
	}
	if len(standard) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeLargeCommunities(large))
	}
	if len(extended) > 0 {
		attrs = append(attrs, gobgp.NewPathAttributeExtendedCommunities(extended))
	}
	return attrs, nil
}

// extendedOf has the three forms of RFC 4360 §3.1, §3.2 and RFC 5668.
func extendedOf(c loadbalancer.Community) (gobgp.ExtendedCommunityInterface, error) {
	sub := gobgp.EC_SUBTYPE_ROUTE_TARGET
	if c.Kind == loadbalancer.RouteOrigin {
		sub = gobgp.EC_SUBTYPE_ROUTE_ORIGIN
	}
	switch {
	case c.Address:
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], c.A)
		a := netip.AddrFrom4(b)
		e, err := gobgp.NewIPv4AddressSpecificExtended(sub, a, uint16(c.B), true) //nolint:gosec // 16 bits by its definition
		if err != nil {
			return nil, fmt.Errorf("community of %s: %w", a, err)
		}
		return e, nil
	case c.A > maxASN2:
		return gobgp.NewFourOctetAsSpecificExtended(sub, c.A, uint16(c.B), true), nil //nolint:gosec // 16 bits by its definition
	default:
		return gobgp.NewTwoOctetAsSpecificExtended(sub, uint16(c.A), c.B, true), nil
	}
}
