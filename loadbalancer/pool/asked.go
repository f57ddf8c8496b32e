// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// asked takes an address that was asked for.
func (c *choice) asked(a netip.Addr) (Assignment, *Error) {
	for _, h := range c.req.Held {
		if h.Addr != a || h.Rule == RuleExternalIP || !c.inPoolAsked(h) {
			continue
		}
		if err := c.mayKeep(a); err != nil {
			return Assignment{}, askedFor(a, err)
		}
		h.Rule = cmp.Or(h.Rule, RuleRequested)
		return h, nil
	}
	p, ok := c.set.ByAddr(a)
	switch {
	case !ok:
		return Assignment{}, &Error{reason.AddressNotInPool, fmt.Sprintf(
			"address %s was asked for, but no valid IPAddressPool has it; ask for another or add it to a pool", a)}
	case c.req.Pool != "" && p.name != c.req.Pool:
		return Assignment{}, &Error{reason.ConflictingRequests, fmt.Sprintf(
			"address %s and pool %q were asked for, but the address is in pool %q; drop one of the two", a, c.req.Pool, p.name)}
	}
	got := Assignment{Addr: a, Pool: p.name, Rule: RuleRequested}
	if err := reservedFor(c.ledger, a); err != nil {
		return Assignment{}, askedFor(a, err)
	}
	if h := c.ledger.held[a]; h.SharingKey != ExternalKey && h.namesake(c.req.Service, c.req.UID) && p.returns(a, h) {
		return got, nil
	}
	if err := p.withheld(a); err != nil {
		return Assignment{}, askedFor(a, err)
	}
	if err := c.open(p, fmt.Sprintf("address %s was asked for", a)); err != nil {
		return Assignment{}, err
	}
	if err := c.taken(a); err != nil {
		return Assignment{}, askedFor(a, err)
	}
	return got, nil
}

// askedFor makes a clause about an address a sentence.
func askedFor(a netip.Addr, err *Error) *Error {
	return &Error{err.Reason, fmt.Sprintf("address %s was asked for, but %s", a, err.Message)}
}

// reservedFor says whose own an address is.
func reservedFor(l *Ledger, a netip.Addr) *Error {
	if whose, ok := l.reserved[a]; ok {
		return &Error{reason.AddressReserved, fmt.Sprintf("it is the address of %s; ask for another", whose)}
	}
	return nil
}

// withheld says why a pool does not hand out an address that it has.
func (p *Pool) withheld(a netip.Addr) *Error {
	switch {
	case !p.grantsKey(slot(FamilyOf(a)), keyOf(a)):
		return &Error{reason.AddressExcluded, fmt.Sprintf(
			"pool %q never hands it out (excludedAddresses, or a pod or Service range that overlaps the pool); ask for another or see kubectl describe ipaddresspools.fairlead.dev %s", p.name, p.name)}
	case p.avoidBuggy && buggy(a):
		return &Error{reason.AddressReserved, fmt.Sprintf(
			"pool %q avoids addresses that end in .0 or .255; ask for another or unset avoidBuggyIPs", p.name)}
	}
	return nil
}

// taken says why an address that others may have is not free for the Service to take
// or to join.
func (c *choice) taken(a netip.Addr) *Error {
	h, held := c.ledger.held[a]
	switch {
	case held && h.namesake(c.req.Service, c.req.UID):
		return nil
	case held && h.State == Bound:
		return Fits(h, c.req.Tenant(), c.req.SharingKey)
	case held:
		return heldByOther(h)
	}
	if other, ok := c.ledger.wantedByOther(a, c.req.UID); ok {
		return inUse(other)
	}
	return nil
}

// heldByOther says why an address is not the Service's.
func heldByOther(h Holding) *Error {
	switch h.State {
	case Releasing:
		return &Error{reason.AddressReleasing, fmt.Sprintf(
			"Service %s just released it and a node may still answer for it; it follows by itself", h.first())}
	case Retained:
		return &Error{reason.AddressRetained, fmt.Sprintf(
			"it is kept for Service %s, which had it last; ask for another, or delete its IPClaim to free it", h.first())}
	case Bound:
	}
	return inUse(h.first())
}

func inUse(by loadbalancer.ServiceKey) *Error {
	return &Error{reason.AddressInUse, fmt.Sprintf("Service %s has it; ask for another or delete that Service", by)}
}
