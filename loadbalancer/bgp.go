// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"slices"
	"time"
)

// DynamicASN says which AS numbers a peer whose own is not given may have.
type DynamicASN uint8

const (
	// FixedASN means: the one that is given.
	FixedASN DynamicASN = iota
	// InternalASN means: ours.
	InternalASN
	// ExternalASN means: any but ours.
	ExternalASN
)

// BGPSession is one BGP session that a node is to have. Values are comparable.
type BGPSession struct {
	// Peer is the BGPPeer's name. A node has at most one session of each.
	Peer string
	// MyASN is this side's AS number; LocalASN, if not 0, is told to this peer instead.
	MyASN, LocalASN uint32
	// PeerASN is 0 where Dynamic is not FixedASN.
	PeerASN uint32
	Dynamic DynamicASN
	// Addr of the peer, with a zone if it is link-local; invalid where Interface is set.
	Addr netip.Addr
	// Interface on which the peer is found by its router advertisements (unnumbered).
	Interface string
	// Source address of the session; invalid: the kernel chooses.
	Source netip.Addr
	// Port of the peer.
	Port uint16
	// Passive says that the peer connects to us, and we never to it.
	Passive bool
	// Hold and Keepalive are the timers offered in the OPEN (RFC 4271 §4.2); Connect is how
	// long to wait between attempts; IdleHold is how long to wait after a session was reset.
	Hold, Keepalive, Connect, IdleHold time.Duration
	// RouterID is an IPv4 address in form only.
	RouterID netip.Addr
	// Password of TCP-MD5 (RFC 2385), "" for none.
	Password string
	// MultiHop allows an external peer that is not on a connected network.
	MultiHop bool
	// TTLSecurity is the number of hops within which the peer must be (RFC 5082), 0 for off.
	TTLSecurity uint8
	// GracefulRestart keeps routes over a restart of the agent (RFC 4724).
	GracefulRestart bool
	// IPv4 and IPv6 are the families that the session carries.
	IPv4, IPv6 bool
	// BFD of the session, the zero value for none.
	BFD BFDSession
}

// Internal says whether the session is within one AS, as far as the configuration tells.
func (s *BGPSession) Internal() bool {
	own := s.MyASN
	if s.LocalASN != 0 {
		own = s.LocalASN
	}
	return s.Dynamic == InternalASN || s.Dynamic == FixedASN && s.PeerASN == own
}

// BFDSession is how a session's peer is watched by BFD (RFC 5880, 5881, 5883).
type BFDSession struct {
	// Profile is the BFDProfile's name; "" for no BFD.
	Profile string
	// Receive and Transmit are the intervals asked for (RFC 5880 §6.8.7).
	Receive, Transmit time.Duration
	// Multiplier of the interval after which the peer is down.
	Multiplier uint8
	// Passive waits for the peer to begin (RFC 5880 §6.1).
	Passive bool
	// MinTTL of what is received: 255 on a connected network (RFC 5881 §5), less over more hops.
	MinTTL uint8
	// Strict has no route be told before BFD is up.
	Strict bool
}

// CommunityKind tells the three kinds of BGP communities apart.
type CommunityKind uint8

const (
	// StandardCommunity is RFC 1997's: A:B of 16 bits each.
	StandardCommunity CommunityKind = iota
	// LargeCommunity is RFC 8092's: A:B:C of 32 bits each.
	LargeCommunity
	// RouteTarget is an extended community (RFC 4360 §4): A is the AS or the IPv4 address, B
	// the number.
	RouteTarget
	// RouteOrigin is an extended community (RFC 4360 §5), likewise.
	RouteOrigin
)

// Community is one BGP community.
type Community struct {
	Kind    CommunityKind
	A, B, C uint32
	// Address says that A is an IPv4 address, of RouteTarget and RouteOrigin.
	Address bool
}

// GracefulShutdown is the well-known community that asks for the least preference (RFC 8326).
func GracefulShutdown() Community { return Community{A: 0xffff, B: 0} }

// BGPAttributes are what a route says besides its prefix.
type BGPAttributes struct {
	// LocalPref is told to internal peers if HasLocalPref, else 100.
	LocalPref    uint32
	HasLocalPref bool
	// MED is told if HasMED.
	MED    uint32
	HasMED bool
	// Prepend is how often our AS number comes once more (external peers).
	Prepend uint8
	// Communities ascend and are unique.
	Communities []Community
	// LinkBandwidth is told as the extended community of that name, in units that routers
	// compare among themselves only: the ready endpoints here. 0 for none.
	LinkBandwidth uint32
}

// Equal compares.
func (a *BGPAttributes) Equal(b *BGPAttributes) bool {
	return a.LocalPref == b.LocalPref && a.HasLocalPref == b.HasLocalPref && a.MED == b.MED && a.HasMED == b.HasMED && a.Prepend == b.Prepend &&
		a.LinkBandwidth == b.LinkBandwidth && slices.Equal(a.Communities, b.Communities)
}

// BGPRoute is one route that a node is to tell one peer.
type BGPRoute struct {
	Prefix netip.Prefix
	BGPAttributes
	// Addrs are the VIPs that the prefix is told for, ascending.
	Addrs []netip.Addr
}

// BGPPlan is what one node is to tell by BGP.
type BGPPlan struct {
	// Sessions ascend by name of the peer.
	Sessions []BGPSession
	// Routes by name of the peer; they ascend by prefix.
	Routes map[string][]BGPRoute
	// Reason is why this node tells nobody anything, a reason.Reason; "" when it does.
	Reason string
	// Silent are the VIPs that BGP is to announce and that this node tells nobody, each with
	// its reason.Reason.
	Silent map[netip.Addr]string
	// Faults are what cannot be as it is configured, with the names of objects.
	Faults []BGPFault
}

// BGPAdvertisement is a BGPAdvertisement as one node sees it.
type BGPAdvertisement struct {
	Name string
	// Here says that it selects this node.
	Here bool
	// Bits4 and Bits6 are the lengths of the prefixes that are told, 32 and 128 for the VIPs
	// alone.
	Bits4, Bits6 int
	// Attributes of every route.
	Attributes BGPAttributes
	// Peers that are told; none: all.
	Peers []string
	// What Services may say themselves.
	ServiceLocalPref, ServiceMED, ServicePrepend, ServiceCommunities bool
}

// BGPDrain is how a node ends telling routes.
type BGPDrain struct {
	// Reason is a reason.Reason, "" while nothing is drained.
	Reason string
	// Over says that routers have had the time to choose others: routes go.
	Over bool
}

// BGPConfig is what one node is told to do by BGP.
type BGPConfig struct {
	// Sessions ascend by peer.
	Sessions []BGPSession
	// Advertisements by name.
	Advertisements map[string]BGPAdvertisement
	// Aliases of communities.
	Aliases map[string]Community
	// Faults found in reading it.
	Faults []BGPFault
}

// BGPFault is why a peer or an advertisement is not as it is configured, on one node.
type BGPFault struct {
	// Peer, or Advertisement, that it is about.
	Peer, Advertisement string
	// Reason is a reason.Reason.
	Reason string
	// Message for people.
	Message string
}

// BGPOverrides are a Service's own words on its routes.
type BGPOverrides struct {
	LocalPref, MED                   uint32
	Prepend                          uint8
	HasLocalPref, HasMED, HasPrepend bool
	// Communities in words: numbers, well-known names or aliases.
	Communities []string
}
