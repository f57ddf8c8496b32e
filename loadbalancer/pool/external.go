// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// AllocateExternal decides whether a Service may have an address of its
// spec.externalIPs that a grant allows. inPool is false when that is not ours to
// decide: the address lies in no valid pool, or is a node's own. An address that the
// Service has already, by whatever rule, is its own, also when its pool is gone or not
// valid any more; the assignment then names no pool. It changes nothing.
func AllocateExternal(s *Set, l *Ledger, t Tenant, a netip.Addr) (got Assignment, inPool bool, err *Error) {
	l.SetPools(s)
	p, ok := s.ByAddr(a)
	h, held := l.held[a]
	if l.Reserved(a) || !ok && (!held || h.State != Bound || !h.Names(t.UID)) {
		return Assignment{}, false, nil
	}
	got = Assignment{Addr: a, Rule: RuleExternalIP}
	if ok {
		got.Pool = p.name
	}
	switch {
	case ok && held && h.namesake(t.Service, t.UID) && p.returns(a, h):
		return got, true, nil
	case held && h.State == Bound && h.Names(t.UID) && h.SharingKey != ExternalKey:
		return got, true, nil
	case held && h.State == Bound:
		err = Fits(h, t, ExternalKey)
	case held:
		err = heldByOther(h)
	default:
		err = p.gives(l, t, a)
	}
	if err == nil {
		return got, true, nil
	}
	switch err.Reason {
	case reason.AddressInUse, reason.SharingKeyMismatch, reason.PortInUse, reason.AddressRetained:
		err.Reason = reason.ExternalIPInUse
	default:
	}
	err.Message = "address " + a.String() + " is in spec.externalIPs, but " + err.Message
	return Assignment{}, true, err
}

// gives says why a pool does not give a free address to spec.externalIPs. Whom the
// pool serves does not matter: the grant names the Service.
func (p *Pool) gives(l *Ledger, t Tenant, a netip.Addr) *Error {
	if err := p.withheld(a); err != nil {
		return err
	}
	if p.disabled {
		return &Error{reason.PoolDisabled, "pool \"" + p.name + "\" is disabled and gives no more addresses; use another or unset its disabled"}
	}
	if other, ok := l.wantedByOther(a, t.UID); ok {
		return inUse(other)
	}
	return nil
}
