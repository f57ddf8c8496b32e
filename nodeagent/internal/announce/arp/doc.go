// SPDX-License-Identifier: Apache-2.0

// Package arp announces IPv4 addresses on layer 2: it answers ARP requests for them
// with the link's own address (RFC 826), and tells neighbours of a new owner by
// gratuitous ARP (RFC 5227 §3). It announces exactly what [Announcer.Apply] was last
// given and decides nothing; it must not touch sockets itself (package kernel does).
//
// One goroutine ([Announcer.Run]) owns the connections and the gratuitous frames, one
// more per link reads and answers; they share an immutable table behind an atomic
// pointer, so that an address that was lost is not answered for once Apply returns.
package arp
