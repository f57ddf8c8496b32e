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
	// Bound: the tenants have the address.
	Bound State = iota
	// Releasing: nobody has it any more, but a node may still answer for it.
	Releasing
	// Retained: nobody has it; it is kept for a Service with a tenant's key.
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

// Ledger is the book of taken addresses: held by a claim (or about to be), reserved
// because they are a node's own, or wanted because a Service without any claim shows
// them in its status. Not safe for concurrent use.
type Ledger struct {
	held     map[netip.Addr]Holding
	reserved map[netip.Addr]string
	wanted   map[netip.Addr]map[loadbalancer.ServiceUID]loadbalancer.ServiceKey
	blocked  Ranges
}

// NewLedger returns an empty book.
func NewLedger() *Ledger {
	return &Ledger{
		held:     make(map[netip.Addr]Holding),
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
func (l *Ledger) Hold(a netip.Addr, h Holding) {
	l.held[a] = h
	l.update(a)
}

// Release frees an address that was held.
func (l *Ledger) Release(a netip.Addr) {
	delete(l.held, a)
	l.update(a)
}

// Holding returns who holds an address.
func (l *Ledger) Holding(a netip.Addr) (Holding, bool) {
	h, ok := l.held[a]
	return h, ok
}

// Count counts the addresses held in a pool, per family, and those of its usable
// addresses that nobody can get (held, or a node's own).
func (l *Ledger) Count(p *Pool, f Family) (held, unavailable int64) {
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

// TenantCount is a namespace and how many addresses it holds.
type TenantCount struct {
	Namespace string
	Addresses int64
}

// Tenants returns the n namespaces that hold most addresses of a pool, the largest
// first, then by name. A shared address counts for each of its namespaces.
func (l *Ledger) Tenants(p *Pool, n int) []TenantCount { return nil }

// Own counts the usable addresses of a pool that are reserved: it can never hand them out.
func (l *Ledger) Own(p *Pool, f Family) int64 { return 0 }

// Conflict returns why a pool never hands out some of its addresses: they are reserved.
// nil when none is.
func (l *Ledger) Conflict(p *Pool) *Error { return nil }

// SetPools tells the pools that addresses are handed out from. Call it when they
// change; what is booked stays booked.
func (l *Ledger) SetPools(s *Set) {}

// SetReserved replaces the reserved addresses: address → whose it is, as a phrase for
// messages (node "worker").
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
