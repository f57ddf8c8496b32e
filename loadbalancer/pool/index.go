// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"math/bits"
	"slices"
)

// index finds the lowest free address of a pool in as many steps as an address has
// digits of six bits (6 for IPv4, at most 22 for IPv6), however many addresses the
// pool has and however full it is. It is a tree of 64-bit maps, one bit per child or,
// at the bottom, per address. A subtree that is all free or all blocked is one bit in
// its parent, so that neither the size of a pool nor its long used runs take memory.
//
// What lies outside the pool is blocked. With avoid, addresses that end in .0 or .255
// are blocked too: a bottom map that is not there is read as if it had their bits set,
// so that a pool that is full but for them is seen to be full. Nodes that are not
// needed any more are used again: a pool of steady fill allocates nothing.
type index struct {
	// nodes[0] is the root; children are referred to by their place here.
	nodes []node
	spare []uint32
	// top is the root's level; every key of the pool has the digits of base above it.
	top   int
	base  key
	avoid bool
}

// node has 64 children, or addresses at level 0. A child is blocked (its bit in full),
// mixed (its bit in has, and an entry in kids) or else free.
type node struct {
	full, has uint64
	kids      []uint32
}

const allFull = ^uint64(0)

// newIndex returns an index for keys from one to another, all of them blocked.
func newIndex(from, to key, avoid bool) *index {
	x := &index{nodes: []node{{full: allFull}}, avoid: avoid}
	for from.andNot(lowBits((x.top+1)*digitBits)) != to.andNot(lowBits((x.top+1)*digitBits)) {
		x.top++
	}
	x.base = from.andNot(lowBits((x.top + 1) * digitBits))
	return x
}

// isFull reports whether there is no free address.
func (x *index) isFull() bool { return x.nodes[0].full == allFull }

// block takes a range of addresses, free gives them back.
func (x *index) block(from, to key) { x.mark(0, x.top, x.base, from, to, true) }
func (x *index) free(from, to key)  { x.mark(0, x.top, x.base, from, to, false) }

// maxLevels is how many digits the longest key has.
const maxLevels = 22

// markOne is mark for one address. It climbs back no further than something changes.
func (x *index) markOne(k key, block bool) {
	var path [maxLevels]uint32
	id := uint32(0)
	for level := x.top; level > 0; level-- {
		path[level] = id
		d := k.digit(level)
		n := &x.nodes[id]
		if bit := uint64(1) << d; n.has&bit != 0 {
			id = n.kids[bits.OnesCount64(n.has&(bit-1))]
			continue
		}
		child, ok := x.open(id, d, level-1, k, block)
		if !ok {
			return
		}
		id = child
	}
	fresh := x.avoided(k)
	if n, bit := &x.nodes[id], uint64(1)<<(k.lo&63); block {
		n.full |= bit
	} else {
		n.full = n.full&^bit | fresh
	}
	for level := 1; level <= x.top; level++ {
		n := &x.nodes[id]
		full := n.full == allFull
		if !full && (n.has != 0 || n.full != fresh) {
			return
		}
		id, fresh = path[level], 0
		d := k.digit(level)
		x.drop(id, d)
		if full {
			x.nodes[id].full |= 1 << d
		}
	}
}

// avoided returns the addresses that a bottom map has blocked from the start; base is
// any key in it.
func (x *index) avoided(base key) uint64 {
	if !x.avoid {
		return 0
	}
	switch base.lo >> digitBits & 3 {
	case 0:
		return 1
	case 3:
		return 1 << 63
	default:
		return 0
	}
}

// mark blocks or frees from..to, which lie below the node; base is its lowest key.
func (x *index) mark(id uint32, level int, base, from, to key, block bool) {
	if level == 0 {
		m := allFull << (from.lo & 63) & (allFull >> (63 - to.lo&63))
		if n := &x.nodes[id]; block {
			n.full |= m
		} else {
			n.full = n.full&^m | x.avoided(base)
		}
		return
	}
	lo, hi := from.digit(level), to.digit(level)
	for d := lo; d <= hi; d++ {
		first := base.with(level, d)
		last := first.or(lowBits(level * digitBits))
		begin, end := first, last
		if d == lo {
			begin = from
		}
		if d == hi {
			end = to
		}
		if begin == first && end == last {
			x.settle(id, d, block)
			continue
		}
		child, ok := x.open(id, d, level-1, first, block)
		if !ok {
			continue
		}
		x.mark(child, level-1, first, begin, end, block)
		x.close(id, d, child, level-1, first)
	}
}

// settle makes a child all blocked or all free.
func (x *index) settle(id uint32, d uint, block bool) {
	bit := uint64(1) << d
	if x.nodes[id].has&bit != 0 {
		x.drop(id, d)
	}
	if block {
		x.nodes[id].full |= bit
	} else {
		x.nodes[id].full &^= bit
	}
}

// open returns a child to mark, and makes it if it is not mixed yet. There is none when
// it is already all that it would become.
func (x *index) open(id uint32, d uint, level int, base key, block bool) (uint32, bool) {
	bit := uint64(1) << d
	n := &x.nodes[id]
	place := bits.OnesCount64(n.has & (bit - 1))
	if n.has&bit != 0 {
		return n.kids[place], true
	}
	if blocked := n.full&bit != 0; blocked == block {
		return 0, false
	}
	var full uint64
	switch {
	case !block:
		full = allFull
	case level == 0:
		full = x.avoided(base)
	}
	n.full &^= bit
	n.has |= bit
	var child uint32
	if last := len(x.spare) - 1; last >= 0 {
		child = x.spare[last]
		x.spare = x.spare[:last]
		x.nodes[child].full = full
	} else {
		child = uint32(len(x.nodes)) //nolint:gosec // one per used address at most
		x.nodes = append(x.nodes, node{full: full})
		n = &x.nodes[id]
	}
	n.kids = slices.Insert(n.kids, place, child)
	return child, true
}

// close gives a child up that has become all blocked or all free.
func (x *index) close(id uint32, d uint, child uint32, level int, base key) {
	c := &x.nodes[child]
	fresh := uint64(0)
	if level == 0 {
		fresh = x.avoided(base)
	}
	switch {
	case c.full == allFull:
		x.drop(id, d)
		x.nodes[id].full |= 1 << d
	case c.has == 0 && c.full == fresh:
		x.drop(id, d)
	}
}

// drop takes a mixed child out and keeps its nodes for later.
func (x *index) drop(id uint32, d uint) {
	n := &x.nodes[id]
	bit := uint64(1) << d
	place := bits.OnesCount64(n.has & (bit - 1))
	x.recycle(n.kids[place])
	n.kids = slices.Delete(n.kids, place, place+1)
	n.has &^= bit
}

func (x *index) recycle(id uint32) {
	for _, k := range x.nodes[id].kids {
		x.recycle(k)
	}
	n := &x.nodes[id]
	n.has, n.kids = 0, n.kids[:0]
	x.spare = append(x.spare, id)
}

// next returns the lowest free key that is not below from.
func (x *index) next(from key) (key, bool) {
	last := x.base.or(lowBits((x.top + 1) * digitBits))
	if last.less(from) {
		return key{}, false
	}
	if from.less(x.base) {
		from = x.base
	}
	return x.lowest(0, x.top, x.base, from)
}

// lowest returns the lowest free key below a node that is not below from. Only the
// first child that it looks into can disappoint: the others it looks into whole, and
// what is not full has something free.
func (x *index) lowest(id uint32, level int, base, from key) (key, bool) {
	n := &x.nodes[id]
	first := from.digit(level)
	for open := ^n.full >> first << first; open != 0; open &= open - 1 {
		d := uint(bits.TrailingZeros64(open))
		child := base.with(level, d)
		if level == 0 {
			return child, true
		}
		begin := child
		if d == first {
			begin = from
		}
		bit := uint64(1) << d
		if n.has&bit == 0 {
			if k, ok := x.lowestOfFree(begin, child.or(lowBits(level*digitBits))); ok {
				return k, true
			}
			continue
		}
		if k, ok := x.lowest(n.kids[bits.OnesCount64(n.has&(bit-1))], level-1, child, begin); ok {
			return k, true
		}
	}
	return key{}, false
}

// lowestOfFree returns the lowest key of from..to that is not avoided; to ends a bottom map.
func (x *index) lowestOfFree(from, to key) (key, bool) {
	if !x.avoid {
		return from, true
	}
	bottom := from.andNot(lowBits(digitBits))
	if open := ^x.avoided(bottom) >> (from.lo & 63) << (from.lo & 63); open != 0 {
		return bottom.or(key{lo: uint64(bits.TrailingZeros64(open))}), true //nolint:gosec // below 64
	}
	if bottom == to.andNot(lowBits(digitBits)) {
		return key{}, false
	}
	bottom.lo += 64
	return bottom.or(key{lo: x.avoided(bottom) & 1}), true
}
