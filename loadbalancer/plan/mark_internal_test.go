// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

func someKeys(r *rand.Rand, n int) []markKey {
	out := make([]markKey, 0, n)
	for i := range n {
		out = append(out, markKey{
			uid:  loadbalancer.ServiceUID(fmt.Sprintf("%08x-%04x-%d", r.Uint32(), r.Uint32()>>16, i/4)),
			port: uint16(r.Uint32()), proto: loadbalancer.TCP, is6: i%2 == 0,
		})
	}
	return out
}

func byKey(tb testing.TB, keys []markKey) map[markKey]uint32 {
	tb.Helper()
	out := make(map[markKey]uint32, len(keys))
	seen := make(map[uint32]markKey, len(keys))
	for i, mark := range marks(keys) {
		if mark&MarkMask != MarkBase || mark&0xc000 != 0 {
			tb.Errorf("mark %08x of %+v is outside of ours, or has a bit of kube-proxy's", mark, keys[i])
		}
		if other, ok := seen[mark]; ok {
			tb.Errorf("mark %08x is that of %+v and of %+v", mark, other, keys[i])
		}
		seen[mark], out[keys[i]] = keys[i], mark
	}
	return out
}

// Marks are unique, follow from the set alone, and stay when others come and go, up to collisions.
func TestMarks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, 1))
		keys := someKeys(r, 20000)
		before := byKey(t, keys)
		shuffled := slices.Clone(keys)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for k, mark := range byKey(t, shuffled) {
			if before[k] != mark {
				t.Errorf("mark of %+v depends on the order: %08x, %08x", k, before[k], mark)
			}
		}
		after := byKey(t, append(shuffled[100:], someKeys(r, 100)...)) // 100 go, 100 others come
		wants := make(map[uint32]int)
		for k := range after {
			wants[k.candidate(0)]++
		}
		for k := range before {
			if _, stays := after[k]; !stays {
				wants[k.candidate(0)]++
			}
		}
		changed := 0
		for k, mark := range after {
			if old, ok := before[k]; ok && old != mark {
				changed++
				if wants[k.candidate(0)] == 1 {
					t.Errorf("mark of %+v changed though no other key wants it", k)
				}
			}
		}
		if changed > 30 { // about 15: each of 200 hits another's in one case of 13
			t.Errorf("%d marks changed", changed)
		}
	}
}
