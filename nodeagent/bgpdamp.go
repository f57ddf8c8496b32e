// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	// dampBurst is how often a route may be withdrawn or changed before it is calmed down,
	// dampRefill how long until it may once more.
	dampBurst  = 5
	dampRefill = 2 * time.Second
)

// damper calms routes down that come and go, or change, again and again: each time costs all
// routers of the network, and one that damps itself (RFC 2439) would leave the route out for
// minutes. To withdraw never waits. To tell again, and to change attributes, waits for
// [dampRefill] at most once a route has done so [dampBurst] times.
type damper struct {
	// in is what was wanted last, out what became of it.
	in, out map[string][]loadbalancer.BGPRoute
	drain   loadbalancer.BGPDrain
	// flaps are of routes that did something lately.
	flaps map[flapKey]flaps
	// next is when something that waits may be told, zero for nothing.
	next time.Time
}

type flapKey struct {
	peer   string
	prefix netip.Prefix
}

// flaps is how often a route may still change, as of a time.
type flaps struct {
	left int
	at   time.Time
}

// pass returns what of the routes is to be told now. What did not change is the same slices.
func (d *damper) pass(now time.Time, routes map[string][]loadbalancer.BGPRoute, drain loadbalancer.BGPDrain) map[string][]loadbalancer.BGPRoute {
	for k, f := range d.flaps {
		if f = f.asOf(now); f.left == dampBurst {
			delete(d.flaps, k)
		} else {
			d.flaps[k] = f
		}
	}
	// A drain changes all routes once, and must not wait.
	free, waited := d.drain != drain, !d.next.IsZero()
	d.drain, d.next = drain, time.Time{}
	out, changed := make(map[string][]loadbalancer.BGPRoute, len(routes)), false
	type pair struct{ before, now *loadbalancer.BGPRoute }
	done := make(map[pair][]loadbalancer.BGPRoute)
	for peer, before := range d.out {
		if _, some := routes[peer]; !some {
			d.calm(now, peer, before, nil, free) // which notes that all are withdrawn
		}
	}
	for _, peer := range slices.Sorted(maps.Keys(routes)) {
		want, before := routes[peer], d.out[peer]
		if !waited && !free && shared(want, d.in[peer]) {
			out[peer] = before
			changed = changed || !shared(want, before)
			continue
		}
		p := pair{firstOf(before), firstOf(want)}
		list, known := done[p] // peers that are told the same
		if !known {
			list = d.calm(now, peer, before, want, free)
			done[p] = list
		}
		out[peer] = list
		changed = changed || !shared(list, want)
	}
	d.in, d.out = routes, out
	if !changed {
		d.out = routes
	}
	return d.out
}

// calm walks what a peer was told and what it is to be told, side by side.
func (d *damper) calm(now time.Time, peer string, before, want []loadbalancer.BGPRoute, free bool) []loadbalancer.BGPRoute {
	if free {
		return want
	}
	// Routes that wait: with the attributes that they keep, nil for those that are left out.
	wait := make(map[int]*loadbalancer.BGPAttributes)
	for i, j := 0, 0; i < len(before) || j < len(want); {
		side := 0
		switch {
		case i == len(before):
			side = 1
		case j == len(want):
			side = -1
		case before[i].Prefix != want[j].Prefix:
			side = before[i].Prefix.Compare(want[j].Prefix)
		}
		switch {
		case side < 0:
			d.spend(now, flapKey{peer, before[i].Prefix})
			i++
			continue
		case side > 0:
			if !d.may(flapKey{peer, want[j].Prefix}) {
				wait[j] = nil
			}
			j++
			continue
		case want[j].Equal(&before[i].BGPAttributes):
		case d.may(flapKey{peer, want[j].Prefix}):
			d.spend(now, flapKey{peer, want[j].Prefix})
		default:
			wait[j] = &before[i].BGPAttributes
		}
		i, j = i+1, j+1
	}
	if len(wait) == 0 {
		return want
	}
	out := make([]loadbalancer.BGPRoute, 0, len(want))
	for j := range want {
		r := want[j]
		keeps, waits := wait[j]
		switch {
		case waits && keeps == nil:
			continue
		case waits:
			r.BGPAttributes = *keeps
		}
		out = append(out, r)
	}
	return out
}

// may says whether a route may be told, or changed, now; it notes when, if not.
func (d *damper) may(k flapKey) bool {
	f, flapped := d.flaps[k]
	if !flapped || f.left > 0 {
		return true
	}
	if at := f.at.Add(dampRefill); d.next.IsZero() || at.Before(d.next) {
		d.next = at
	}
	return false
}

// spend notes that a route was withdrawn or changed.
func (d *damper) spend(now time.Time, k flapKey) {
	f, flapped := d.flaps[k]
	if !flapped {
		f = flaps{dampBurst, now}
	}
	f.left = max(0, f.left-1)
	if d.flaps == nil {
		d.flaps = make(map[flapKey]flaps)
	}
	d.flaps[k] = f
}

// due says whether something that waits may be told.
func (d *damper) due(now time.Time) bool { return !d.next.IsZero() && !now.Before(d.next) }

func (f flaps) asOf(now time.Time) flaps {
	n := int(now.Sub(f.at) / dampRefill)
	return flaps{min(dampBurst, f.left+n), f.at.Add(time.Duration(n) * dampRefill)}
}

func firstOf(routes []loadbalancer.BGPRoute) *loadbalancer.BGPRoute {
	if len(routes) == 0 {
		return nil
	}
	return &routes[0]
}

// shared says whether two are the same slice; plans are not written to.
func shared(a, b []loadbalancer.BGPRoute) bool { return len(a) == len(b) && firstOf(a) == firstOf(b) }
