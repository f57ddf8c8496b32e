// SPDX-License-Identifier: Apache-2.0

// Package l2 announces addresses on layer 2: it answers for them and tells neighbours of
// a new owner. What the frames look like is the business of a [Protocol], of which there
// are two: packages arp (IPv4) and ndp (IPv6). It announces exactly what
// [Announcer.Apply] was last given and decides nothing; it must not touch sockets itself
// (package kernel does). The owner loop calls it.
//
// One goroutine ([Announcer.Run]) owns the connections and the unsolicited frames, one
// more per link reads and answers; they share an immutable table behind an atomic
// pointer, so that an address that was lost is not answered for once Apply returns.
package l2

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Protocol knows the frames of one address family. It has no state.
type Protocol interface {
	// Name for logs.
	Name() string
	// Serves says whether an address is of the protocol's family.
	Serves(a netip.Addr) bool
	// Uses says whether addresses can be announced on a link at all.
	Uses(l kernel.Link) bool
	// Parse reads a frame that may hold anything; false says that it is of no interest.
	Parse(frame []byte) (Packet, bool)
	// Reply answers a packet that asks for an address. The frame is in buf, which is empty,
	// if it has room.
	Reply(buf []byte, p Packet, own kernel.MAC) Frame
	// Announcement is what tells the neighbours of a new owner, at a step of Burst, and from
	// len(Burst()) on at any later time.
	Announcement(a netip.Addr, own kernel.MAC, step int) []Frame
	// Question asks who has target; see [Announcer.Ask].
	Question(target, source netip.Addr, own, to kernel.MAC) Frame
	// Burst is when it is sent after a take-over, ascending from 0. While the rate is the
	// limit, a step of all addresses goes before the next one of any.
	Burst() []time.Duration
}

// Packet is what matters of a received frame.
type Packet struct {
	// From is the sender's link-layer address, by which it wants to be answered.
	From kernel.MAC
	// Sender is its address, unspecified while it has none.
	Sender netip.Addr
	// Asks is the address that the sender asks for, invalid when it does not ask.
	Asks netip.Addr
	// Wants is the address that the sender means to take if nobody has it, invalid when the
	// packet is no probe.
	Wants netip.Addr
	// Claims is the address that the sender says it has at From, invalid when there is none.
	Claims netip.Addr
}

// Frame is one Ethernet frame to send.
type Frame struct {
	Bytes []byte
	To    kernel.MAC
}

// Conn sends and receives Ethernet frames of one protocol on one link.
type Conn interface {
	// ReadFrame blocks for one frame; it fails once the connection is closed.
	ReadFrame(b []byte) (int, error)
	// WriteFrame must not keep b.
	WriteFrame(b []byte, to kernel.MAC) error
	// Listen says for which addresses frames must arrive, instead of those that were
	// given before.
	Listen(addrs []netip.Addr) error
	Close() error
}

// Opener opens a connection on a link.
type Opener func(kernel.Link) (Conn, error)

// Counters is told what happens on the wire. It is called from several goroutines.
type Counters interface {
	// Request: somebody asked for an address that we announce.
	Request()
	// Reply: we answered.
	Reply()
	// Gratuitous: we sent one unsolicited frame.
	Gratuitous()
	// Conflict: another host claims an address that we announce.
	Conflict()
}
