// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"fmt"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// Cause is why a packet was dropped.
type Cause uint8

// The causes, in the order in which a packet is looked at.
const (
	// Malformed is what RFC 5880 §6.8.6 discards by itself: version, length, multiplier,
	// multipoint bit, discriminator 0, both P and F.
	Malformed Cause = iota
	// Stranger is a packet of no session: of an address that is not watched, or of another
	// interface.
	Stranger
	// TTL is a packet that came over more hops than the session allows (RFC 5881 §5).
	TTL
	// Discriminator is a packet that names a session which is not that of its sender, or names
	// none although its sender knows one.
	Discriminator
	// Authenticated is a packet with the A bit: there is no authentication here.
	Authenticated
	causes
)

func (c Cause) String() string {
	switch c {
	case Malformed:
		return "malformed"
	case Stranger:
		return "stranger"
	case TTL:
		return "ttl"
	case Discriminator:
		return "discriminator"
	case Authenticated:
		return "authenticated"
	default:
		return fmt.Sprintf("cause %d", uint8(c))
	}
}

// Flags of the second octet that the codec does not read (RFC 5880 §4.1).
const (
	flagAuth       = 0x04
	flagMultipoint = 0x01
)

const (
	version = 1
	// minLength of a packet without, and with, authentication.
	minLength, minLengthAuth = 24, 26
	// maxLength of what is read from a socket: the length field is an octet.
	maxLength = 256
)

// parse reads a packet as far as that can be done without its session (RFC 5880 §6.8.6). The
// payload may be longer than the packet. ok is false for what is dropped because of cause.
func parse(b []byte) (h wire.BFDHeader, cause Cause, ok bool) {
	if len(b) < minLength || b[0]>>5 != version {
		return h, Malformed, false
	}
	length, least := int(b[3]), minLength
	if b[1]&flagAuth != 0 {
		least = minLengthAuth
	}
	if length < least || length > len(b) {
		return h, Malformed, false
	}
	if err := h.UnmarshalBinary(b[:length]); err != nil {
		return h, Malformed, false
	}
	if h.DetectTimeMultiplier == 0 || h.MyDiscriminator == 0 || b[1]&flagMultipoint != 0 || h.Poll && h.Final {
		return h, Malformed, false
	}
	if h.YourDiscriminator == 0 && h.State != wire.StateDown && h.State != wire.StateAdminDown {
		return h, Discriminator, false
	}
	if b[1]&flagAuth != 0 {
		return h, Authenticated, false
	}
	return h, 0, true
}
