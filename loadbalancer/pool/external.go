// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
)

// ExternalKey is the sharing key of addresses that Services have by spec.externalIPs.
// No Service may ask for it.
const ExternalKey = "spec.externalIPs"

// AllocateExternal decides whether a Service may have an address of its
// spec.externalIPs that a grant allows. inPool is false when that is not ours to
// decide: the address lies in no valid pool, or is a node's own. It changes nothing.
func AllocateExternal(s *Set, l *Ledger, t Tenant, a netip.Addr) (got Assignment, inPool bool, err *Error) {
	p, ok := s.ByAddr(a)
	if !ok || l.Reserved(a) {
		return Assignment{}, false, nil
	}
	if err := taken(l, &Request{Service: t.Service, UID: t.UID}, a); err != nil {
		return Assignment{}, true, err
	}
	return Assignment{Addr: a, Pool: p.name, Rule: RuleExternalIP}, true, nil
}
