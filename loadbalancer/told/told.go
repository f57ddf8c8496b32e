// SPDX-License-Identifier: Apache-2.0

// Package told is what a node agent tells of its BGP sessions and of the routes that their
// peers were told, as JSON at /debug/bgp: the contract between the agent, which fills it
// in, and `kubectl fairlead bgp routes`, which reads it. It decides nothing.
package told

import "time"

// Path is where an agent serves its [Report], on its health port.
const Path = "/debug/bgp"

// Route is one route that a peer was told.
type Route struct {
	Prefix string `json:"prefix"`
	// LocalPref is told to internal peers, nil for the default.
	LocalPref *uint32 `json:"localPref,omitempty"`
	MED       *uint32 `json:"med,omitempty"`
	// Prepend is how often the AS number comes once more, towards external peers.
	Prepend     int      `json:"prepend,omitempty"`
	Communities []string `json:"communities,omitempty"`
	// LinkBandwidth in units of one endpoint, 0 for none.
	LinkBandwidth uint32 `json:"linkBandwidth,omitempty"`
	// Addresses of Services that the route is for.
	Addresses []string `json:"addresses,omitempty"`
}

// Session is one BGP session of the node.
type Session struct {
	Peer    string `json:"peer"`
	Address string `json:"address,omitempty"`
	// Local address of the session.
	Local string `json:"local,omitempty"`
	ASN   uint32 `json:"asn,omitempty"`
	// State and BFD are in the words of NodeAgent.status.bgp.
	State   string    `json:"state"`
	Since   time.Time `json:"since,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	BFD     string    `json:"bfd,omitempty"`
	// Flaps and Updates are counted since the agent started.
	Flaps   uint64 `json:"flaps"`
	Updates uint64 `json:"updates"`
	// LeftOut is how many routes the session cannot carry.
	LeftOut int `json:"leftOut,omitempty"`
	// Routes that the peer was told, ascending by prefix.
	Routes []Route `json:"routes,omitempty"`
}

// Silent is an address that the node tells nobody, and why, in one word.
type Silent struct {
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

// Report is what one node tells.
type Report struct {
	Node string `json:"node"`
	// Reason why the node tells nobody anything, "" when it does.
	Reason string `json:"reason,omitempty"`
	// Silent are the addresses that it tells nobody, though BGP is to announce them.
	Silent []Silent `json:"silent,omitempty"`
	// Sessions ascend by peer.
	Sessions []Session `json:"sessions,omitempty"`
}
