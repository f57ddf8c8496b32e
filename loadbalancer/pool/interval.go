// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strings"
)

// Family is an IP family.
type Family uint8

const (
	// IPv4 is RFC 791.
	IPv4 Family = 4
	// IPv6 is RFC 8200.
	IPv6 Family = 6
)

// String returns IPv4 or IPv6.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// FamilyOf returns the family of an unmapped address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Interval is an inclusive range of addresses of one family, From ≤ To.
type Interval struct {
	From, To netip.Addr
}

// ParseInterval reads a CIDR prefix ("192.0.2.0/24"; bits right of the prefix are
// dropped, as MetalLB does) or an inclusive range ("192.0.2.10-192.0.2.20").
// IPv4-mapped IPv6 addresses, zones and leading zeros are errors.
func ParseInterval(s string) (Interval, error) {
	s = strings.TrimSpace(s)
	if from, to, ok := strings.Cut(s, "-"); ok {
		return parseRange(s, from, to)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return Interval{}, fmt.Errorf("%q is neither a CIDR prefix (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)", s)
	}
	p = p.Masked()
	return Interval{From: p.Addr(), To: lastOf(p)}, nil
}

func parseRange(s, from, to string) (Interval, error) {
	f, ferr := netip.ParseAddr(strings.TrimSpace(from))
	t, terr := netip.ParseAddr(strings.TrimSpace(to))
	switch {
	case ferr != nil || terr != nil || !plain(f) || !plain(t):
		return Interval{}, fmt.Errorf("%q is neither a CIDR prefix (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)", s)
	case f.Is4() != t.Is4():
		return Interval{}, fmt.Errorf("%q begins and ends in different IP families", s)
	case t.Less(f):
		return Interval{}, fmt.Errorf("%q ends before it begins", s)
	}
	return Interval{From: f, To: t}, nil
}

func plain(a netip.Addr) bool { return a.Zone() == "" && !a.Is4In6() }

// lastOf returns the highest address of a masked prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Contains reports whether a lies in the interval.
func (iv Interval) Contains(a netip.Addr) bool {
	return a.BitLen() == iv.From.BitLen() && !a.Less(iv.From) && !iv.To.Less(a)
}

// Overlaps reports whether the intervals share an address.
func (iv Interval) Overlaps(o Interval) bool {
	return iv.From.BitLen() == o.From.BitLen() && !iv.To.Less(o.From) && !o.To.Less(iv.From)
}

// Family returns the family of the interval.
func (iv Interval) Family() Family { return FamilyOf(iv.From) }

// Size counts the addresses, capped at the largest int64.
func (iv Interval) Size() int64 {
	f, t := iv.From.As16(), iv.To.As16()
	lo, borrow := bits.Sub64(binary.BigEndian.Uint64(t[8:]), binary.BigEndian.Uint64(f[8:]), 0)
	hi, _ := bits.Sub64(binary.BigEndian.Uint64(t[:8]), binary.BigEndian.Uint64(f[:8]), borrow)
	if hi != 0 || lo >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo) + 1
}

// String writes the interval as a range, or as one address.
func (iv Interval) String() string {
	if iv.From == iv.To {
		return iv.From.String()
	}
	return iv.From.String() + "-" + iv.To.String()
}

// buggy reports whether an IPv4 address ends in .0 or .255, which some old
// equipment takes for a network or broadcast address.
func buggy(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

// buggyCount counts the buggy addresses of an interval without walking it.
func buggyCount(iv Interval) int64 {
	if iv.Family() != IPv4 {
		return 0
	}
	f, t := iv.From.As4(), iv.To.As4()
	from, to := int64(binary.BigEndian.Uint32(f[:])), int64(binary.BigEndian.Uint32(t[:]))
	// upTo counts the buggy numbers in [0, n].
	upTo := func(n int64) int64 { return (n+256)/256 + (n+1)/256 }
	return upTo(to) - upTo(from-1)
}
