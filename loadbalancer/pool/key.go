// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"encoding/binary"
	"net/netip"
)

// key is an address as a number, 32 or 128 bits wide: what the index counts with.
type key struct{ hi, lo uint64 }

func keyOf(a netip.Addr) key {
	if a.Is4() {
		b := a.As4()
		return key{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (k key) addr(f Family) netip.Addr {
	if f == IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k.lo)) //nolint:gosec // keys of IPv4 have 32 bits
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b)
}

func (k key) less(o key) bool { return k.hi < o.hi || k.hi == o.hi && k.lo < o.lo }

// next is k+1; the last key of all has none.
func (k key) next() (key, bool) {
	k.lo++
	if k.lo == 0 {
		k.hi++
	}
	return k, k.hi != 0 || k.lo != 0
}

// or and andNot work bit by bit.
func (k key) or(o key) key     { return key{k.hi | o.hi, k.lo | o.lo} }
func (k key) andNot(o key) key { return key{k.hi &^ o.hi, k.lo &^ o.lo} }

// lowBits returns the key whose n lowest bits are set.
func lowBits(n int) key {
	switch {
	case n >= 128:
		return key{^uint64(0), ^uint64(0)}
	case n >= 64:
		return key{1<<(n-64) - 1, ^uint64(0)}
	default:
		return key{0, 1<<n - 1}
	}
}

// digitBits is how many bits of a key one level of the index looks at.
const digitBits = 6

// digit returns the key's digit of a level, level 0 being the lowest.
func (k key) digit(level int) uint {
	shift := level * digitBits
	if shift >= 64 {
		return uint(k.hi>>(shift-64)) & 63
	}
	return uint(k.lo>>shift|k.hi<<(64-shift)) & 63
}

// with returns the key with a digit put where it has none yet.
func (k key) with(level int, digit uint) key {
	shift, d := level*digitBits, uint64(digit)
	if shift >= 64 {
		k.hi |= d << (shift - 64)
		return k
	}
	k.lo |= d << shift
	k.hi |= d >> (64 - shift)
	return k
}
