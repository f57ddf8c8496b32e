// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Detector watches peers by BFD (RFC 5880). Its methods do not block.
type Detector interface {
	// Watch begins to watch a peer, or goes on with other settings. A source that is not valid
	// is the kernel's choice. What is watched the same already is left as it is.
	Watch(key string, peer, source netip.Addr, s loadbalancer.BFDSession)
	// Forget ends that; the peer is told AdminDown.
	Forget(key string)
	// Suspend ends it for a restart of this process: the peer is told to wait for long, and
	// finds the same session again afterwards. Routers take AdminDown for the end of the BGP
	// session, graceful restart or not, whatever RFC 5882 §4.2 says.
	Suspend(key string)
	// State is AdminDown, Down, Init or Up, "" for what is not watched. Falls counts how often
	// the session left Up in a way that says that the peer is not there: neither by Forget nor
	// because the peer told AdminDown (RFC 5882 §4.2). Why says in words what ended it last.
	State(key string) (state string, falls uint64, why string)
	// Changed has a token when an answer of State has changed. Only the Speaker receives.
	Changed() <-chan struct{}
}

// Routers finds the routers of links, for sessions without an address. Its methods do not
// block.
type Routers interface {
	// Seek makes the links on which one is sought those that are named.
	Seek(links []string)
	// Found returns the router of a link and our own address there, both link-local and with
	// the link as their zone. If the router is not valid, why says what is missing, and several
	// that there is more than one.
	Found(link string) (router, own netip.Addr, several bool, why string)
	// Changed has a token when an answer of Found has changed. Only the Speaker receives.
	Changed() <-chan struct{}
}

// NextHops answers for an address of this node with the addresses of the same link that
// routes may name as next hops: an IPv4 address, and an IPv6 address that is not
// link-local. An answer that is not valid is none.
type NextHops func(local netip.Addr) (four, six netip.Addr)

// Options of a Speaker.
type Options struct {
	// Detector for sessions with BFD; nil refuses those.
	Detector Detector
	// Routers for sessions without an address; nil refuses those.
	Routers Routers
	// RestartWait is how long sessions with graceful restart wait for [Speaker.Complete] after
	// the first plan; 0 is 3 s.
	RestartWait time.Duration
	// ListenPort is the TCP port that peers of passive sessions connect to, 0 to refuse those.
	// A port below 1024 needs CAP_NET_BIND_SERVICE.
	ListenPort uint16
}

// State is where a session stands; the words are those of the API.
type State string

// The states of RFC 4271 §8.2.2, and Refused for a session that does not begin.
const (
	Idle        State = "Idle"
	Connect     State = "Connect"
	Active      State = "Active"
	OpenSent    State = "OpenSent"
	OpenConfirm State = "OpenConfirm"
	Established State = "Established"
	Refused     State = "Refused"
)

// SessionState is one session as it stands. Values are comparable.
type SessionState struct {
	// Peer is the BGPPeer's name, Address its address or interface.
	Peer, Address string
	// Local address of the session, not valid while there is none.
	Local netip.Addr
	// ASN that the peer told, or that is configured while it told none.
	ASN   uint32
	State State
	// Since is when the session came into or fell out of Established, or was made.
	Since time.Time
	// Reason why the session is not Established, or not all that is configured; "" for none.
	Reason reason.Reason
	// Message says in words what ended the session last, after "before: " where it is up again,
	// or why it is not complete.
	Message string
	// Prefixes that the peer was told: none while it is not Established.
	Prefixes int
	// LeftOut is how many routes of the plan this session cannot carry; Reason is
	// FamilyNotAgreed or NoNextHop then.
	LeftOut int
	// Flaps counts how often it fell out of Established, Updates how many routes were told or
	// withdrawn, both since this process saw the peer first.
	Flaps, Updates uint64
	// BFD state of the peer, "" without.
	BFD string
}
