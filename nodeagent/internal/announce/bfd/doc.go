// SPDX-License-Identifier: Apache-2.0

// Package bfd watches BGP peers by Bidirectional Forwarding Detection: asynchronous mode
// (RFC 5880), on a link (RFC 5881, UDP port 3784) and over several hops (RFC 5883, UDP port
// 4784). There is no echo, no demand mode and no authentication.
//
// machine is one session as a pure state machine: packets and times go in, at most one
// packet, the next deadline and a change of state come out. [Detector] runs all sessions
// on one goroutine, and another one for each of at most four listening sockets, which are
// open only while there is a session that needs them. It decides nothing: what follows
// from a session that is down is the BGP speaker's business, which calls it. The wire
// format is gobgp's codec.
package bfd
