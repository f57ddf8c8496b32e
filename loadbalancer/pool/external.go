// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// AllocateExternal decides whether a Service may have an address of its
// spec.externalIPs that a grant allows and that is nobody's in the cluster: neither a
// node's nor reserved otherwise. An address that the Service has already, by whatever rule,
// is its own, also when its pool is gone or not valid any more; the assignment then names
// no pool, nor does that of an address that lies in no valid pool. It changes nothing.
func AllocateExternal(s *Set, l *Ledger, t Tenant, a netip.Addr) (got Assignment, err *Error) {
	l.SetPools(s)
	p, ok := s.ByAddr(a)
	h, held := l.held[a]
	got = Assignment{Addr: a, Rule: RuleExternalIP}
	if ok {
		got.Pool = p.name
	}
	switch {
	case ok && held && h.namesake(t.Service, t.UID) && p.returns(a, h):
		return got, nil
	case held && h.State == Bound && h.Names(t.UID) && h.SharingKey != ExternalKey:
		return got, nil
	case held && h.State == Bound:
		err = Fits(h, t, ExternalKey)
	case held:
		err = heldByOther(h)
	case ok:
		err = p.gives(l, t, a)
	default:
		err = l.unclaimed(t, a)
	}
	if err == nil {
		return got, nil
	}
	switch err.Reason {
	case reason.AddressInUse, reason.SharingKeyMismatch, reason.PortInUse, reason.AddressRetained:
		err.Reason = reason.ExternalIPInUse
	default:
	}
	err.Message = "address " + a.String() + " is in spec.externalIPs, but " + err.Message
	return Assignment{}, err
}

// unclaimed says why an address that no claim holds is another's all the same.
func (l *Ledger) unclaimed(t Tenant, a netip.Addr) *Error {
	if other, ok := l.wantedByOther(a, t.UID); ok {
		return inUse(other)
	}
	return nil
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
	return l.unclaimed(t, a)
}
