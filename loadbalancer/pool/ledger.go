// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// State is what a held address is held for.
type State uint8

const (
	// Bound says that the tenants have the address.
	Bound State = iota
	// Releasing says that nobody has it any more, but a node may still answer for it.
	Releasing
	// Retained says that nobody has it and that it is kept for a Service with a tenant's key.
	Retained
)

// Port is one port that a Service holds on an address.
type Port struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string
	Number   uint16
}

// Tenant is one Service on an address.
type Tenant struct {
	Service loadbalancer.ServiceKey
	UID     loadbalancer.ServiceUID
	Ports   []Port
	// Backends is empty under externalTrafficPolicy Cluster, a digest of the selector
	// under Local; sharers must agree on it.
	Backends string
}

// Holding is who holds an address, and how.
type Holding struct {
	State State
	// SharingKey is what a Service must say to join; empty: nobody may.
	SharingKey string
	// Tenants that have the address, or had it last. At least one.
	Tenants []Tenant
}

// Names reports whether a Service is a tenant.
func (h Holding) Names(uid loadbalancer.ServiceUID) bool {
	return slices.ContainsFunc(h.Tenants, func(t Tenant) bool { return t.UID == uid })
}

// first returns the first tenant's key, for messages.
func (h Holding) first() loadbalancer.ServiceKey {
	if len(h.Tenants) == 0 {
		return loadbalancer.ServiceKey{}
	}
	return h.Tenants[0].Service
}

// namesake reports whether a Service with a tenant's namespace and name may take the
// address over: it is retained, or its only tenant is a Service that was before it.
// A retained address must be one that its pool hands out too ([Pool.returns]).
func (h Holding) namesake(key loadbalancer.ServiceKey, uid loadbalancer.ServiceUID) bool {
	if h.State == Releasing || h.State == Bound && len(h.Tenants) != 1 {
		return false
	}
	return slices.ContainsFunc(h.Tenants, func(t Tenant) bool {
		return t.Service == key && (h.State == Retained || t.UID != uid)
	})
}

// succeeds reports whether a Service takes the place of a tenant of its name that is gone,
// beside others that it has to go with ([Fits]).
func (h Holding) succeeds(key loadbalancer.ServiceKey, uid loadbalancer.ServiceUID) bool {
	return h.State == Bound && len(h.Tenants) > 1 && !h.Names(uid) &&
		slices.ContainsFunc(h.Tenants, func(t Tenant) bool { return t.Service == key })
}

// Ledger is the book of taken addresses: held by a claim (or about to be), reserved
// because they are a node's own, or wanted because a Service without any claim shows
// them in its status. It keeps for every pool an index of what is free and counters,
// so that no operation walks addresses. Not safe for concurrent use.
type Ledger struct {
	held     map[netip.Addr]Holding
	reserved map[netip.Addr]string
	wanted   map[netip.Addr]map[loadbalancer.ServiceUID]loadbalancer.ServiceKey
	// kept are the addresses that a Service of a name may take over: retained ones, and
	// those with one tenant. Whether it may depends on its UID too.
	kept   map[loadbalancer.ServiceKey]addrList
	shares shares

	set *Set
	// books belong to the set's pools, by their id.
	books []*book
	// room has a free bit for each open pool with a free address, by family.
	room [2]*index
}

// NewLedger returns an empty book.
func NewLedger() *Ledger {
	l := &Ledger{
		held:     make(map[netip.Addr]Holding),
		reserved: make(map[netip.Addr]string),
		wanted:   make(map[netip.Addr]map[loadbalancer.ServiceUID]loadbalancer.ServiceKey),
		kept:     make(map[loadbalancer.ServiceKey]addrList),
		shares:   make(shares),
		set:      Compile(nil, nil),
	}
	l.makeRoom()
	return l
}

// SetPools tells the pools that addresses are handed out from. Call it when they
// change; what is booked stays booked. Pools whose addresses did not change cost
// nothing; for others all that is booked is looked at once.
func (l *Ledger) SetPools(s *Set) {
	if l.set == s {
		return
	}
	old := l.set
	books := make([]*book, len(s.pools))
	fresh := make(map[*book]struct{})
	for i, p := range s.pools {
		if was, ok := old.ByName(p.name); ok && was.sameAddresses(p) {
			books[i] = l.books[was.id]
			books[i].pool = p
			continue
		}
		books[i] = newBook(p)
		fresh[books[i]] = struct{}{}
	}
	l.set, l.books = s, books
	if len(fresh) > 0 {
		l.fill(fresh)
	}
	l.makeRoom()
	if len(fresh) == 0 && len(l.shares) == 0 {
		return
	}
	l.shares = make(shares)
	for a, h := range l.held {
		l.share(a, h)
	}
}

// fill books in new books what is booked already.
func (l *Ledger) fill(fresh map[*book]struct{}) {
	in := func(a netip.Addr) (spot, bool) {
		at, ok := l.spot(a)
		if ok {
			_, ok = fresh[at.book]
		}
		return at, ok
	}
	for a, h := range l.held {
		if at, ok := in(a); ok {
			// Not reserved yet: the loop below does that.
			at.count(h.Tenants, false, 1)
			at.block()
		}
	}
	for a := range l.reserved {
		if at, ok := in(a); ok {
			_, held := l.held[a]
			at.countOwn(held, 1)
			at.block()
		}
	}
	for a := range l.wanted {
		if at, ok := in(a); ok {
			at.block()
		}
	}
}

// makeRoom builds the index of open pools with a free address.
func (l *Ledger) makeRoom() {
	for f := range l.room {
		l.room[f] = newIndex(key{}, key{lo: uint64(len(l.set.open))}, false)
	}
	for _, p := range l.set.open {
		l.updateRoom(l.books[p.id], IPv4)
		l.updateRoom(l.books[p.id], IPv6)
	}
}

func (l *Ledger) updateRoom(b *book, f Family) {
	place := b.pool.order - len(l.set.ranked)
	if place < 0 || place >= len(l.set.open) {
		return
	}
	k := key{lo: uint64(place)}
	l.room[slot(f)].markOne(k, !b.hasRoom(f))
}

// spot returns where an address stands; there is none outside all pools.
func (l *Ledger) spot(a netip.Addr) (spot, bool) {
	f, k := FamilyOf(a), keyOf(a)
	p, ok := l.set.byKey(slot(f), k)
	if !ok {
		return spot{}, false
	}
	return spot{l.books[p.id], f, k, (!p.avoidBuggy || !buggy(a)) && p.grantsKey(slot(f), k)}, true
}

// update brings a pool's index in step with the three maps for one address.
func (l *Ledger) update(a netip.Addr, at *spot) {
	before := at.book.hasRoom(at.family)
	if l.blocked(a) {
		at.block()
	} else {
		at.free()
	}
	if at.book.hasRoom(at.family) != before {
		l.updateRoom(at.book, at.family)
	}
}

// blocked reports whether an address is not free.
func (l *Ledger) blocked(a netip.Addr) bool {
	_, held := l.held[a]
	return held || l.Reserved(a) || len(l.wanted[a]) > 0
}

// Hold books an address for a holder and replaces the last one. The ledger keeps the
// holding's slices: they must not be modified afterwards.
func (l *Ledger) Hold(a netip.Addr, h Holding) {
	old, had := l.held[a]
	l.held[a] = h
	if had {
		l.unkeep(a, old)
		l.reshare(a, old, h)
	} else {
		l.share(a, h)
	}
	l.keep(a, h)
	at, ok := l.spot(a)
	if !ok {
		return
	}
	reserved := l.Reserved(a)
	if had {
		at.count(old.Tenants, reserved, -1)
	}
	at.count(h.Tenants, reserved, 1)
	if !had {
		l.update(a, &at)
	}
}

// Release frees an address that was held.
func (l *Ledger) Release(a netip.Addr) {
	old, had := l.held[a]
	if !had {
		return
	}
	l.unkeep(a, old)
	l.unshare(a, old)
	delete(l.held, a)
	if at, ok := l.spot(a); ok {
		at.count(old.Tenants, l.Reserved(a), -1)
		l.update(a, &at)
	}
}

// Holding returns who holds an address.
func (l *Ledger) Holding(a netip.Addr) (Holding, bool) {
	h, ok := l.held[a]
	return h, ok
}

// SetReserved replaces the reserved addresses: address → whose it is, as a phrase for
// messages (node "worker").
func (l *Ledger) SetReserved(reserved map[netip.Addr]string) {
	old := l.reserved
	l.reserved = reserved
	for a := range old {
		if _, still := reserved[a]; !still {
			l.rebook(a, -1)
		}
	}
	for a := range reserved {
		if _, before := old[a]; !before {
			l.rebook(a, 1)
		}
	}
}

// rebook counts an address that got reserved (n is 1) or no longer is (-1).
func (l *Ledger) rebook(a netip.Addr, n int64) {
	if at, ok := l.spot(a); ok {
		_, held := l.held[a]
		at.countOwn(held, n)
		l.update(a, &at)
	}
}

// Want books that a Service without claims shows an address in its status.
func (l *Ledger) Want(a netip.Addr, s loadbalancer.ServiceKey, uid loadbalancer.ServiceUID) {
	if l.wanted[a] == nil {
		l.wanted[a] = make(map[loadbalancer.ServiceUID]loadbalancer.ServiceKey)
	}
	l.wanted[a][uid] = s
	if at, ok := l.spot(a); ok {
		l.update(a, &at)
	}
}

// Unwant takes [Ledger.Want] back.
func (l *Ledger) Unwant(a netip.Addr, uid loadbalancer.ServiceUID) {
	delete(l.wanted[a], uid)
	if len(l.wanted[a]) == 0 {
		delete(l.wanted, a)
	}
	if at, ok := l.spot(a); ok {
		l.update(a, &at)
	}
}

// wantedByOther returns the lowest-named other Service that shows the address in its
// status, unless uid does so too.
func (l *Ledger) wantedByOther(a netip.Addr, uid loadbalancer.ServiceUID) (loadbalancer.ServiceKey, bool) {
	if _, mine := l.wanted[a][uid]; mine {
		return loadbalancer.ServiceKey{}, false
	}
	var best loadbalancer.ServiceKey
	found := false
	for _, k := range l.wanted[a] {
		if !found || k.String() < best.String() {
			best, found = k, true
		}
	}
	return best, found
}

// Reserved reports whether an address is a node's own.
func (l *Ledger) Reserved(a netip.Addr) bool {
	_, ok := l.reserved[a]
	return ok
}
