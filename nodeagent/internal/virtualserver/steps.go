// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// order is what the order in which real servers were added means to a scheduler. The kernel
// puts each new one at the head of its list, and never moves one.
type order uint8

const (
	// indifferent: the order decides nothing that lasts (rr, wrr, lc, wlc, lblc, lblcr, sed, nq).
	indifferent order = iota
	// ranked: among equals the first of the list is taken (fo, ovf).
	ranked
	// hashed: a table is filled by walking along the list (sh, mh). In mh 0.1 % of its entries
	// with three real servers, and 2 % with fifty, depend on the order; in sh nearly all.
	// The place of a real server whose weight became 0 is kept, and new connections that hash
	// to it are refused, but by the fallback flags; one that was added with weight 0 has no
	// place in mh's table, and one of the last places of sh's.
	hashed
	// blind: a table is filled so without a look at the weights, and there is no fallback (dh).
	blind
)

// orderOf a scheduler.
func orderOf(scheduler string) order {
	switch scheduler {
	case "fo", "ovf":
		return ranked
	case "sh", "mh":
		return hashed
	case "dh":
		return blind
	default:
		return indifferent
	}
}

// verb of a step.
type verb uint8

const (
	add verb = iota
	update
	remove
	// expire is a remove that takes the connections too.
	expire
)

// step is one operation on a real server.
type step struct {
	verb verb
	loadbalancer.RealServer
}

// steps are those that make of the real servers that a virtual server has, in the order in
// which they were added, those that it should have, ascending: additions before what takes
// servers away. Where drains is true those that go stay, with weight 0.
//
// After the steps of a scheduler to which the order means something, real servers with
// weight are in the order in which a node that begins now would add them, so that all nodes
// choose alike. One that has to move is removed and added again at once: its connections
// stay, but a packet in between is lost.
func steps(o order, have []member, want []loadbalancer.RealServer, drains bool) []step {
	if o == blind {
		// A real server of weight 0 would have its share of new connections refused.
		drains = false
		want = slices.DeleteFunc(slices.Clone(want), func(r loadbalancer.RealServer) bool { return r.Weight == 0 })
	}
	present := make(map[loadbalancer.RealServerKey]*member, len(have))
	for i := range have {
		present[have[i].RealServerKey] = &have[i]
	}
	wanted := make(map[loadbalancer.RealServerKey]uint32, len(want))
	for _, r := range want {
		wanted[r.RealServerKey] = r.Weight
	}
	out := weighted(o, have, want, present, wanted)
	for _, r := range want {
		if r.Weight == 0 {
			out = append(out, toZero(o, present[r.RealServerKey], r)...)
		}
	}
	for i := range have {
		h := &have[i]
		if _, stays := wanted[h.RealServerKey]; stays {
			continue
		}
		gone := loadbalancer.RealServer{RealServerKey: h.RealServerKey}
		if drains && !h.overdue {
			out = append(out, toZero(o, h, gone)...)
		} else {
			out = append(out, step{expire, gone})
		}
	}
	return out
}

// weighted are the steps for those real servers that are to have weight.
func weighted(o order, have []member, want []loadbalancer.RealServer, present map[loadbalancer.RealServerKey]*member,
	wanted map[loadbalancer.RealServerKey]uint32,
) []step {
	// placed are those that keep their place in the order, if it is the right one.
	var placed []loadbalancer.RealServerKey
	if o != indifferent {
		for i := range have {
			if have[i].Weight > 0 && wanted[have[i].RealServerKey] > 0 {
				placed = append(placed, have[i].RealServerKey)
			}
		}
	}
	var out []step
	right := true
	for _, r := range want {
		if r.Weight == 0 {
			continue
		}
		h := present[r.RealServerKey]
		if o != indifferent && right {
			right = len(placed) > 0 && placed[0] == r.RealServerKey
			if right {
				placed = placed[1:]
			}
		}
		switch {
		case h == nil:
			out = append(out, step{add, r})
		case !right:
			out = append(out, step{remove, h.RealServer}, step{add, r})
		case h.Weight != r.Weight || h.odd:
			out = append(out, step{update, r})
		}
	}
	return out
}

// toZero are the steps by which one real server gets weight 0.
func toZero(o order, h *member, r loadbalancer.RealServer) []step {
	switch {
	case h == nil:
		return []step{{add, r}}
	case o == hashed && !h.aside:
		return []step{{remove, h.RealServer}, {add, r}}
	case h.Weight != 0 || h.odd:
		return []step{{update, r}}
	default:
		return nil
	}
}
