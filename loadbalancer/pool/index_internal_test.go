// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"

	"pgregory.net/rapid"
)

// The index behaves as a plain set of free keys, wherever it lies.
func TestIndexIsASet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const span = 5000
		base := rapid.SampledFrom([]key{
			{},
			{lo: 0xc0000200},
			{lo: 1<<32 - span},
			{lo: 1<<60 - 100},
			{hi: 1, lo: ^uint64(0) - 2500},
			{hi: 0x20010db8 << 32},
			{hi: ^uint64(0), lo: ^uint64(0) - span + 1},
		}).Draw(t, "base")
		at := func(i int) key {
			k := key{base.hi, base.lo + uint64(i)}
			if k.lo < base.lo {
				k.hi++
			}
			return k
		}
		avoid := rapid.Bool().Draw(t, "avoid")
		x := newIndex(at(0), at(span-1), avoid)
		free := make([]bool, span)
		draw := func(name string) (int, int) {
			from := rapid.IntRange(0, span-1).Draw(t, name+" from")
			size := rapid.SampledFrom([]int{1, 1, 1, 2, 63, 64, 65, 255, 256, 1000, span}).Draw(t, name+" size")
			return from, min(from+size, span) - 1
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			from, to := draw("mark")
			block := rapid.Bool().Draw(t, "block")
			switch {
			case from == to:
				x.markOne(at(from), block)
			case block:
				x.block(at(from), at(to))
			default:
				x.free(at(from), at(to))
			}
			for i := from; i <= to; i++ {
				last := byte(at(i).lo)
				free[i] = !block && (!avoid || last != 0 && last != 255)
			}
			start, _ := draw("look")
			want, found := start, true
			for found && !free[want] {
				want++
				found = want < span
			}
			got, ok := x.next(at(start))
			if ok != found || ok && got != at(want) {
				t.Fatalf("next(%d) = %x, %v, want %x, %v", start, got, ok, at(min(want, span-1)), found)
			}
			some := false
			for _, f := range free {
				some = some || f
			}
			if x.isFull() == some {
				t.Fatalf("isFull is %v", x.isFull())
			}
		}
		for i := range span {
			x.markOne(at(i), true)
		}
		if live := len(x.nodes) - len(x.spare); live != 1 {
			t.Fatalf("%d nodes live in a full index", live)
		}
	})
}
