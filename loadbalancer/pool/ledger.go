// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Holder is who holds an address.
type Holder struct {
	Service loadbalancer.ServiceKey
	UID     loadbalancer.ServiceUID
	// Releasing: nobody holds it any more, but a node may still answer for it.
	Releasing bool
}

// Ledger is the book of taken addresses: held by a claim (or about to be), reserved
// because they are a node's own, or wanted because a Service without any claim shows
// them in its status. Not safe for concurrent use.
type Ledger struct {
	held     map[netip.Addr]Holder
	reserved map[netip.Addr]string
	wanted   map[netip.Addr]map[loadbalancer.ServiceUID]loadbalancer.ServiceKey
	blocked  Ranges
}

// NewLedger returns an empty book.
func NewLedger() *Ledger {
	return &Ledger{
		held:     make(map[netip.Addr]Holder),
		reserved: make(map[netip.Addr]string),
		wanted:   make(map[netip.Addr]map[loadbalancer.ServiceUID]loadbalancer.ServiceKey),
	}
}

// update keeps the runs in step with the three maps.
func (l *Ledger) update(a netip.Addr) {
	_, held := l.held[a]
	_, reserved := l.reserved[a]
	if held || reserved || len(l.wanted[a]) > 0 {
		l.blocked.Add(a)
		return
	}
	l.blocked.Remove(a)
}

// Hold books an address for a holder and replaces the last one.
func (l *Ledger) Hold(a netip.Addr, h Holder) {
	l.held[a] = h
	l.update(a)
}

// Release frees an address that was held.
func (l *Ledger) Release(a netip.Addr) {
	delete(l.held, a)
	l.update(a)
}

// Holder returns who holds an address.
func (l *Ledger) Holder(a netip.Addr) (Holder, bool) {
	h, ok := l.held[a]
	return h, ok
}

// Held counts the addresses held in a pool, per family, and those of its usable
// addresses that nobody can get (held, or a node's own).
func (l *Ledger) Held(p *Pool, f Family) (held, unavailable int64) {
	for a := range l.held {
		if FamilyOf(a) == f && p.Contains(a) {
			held++
			if !p.avoidBuggy || !buggy(a) {
				unavailable++
			}
		}
	}
	for a := range l.reserved {
		_, also := l.held[a]
		if !also && FamilyOf(a) == f && p.Contains(a) && (!p.avoidBuggy || !buggy(a)) {
			unavailable++
		}
	}
	return held, unavailable
}

// SetReserved replaces the reserved addresses: address → the node whose own it is.
func (l *Ledger) SetReserved(reserved map[netip.Addr]string) {
	old := l.reserved
	l.reserved = reserved
	for a := range old {
		l.update(a)
	}
	for a := range reserved {
		l.update(a)
	}
}

// Want books that a Service without claims shows an address in its status.
func (l *Ledger) Want(a netip.Addr, s loadbalancer.ServiceKey, uid loadbalancer.ServiceUID) {
	if l.wanted[a] == nil {
		l.wanted[a] = make(map[loadbalancer.ServiceUID]loadbalancer.ServiceKey)
	}
	l.wanted[a][uid] = s
	l.update(a)
}

// Unwant takes [Ledger.Want] back.
func (l *Ledger) Unwant(a netip.Addr, uid loadbalancer.ServiceUID) {
	delete(l.wanted[a], uid)
	if len(l.wanted[a]) == 0 {
		delete(l.wanted, a)
	}
	l.update(a)
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
