// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Prefixes of communities that are not RFC 1997's.
const (
	prefixLarge  = "large:"
	prefixTarget = "target:"
	prefixOrigin = "origin:"
)

// wellKnownAS is the upper half of every well-known community.
const wellKnownAS = 0xffff

// wellKnown are the standard communities with a name that everybody knows, by IANA's registry
// of BGP well-known communities (RFC 1997, 3765, 7611, 7999, 8326 and 9494).
func wellKnown() map[string]uint32 {
	return map[string]uint32{
		"graceful-shutdown":   0x0000,
		"accept-own":          0x0001,
		"llgr-stale":          0x0006,
		"no-llgr":             0x0007,
		"blackhole":           0x029a,
		"no-export":           0xff01,
		"no-advertise":        0xff02,
		"no-export-subconfed": 0xff03,
		"local-as":            0xff03,
		"no-peer":             0xff04,
	}
}

// WellKnownCommunities returns the names of communities that need no alias, ascending.
func WellKnownCommunities() []string { return slices.Sorted(maps.Keys(wellKnown())) }

// ParseCommunity reads a community: "65000:1" (RFC 1997), "large:65000:1:2" (RFC 8092),
// "target:65000:1" and "origin:192.0.2.1:1" (RFC 4360), an alias, or a well-known name such as
// no-export. An alias comes before a well-known name, so that what MetalLB made of a
// configuration is made here too. In an extended community an AS number above 65535 or an
// address leaves 16 bits for the number behind it (RFC 4360 §3.2, RFC 5668), else there are 32.
func ParseCommunity(word string, aliases map[string]Community) (Community, error) {
	if c, ok := aliases[word]; ok {
		return c, nil
	}
	if low, ok := wellKnown()[word]; ok {
		return Community{A: wellKnownAS, B: low}, nil
	}
	var c Community
	ok := false
	switch {
	case strings.HasPrefix(word, prefixLarge):
		c, ok = parseLarge(word[len(prefixLarge):])
	case strings.HasPrefix(word, prefixTarget):
		c, ok = parseExtended(RouteTarget, word[len(prefixTarget):])
	case strings.HasPrefix(word, prefixOrigin):
		c, ok = parseExtended(RouteOrigin, word[len(prefixOrigin):])
	default:
		c, ok = parseStandard(word)
	}
	if !ok {
		return Community{}, fmt.Errorf("%q is no community: neither numbers such as 65000:1, large:65000:1:2 or target:65000:1, nor a well-known name, nor an alias of a Community", word)
	}
	return c, nil
}

func parseStandard(text string) (Community, bool) {
	n, ok := numbers(text, 2, math.MaxUint16)
	if !ok {
		return Community{}, false
	}
	return Community{A: n[0], B: n[1]}, true
}

func parseLarge(text string) (Community, bool) {
	n, ok := numbers(text, 3, math.MaxUint32)
	if !ok {
		return Community{}, false
	}
	return Community{Kind: LargeCommunity, A: n[0], B: n[1], C: n[2]}, true
}

func parseExtended(kind CommunityKind, text string) (Community, bool) {
	head, tail, _ := strings.Cut(text, ":")
	if addr, err := netip.ParseAddr(head); err == nil && addr.Is4() {
		b, ok := number(tail, math.MaxUint16)
		four := addr.As4()
		return Community{Kind: kind, A: binary.BigEndian.Uint32(four[:]), B: b, Address: true}, ok
	}
	a, okA := number(head, math.MaxUint32)
	limit := uint32(math.MaxUint32)
	if a > math.MaxUint16 {
		limit = math.MaxUint16
	}
	b, okB := number(tail, limit)
	return Community{Kind: kind, A: a, B: b}, okA && okB
}

// numbers reads count numbers between colons.
func numbers(text string, count int, limit uint32) ([]uint32, bool) {
	fields := strings.Split(text, ":")
	if len(fields) != count {
		return nil, false
	}
	out := make([]uint32, 0, count)
	for _, f := range fields {
		n, ok := number(f, limit)
		if !ok {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

func number(text string, limit uint32) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && uint32(n) <= limit // of 32 bits, by ParseUint
}

// String returns the community as ParseCommunity reads it.
func (c Community) String() string {
	a := strconv.FormatUint(uint64(c.A), 10)
	if c.Address {
		var four [4]byte
		binary.BigEndian.PutUint32(four[:], c.A)
		a = netip.AddrFrom4(four).String()
	}
	b := strconv.FormatUint(uint64(c.B), 10)
	switch c.Kind {
	case LargeCommunity:
		return prefixLarge + a + ":" + b + ":" + strconv.FormatUint(uint64(c.C), 10)
	case RouteTarget:
		return prefixTarget + a + ":" + b
	case RouteOrigin:
		return prefixOrigin + a + ":" + b
	case StandardCommunity:
	}
	return a + ":" + b
}

// Compare orders communities: standard ones, large ones, route targets, route origins, each by
// their numbers.
func (c Community) Compare(d Community) int {
	return cmp.Or(cmp.Compare(c.Kind, d.Kind), cmp.Compare(c.A, d.A), cmp.Compare(c.B, d.B), cmp.Compare(c.C, d.C), CompareBools(c.Address, d.Address))
}

// SortCommunities returns communities ascending and each once, in a slice of its own.
func SortCommunities(in ...Community) []Community {
	out := slices.Clone(in)
	slices.SortFunc(out, Community.Compare)
	return slices.Clip(slices.Compact(out))
}
