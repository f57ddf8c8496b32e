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
	// addrs are sorted; so are, by port, those of them where a tenant has the port.
	addrs []netip.Addr
	ports map[Port][]netip.Addr
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
		l.shares[k] = slices.Insert(l.shares[k], i, &shareList{pool: p, family: FamilyOf(a), ports: make(map[Port][]netip.Addr)})
	}
	list := l.shares[k][i]
	list.addrs = insert(list.addrs, a)
	list.setPorts(a, Holding{}, h)
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
	list.addrs = remove(list.addrs, a)
	list.setPorts(a, h, Holding{})
	if len(list.addrs) > 0 {
		return
	}
	if l.shares[k] = slices.Delete(l.shares[k], i, i+1); len(l.shares[k]) == 0 {
		delete(l.shares, k)
	}
}

// reshare replaces one holding of an address by another.
func (l *Ledger) reshare(a netip.Addr, old, h Holding) {
	was, before := shareable(old)
	is, after := shareable(h)
	p, inPool := l.set.ByAddr(a)
	if before && after && was == is && inPool {
		if i, found := l.shares.place(is, p, FamilyOf(a)); found {
			l.shares[is][i].setPorts(a, old, h)
			return
		}
	}
	l.unshare(a, old)
	l.share(a, h)
}

// setPorts brings the lists by port from one holding of an address to another.
func (s *shareList) setPorts(a netip.Addr, old, h Holding) {
	for _, t := range h.Tenants {
		for _, p := range t.Ports {
			s.ports[p] = insert(s.ports[p], a)
		}
	}
	for _, t := range old.Tenants {
		for _, p := range t.Ports {
			if slices.ContainsFunc(h.Tenants, func(t Tenant) bool { return slices.Contains(t.Ports, p) }) {
				continue
			}
			if s.ports[p] = remove(s.ports[p], a); len(s.ports[p]) == 0 {
				delete(s.ports, p)
			}
		}
	}
}

// insert adds an address to a sorted list, once.
func insert(list []netip.Addr, a netip.Addr) []netip.Addr {
	i, listed := slices.BinarySearchFunc(list, a, netip.Addr.Compare)
	if listed {
		return list
	}
	return slices.Insert(list, i, a)
}

// remove takes an address out of a sorted list.
func remove(list []netip.Addr, a netip.Addr) []netip.Addr {
	i, listed := slices.BinarySearchFunc(list, a, netip.Addr.Compare)
	if !listed {
		return list
	}
	return slices.Delete(list, i, i+1)
}

// without returns the place of the first address from a place on where no tenant has
// the port, len(addrs) if there is none. Where every address has the port, both lists
// run in step; from the first one without it they never meet again: so it is found by
// halving, however many addresses there are.
func (s *shareList) without(p Port, from int) int {
	with := s.ports[p]
	if from == len(s.addrs) || len(with) == 0 {
		return from
	}
	start, _ := slices.BinarySearchFunc(with, s.addrs[from], netip.Addr.Compare)
	with = with[start:]
	low, high := 0, len(s.addrs)-from
	for low < high {
		mid := int(uint(low+high) >> 1)
		if mid < len(with) && with[mid] == s.addrs[from+mid] {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return from + low
}

// joinable returns the place of the first address from a place on that the Service can
// join, len(addrs) if there is none.
func (l *Ledger) joinable(list *shareList, req *Request, from int) int {
	tenant := req.Tenant()
	for ; from < len(list.addrs); from++ {
		for again := true; again; {
			again = false
			for _, p := range req.Ports {
				if next := list.without(p, from); next != from {
					from, again = next, true
				}
			}
		}
		if from == len(list.addrs) {
			break
		}
		a := list.addrs[from]
		h := l.held[a]
		if list.pool.usable(a) && !l.Reserved(a) && !h.Names(req.UID) && misfitOf(h, &tenant, req.SharingKey).kind == fits {
			break
		}
	}
	return from
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
		switch {
		case list.one == a:
			continue
		case !list.one.IsValid():
			list.one = a
		default:
			list.more = insert(list.more, a)
		}
		l.kept[s.Service] = list
	}
}

func (l *Ledger) unkeep(a netip.Addr, h Holding) {
	for _, s := range keepers(h) {
		list := l.kept[s.Service]
		if list.one != a {
			list.more = remove(list.more, a)
		} else {
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

// keepers are the tenants whose namesakes may take an address, or their place on it, over.
func keepers(h Holding) []Tenant {
	if h.State == Releasing {
		return nil
	}
	return h.Tenants
}

// keptFor returns the lowest address of a family above another one that a Service may
// take over from its namesake.
func (l *Ledger) keptFor(key loadbalancer.ServiceKey, uid loadbalancer.ServiceUID, f Family, above netip.Addr) (netip.Addr, bool) {
	list := l.kept[key]
	best := netip.Addr{}
	consider := func(a netip.Addr) {
		if a.IsValid() && FamilyOf(a) == f && above.Less(a) && (!best.IsValid() || a.Less(best)) && (l.held[a].namesake(key, uid) || l.held[a].succeeds(key, uid)) {
			best = a
		}
	}
	consider(list.one)
	for _, a := range list.more {
		consider(a)
	}
	return best, best.IsValid()
}
