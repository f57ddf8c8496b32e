// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// shares are the addresses that can be joined, by what a Service must have in common
// with their tenants.
type shares map[shareKey][]*shareList

type shareKey struct{ key, backends string }

// shareList are the addresses of one pool and family that can be joined. The lists of
// a key are in the order in which pools serve Services.
type shareList struct {
	pool   *Pool
	family Family
	// addrs are sorted.
	addrs []netip.Addr
	// ports counts how many of the addresses have a port, so that a port that all of them
	// have ends the search at once.
	ports map[Port]int
}

// shareable returns what a Service must have to join, if any can.
func shareable(h Holding) (shareKey, bool) {
	if h.State != Bound || h.SharingKey == "" || h.SharingKey == ExternalKey || len(h.Tenants) == 0 {
		return shareKey{}, false
	}
	backends := h.Tenants[0].Backends
	for _, t := range h.Tenants[1:] {
		if t.Backends != backends {
			return shareKey{}, false
		}
	}
	return shareKey{h.SharingKey, backends}, true
}

// place finds the list of a pool and family among a key's lists.
func (s shares) place(k shareKey, p *Pool, f Family) (int, bool) {
	return slices.BinarySearchFunc(s[k], p, func(l *shareList, p *Pool) int {
		return cmp.Or(cmp.Compare(l.pool.order, p.order), cmp.Compare(l.pool.id, p.id), cmp.Compare(l.family, f))
	})
}

// share takes an address into the lists, if it can be joined.
func (l *Ledger) share(a netip.Addr, h Holding) {
	k, ok := shareable(h)
	p, inPool := l.set.ByAddr(a)
	if !ok || !inPool {
		return
	}
	i, found := l.shares.place(k, p, FamilyOf(a))
	if !found {
		l.shares[k] = slices.Insert(l.shares[k], i, &shareList{pool: p, family: FamilyOf(a), ports: make(map[Port]int)})
	}
	list := l.shares[k][i]
	at, _ := slices.BinarySearchFunc(list.addrs, a, netip.Addr.Compare)
	list.addrs = slices.Insert(list.addrs, at, a)
	for _, t := range h.Tenants {
		for _, port := range t.Ports {
			list.ports[port]++
		}
	}
}

// unshare takes it out again.
func (l *Ledger) unshare(a netip.Addr, h Holding) {
	k, ok := shareable(h)
	p, inPool := l.set.ByAddr(a)
	if !ok || !inPool {
		return
	}
	i, found := l.shares.place(k, p, FamilyOf(a))
	if !found {
		return
	}
	list := l.shares[k][i]
	at, found := slices.BinarySearchFunc(list.addrs, a, netip.Addr.Compare)
	if !found {
		return
	}
	list.addrs = slices.Delete(list.addrs, at, at+1)
	for _, t := range h.Tenants {
		for _, port := range t.Ports {
			if list.ports[port]--; list.ports[port] == 0 {
				delete(list.ports, port)
			}
		}
	}
	if len(list.addrs) > 0 {
		return
	}
	if l.shares[k] = slices.Delete(l.shares[k], i, i+1); len(l.shares[k]) == 0 {
		delete(l.shares, k)
	}
}

// joinable returns the lowest address of a list that the Service can join and that is
// not below from.
func (l *Ledger) joinable(list *shareList, req *Request, from netip.Addr) (netip.Addr, bool) {
	for _, p := range req.Ports {
		if list.ports[p] >= len(list.addrs) {
			return netip.Addr{}, false
		}
	}
	at, _ := slices.BinarySearchFunc(list.addrs, from, netip.Addr.Compare)
	tenant := req.Tenant()
	for _, a := range list.addrs[at:] {
		h := l.held[a]
		if list.pool.usable(a) && !l.Reserved(a) && !h.Names(req.UID) && misfitOf(h, &tenant, req.SharingKey).kind == fits {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// addrList is a set of addresses, mostly of one, which takes no memory of its own.
type addrList struct {
	one netip.Addr
	// more are sorted.
	more []netip.Addr
}

func (l *Ledger) keep(a netip.Addr, h Holding) {
	for _, s := range keepers(h) {
		list := l.kept[s.Service]
		switch i, listed := slices.BinarySearchFunc(list.more, a, netip.Addr.Compare); {
		case listed || list.one == a:
			continue
		case !list.one.IsValid():
			list.one = a
		default:
			list.more = slices.Insert(list.more, i, a)
		}
		l.kept[s.Service] = list
	}
}

func (l *Ledger) unkeep(a netip.Addr, h Holding) {
	for _, s := range keepers(h) {
		list := l.kept[s.Service]
		if i, listed := slices.BinarySearchFunc(list.more, a, netip.Addr.Compare); listed {
			list.more = slices.Delete(list.more, i, i+1)
		} else if list.one == a {
			list.one = netip.Addr{}
			if last := len(list.more) - 1; last >= 0 {
				list.one, list.more = list.more[last], list.more[:last]
			}
		}
		if !list.one.IsValid() {
			delete(l.kept, s.Service)
			continue
		}
		l.kept[s.Service] = list
	}
}

// keepers are the tenants whose namesakes may take an address over.
func keepers(h Holding) []Tenant {
	if h.State == Retained || h.State == Bound && len(h.Tenants) == 1 {
		return h.Tenants
	}
	return nil
}

// keptFor returns the lowest address of a family above another one that a Service may
// take over from its namesake.
func (l *Ledger) keptFor(key loadbalancer.ServiceKey, uid loadbalancer.ServiceUID, f Family, above netip.Addr) (netip.Addr, bool) {
	list := l.kept[key]
	best := netip.Addr{}
	consider := func(a netip.Addr) {
		if a.IsValid() && FamilyOf(a) == f && above.Less(a) && (!best.IsValid() || a.Less(best)) && l.held[a].namesake(key, uid) {
			best = a
		}
	}
	consider(list.one)
	for _, a := range list.more {
		consider(a)
	}
	return best, best.IsValid()
}
