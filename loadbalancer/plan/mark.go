// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"encoding/binary"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Packet marks are of this node's own making only where MarkMask matches MarkBase: mangle
// rules of others use single bits. kube-proxy's, 14 and 15, are never in a mark.
const (
	MarkBase uint32 = 0x0fa00000
	MarkMask uint32 = 0xfff00000
)

// markKey is what a mark stands for: one port of a Service in one family.
type markKey struct {
	uid   loadbalancer.ServiceUID
	port  uint16
	proto loadbalancer.Protocol
	is6   bool
}

func compareMarkKeys(a, b markKey) int {
	return cmp.Or(cmp.Compare(a.uid, b.uid), cmp.Compare(a.port, b.port), cmp.Compare(a.proto, b.proto), loadbalancer.CompareBools(a.is6, b.is6))
}

// candidate is the mark that the key takes at its n-th try.
func (k markKey) candidate(n uint32) uint32 {
	h := uint64(14695981039346656037) // FNV-1a
	mix := func(b byte) { h = (h ^ uint64(b)) * 1099511628211 }
	for i := range len(k.uid) {
		mix(k.uid[i])
	}
	var rest [8]byte
	binary.BigEndian.PutUint16(rest[:], k.port)
	rest[2] = byte(k.proto)
	if k.is6 {
		rest[3] = 1
	}
	binary.BigEndian.PutUint32(rest[4:], n)
	for _, b := range rest {
		mix(b)
	}
	h ^= h >> 33 // the finalizer of MurmurHash3, for FNV is poor in its low bits
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return MarkBase | uint32(h&0x3fff) | uint32(h>>14&0xf)<<16
}

// maxTries bounds how often a key looks for a mark of its own. There are 2^18: keys for which
// that is not enough, which is beyond what any kernel would bear, get 0.
const maxTries = 100

// marks gives every key a mark of its own, by index; it follows from the set of keys. At each
// try, of the keys that want the same mark the lowest gets it and the others try again. A
// key that comes or goes therefore changes no mark but of one that hashes to the same: of
// 20,000 keys it meets another one in one case of thirteen.
func marks(keys []markKey) []uint32 {
	out := make([]uint32, len(keys))
	taken := make(map[uint32]struct{}, len(keys))
	left := make([]int, len(keys))
	for i := range keys {
		left[i] = i
	}
	for n := uint32(0); len(left) > 0 && n < maxTries; n++ {
		winners := make(map[uint32]int, len(left))
		var again []int
		for _, i := range left {
			mark := keys[i].candidate(n)
			if _, ok := taken[mark]; ok {
				again = append(again, i)
				continue
			}
			if other, ok := winners[mark]; ok {
				if compareMarkKeys(keys[other], keys[i]) < 0 {
					again = append(again, i)
					continue
				}
				again = append(again, other)
			}
			winners[mark] = i
		}
		for mark, i := range winners {
			taken[mark] = struct{}{}
			out[i] = mark
		}
		left = again
	}
	return out
}
