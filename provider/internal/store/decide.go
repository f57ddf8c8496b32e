// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Decision is one address for a Service, and the claim that it was decided on.
type Decision struct {
	pool.Assignment
	// Claim is the address's claim as the store knew it at the decision; nil: there was
	// none. Creating it, or updating this very version, is the transaction: what has
	// changed since may forbid what was decided.
	Claim *v1alpha1.IPClaim
}

// Ticket is a place in the line of those that wait for an address: nothing may have
// come free since Freed, or somebody older has to be asked first. The zero Ticket is
// that of a Service that nobody waits before.
type Ticket struct {
	Behind bool
	Freed  uint64
}

// booking is a Service that is about to have an address.
type booking struct {
	key    string
	tenant pool.Tenant
}

// Freed counts the changes that may let a Service have an address that it could not have
// before: as long as it stays, trying again is in vain.
func (s *Store) Freed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed
}

// Allocate decides a Service's addresses and books the new ones, so that nobody else in
// this process gets them. The caller then writes the claims, and calls Cancel in any
// case. inLine means that an address would have to be taken that others may have waited
// for longer. It fills req.NamespaceLabels.
func (s *Store) Allocate(req *pool.Request, t Ticket) (got []Decision, inLine bool, err *pool.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	s.mend(req)
	req.NamespaceLabels = s.namespaces[req.Service.Namespace]
	chosen, err := pool.Allocate(s.set, s.ledger, req)
	if err != nil {
		return nil, false, err
	}
	if t.Behind && t.Freed != s.freed && slices.ContainsFunc(chosen, func(as pool.Assignment) bool { return s.fresh(as, req.UID) }) {
		return nil, true, nil
	}
	for _, as := range chosen {
		got = append(got, Decision{as, s.claims[v1alpha1.ClaimName(as.Addr)]})
		s.book(as.Addr, booking{req.SharingKey, req.Tenant()})
	}
	return got, false, nil
}

// fresh reports whether an assignment takes an address that anybody may have.
func (s *Store) fresh(as pool.Assignment, uid loadbalancer.ServiceUID) bool {
	switch as.Rule {
	case pool.RulePool, pool.RuleServiceAllocation, pool.RuleAutoAssign:
		h, held := s.ledger.Holding(as.Addr)
		return !held || !h.Names(uid)
	case pool.RuleRequested, pool.RuleShown, pool.RuleRetained, pool.RuleShared, pool.RuleExternalIP:
	}
	return false
}

// mend gives a shared claim its sharing key back. A controller of the release before
// knows no such field and writes it away; that its tenants share says that there was one.
func (s *Store) mend(req *pool.Request) {
	if req.SharingKey == "" {
		return
	}
	for name := range s.byUID[types.UID(req.UID)] {
		a, err := v1alpha1.ParseClaimName(name)
		if err != nil {
			continue
		}
		if h, ok := s.ledger.Holding(a); ok && h.State == pool.Bound && h.SharingKey == "" && len(h.Tenants) > 1 {
			h.SharingKey = req.SharingKey
			s.ledger.Hold(a, h)
		}
	}
}

// book notes that a Service is about to have an address, unless it has it; mu is held.
func (s *Store) book(a netip.Addr, b booking) {
	if h, held := s.ledger.Holding(a); held && h.State == pool.Bound && h.Names(b.tenant.UID) {
		return
	}
	uid := types.UID(b.tenant.UID)
	s.inflight[a] = append(s.inflight[a], b)
	s.booked[uid] = append(s.booked[uid], a)
	s.rehold(a)
}

// rehold brings the ledger to what an address's claim and bookings say; mu is held. A
// booking that does not go with a claim is void: its write will be lost.
func (s *Store) rehold(a netip.Addr) {
	c, bookings := s.claims[v1alpha1.ClaimName(a)], s.inflight[a]
	var h pool.Holding
	switch {
	case c != nil:
		h = convert.Holding(c)
	case len(bookings) == 0:
		s.ledger.Release(a)
		return
	default:
		h = pool.Holding{SharingKey: bookings[0].key, Tenants: []pool.Tenant{bookings[0].tenant}}
	}
	for _, b := range bookings {
		if h.State == pool.Bound && h.SharingKey != "" && h.SharingKey == b.key && !h.Names(b.tenant.UID) {
			h.Tenants = append(h.Tenants, b.tenant)
		}
	}
	s.ledger.Hold(a, h)
}

// Cancel ends a Service's bookings: its claims are written, or will not be.
func (s *Store) Cancel(uid types.UID) {
	s.mu.Lock()
	freed := false
	for _, a := range s.booked[uid] {
		left := slices.DeleteFunc(slices.Clone(s.inflight[a]), func(b booking) bool { return types.UID(b.tenant.UID) == uid })
		if s.inflight[a] = left; len(left) == 0 {
			delete(s.inflight, a)
		}
		s.rehold(a)
		c := s.claims[v1alpha1.ClaimName(a)]
		freed = freed || c == nil || !names(c, uid)
	}
	delete(s.booked, uid)
	delete(s.bookedOnNodes, uid)
	if freed {
		s.freed++
	}
	s.mu.Unlock()
	if freed {
		s.tellAddresses()
	}
}
