// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Request is what one Service needs and asks for.
type Request struct {
	Service         loadbalancer.ServiceKey
	UID             loadbalancer.ServiceUID
	Labels          labels.Set
	NamespaceLabels labels.Set
	// Families needed, in order, one or two.
	Families []Family
	// AnyFamily: one of Families is enough (PreferDualStack).
	AnyFamily bool
	// Count is how many addresses of each family are needed; 0 is 1.
	Count int
	// SharingKey lets the Service join addresses of Services that say the same.
	SharingKey string
	// Ports and Backends are the Service's as a [Tenant].
	Ports    []Port
	Backends string
	// Addresses asked for, at most Count per family.
	Addresses []netip.Addr
	// Pool asked for, empty for none.
	Pool string
	// Held are the addresses that the Service holds now.
	Held []Assignment
	// Preferred are addresses to take when they are free, and to do without when not.
	Preferred []netip.Addr
}

// Tenant returns the Service as a tenant.
func (r *Request) Tenant() Tenant {
	return Tenant{Service: r.Service, UID: r.UID, Ports: r.Ports, Backends: r.Backends}
}

// Assignment is one address, the pool that it comes from, and why it is this one.
type Assignment struct {
	Addr netip.Addr
	Pool string
	// Rule chose the address. What a Service holds already keeps the rule it came by.
	Rule Rule
}

// Rule is the rule of the package comment that chose an address. Values are those of
// v1alpha1.AllocationRule.
type Rule string

// The rules.
const (
	RuleRequested         Rule = "Requested"
	RuleShown             Rule = "Shown"
	RuleRetained          Rule = "Retained"
	RuleShared            Rule = "Shared"
	RulePool              Rule = "Pool"
	RuleServiceAllocation Rule = "ServiceAllocation"
	RuleAutoAssign        Rule = "AutoAssign"
	RuleExternalIP        Rule = "ExternalIP"
)

// Allocate decides a Service's addresses, in the order of its families; see the
// package comment for the rules. It changes nothing: the caller books the result.
func Allocate(s *Set, l *Ledger, req *Request) ([]Assignment, *Error) {
	// Small, so that it is inlined and a caller that keeps nothing pays no allocation.
	return allocate(make([]Assignment, 0, 2), s, l, req)
}

func allocate(out []Assignment, s *Set, l *Ledger, req *Request) ([]Assignment, *Error) {
	l.SetPools(s)
	for _, a := range req.Addresses {
		if !slices.Contains(req.Families, FamilyOf(a)) {
			return nil, &Error{reason.FamilyMismatch, fmt.Sprintf(
				"address %s was asked for, but the Service's ipFamilies have no %s; ask for an address of its family or change spec.ipFamilies", a, FamilyOf(a))}
		}
	}
	complete := false
	var worst *Error
	for _, f := range req.Families {
		c := choice{set: s, ledger: l, req: req, family: f, start: len(out)}
		var kept int
		var err *Error
		out, kept, err = c.choose(out)
		if err != nil && (!req.AnyFamily || !absent(err.Reason)) {
			return nil, err
		}
		if err == nil {
			complete = true
			continue
		}
		// The other family may do; what this one has already it keeps.
		out = out[:kept]
		// A full pool has the family: this Service waits for an address, whatever the
		// other family lacks.
		if worst == nil || worst.Reason != reason.PoolExhausted && err.Reason == reason.PoolExhausted {
			worst = err
		}
	}
	if !complete {
		return nil, worst
	}
	return out, nil
}

// absent tells "there is none" from a mistake in what was asked for.
func absent(r reason.Reason) bool {
	return r == reason.NoPool || r == reason.NoAddressOfFamily || r == reason.PoolExhausted
}

// choice chooses the addresses of one family. Its methods append them to the slice that
// they are given, from start on, and return it; a slice in the choice itself would
// always have to be allocated.
type choice struct {
	set    *Set
	ledger *Ledger
	req    *Request
	family Family
	// count is how many addresses are needed.
	count int
	start int
}

// done reports whether there are enough addresses.
func (c *choice) done(out []Assignment) bool { return len(out)-c.start >= c.count }

func (c *choice) chosen(out []Assignment, a netip.Addr) bool {
	for _, got := range out[c.start:] {
		if got.Addr == a {
			return true
		}
	}
	return false
}

// choose goes through the rules in their order. kept is how much of out the Service
// asked for by address or had already, when the rest cannot be had.
func (c *choice) choose(out []Assignment) (_ []Assignment, kept int, err *Error) {
	asked := 0
	for _, a := range c.req.Addresses {
		if FamilyOf(a) == c.family {
			asked++
		}
	}
	c.count = max(c.req.Count, asked, 1)
	for _, a := range c.req.Addresses {
		if FamilyOf(a) != c.family || c.chosen(out, a) {
			continue
		}
		got, err := c.asked(a)
		if err != nil {
			return out, c.start, err
		}
		out = append(out, got)
	}
	out = c.held(out)
	kept = len(out)
	out = c.shown(c.retained(out))
	switch {
	case c.done(out):
	case c.req.Pool != "":
		out, err = c.fromPoolAsked(out)
	default:
		out, err = c.unasked(out)
	}
	return out, kept, err
}

// held takes what the Service holds already.
func (c *choice) held(out []Assignment) []Assignment {
	for _, h := range c.req.Held {
		if c.done(out) {
			return out
		}
		if FamilyOf(h.Addr) != c.family || h.Rule == RuleExternalIP || c.chosen(out, h.Addr) || !c.inPoolAsked(h) {
			continue
		}
		if c.mayKeep(h.Addr) == nil {
			out = append(out, h)
		}
	}
	return out
}

// inPoolAsked reports whether a held address is of the pool asked for, if one is.
func (c *choice) inPoolAsked(h Assignment) bool {
	if c.req.Pool == "" || c.req.Pool == h.Pool {
		return true
	}
	p, ok := c.set.ByAddr(h.Addr)
	return ok && p.name == c.req.Pool
}

// mayKeep says why the Service cannot go on holding an address. Without a claim it
// can: the claim was lost, or is about to be written.
func (c *choice) mayKeep(a netip.Addr) *Error {
	h, ok := c.ledger.held[a]
	switch {
	case !ok:
		return nil
	case h.State == Bound && h.Names(c.req.UID):
		return Fits(h, c.req.Tenant(), c.req.SharingKey)
	case h.namesake(c.req.Service, c.req.UID):
		return nil
	default:
		return heldByOther(h)
	}
}

// retained takes the addresses that were kept for a Service of this name.
func (c *choice) retained(out []Assignment) []Assignment {
	above := netip.Addr{}
	for !c.done(out) {
		a, ok := c.ledger.keptFor(c.req.Service, c.req.UID, c.family, above)
		if !ok {
			return out
		}
		above = a
		p, inPool := c.set.ByAddr(a)
		h := c.ledger.held[a]
		if h.SharingKey == ExternalKey {
			continue // the namesake's author chose it; its load balancer had another
		}
		if h.succeeds(c.req.Service, c.req.UID) && Fits(h, c.req.Tenant(), c.req.SharingKey) != nil {
			continue
		}
		if !inPool || c.chosen(out, a) || c.ledger.Reserved(a) || !p.returns(a, h) || c.req.Pool != "" && c.req.Pool != p.name {
			continue
		}
		out = append(out, Assignment{a, p.name, RuleRetained})
	}
	return out
}

// shown takes addresses that the Service's status names and that it can have: another
// load balancer gave them to it, or its claims were lost. That the pool is disabled or
// for others does not matter then, as for what it holds.
func (c *choice) shown(out []Assignment) []Assignment {
	for _, a := range c.req.Preferred {
		if c.done(out) {
			return out
		}
		if FamilyOf(a) != c.family || c.chosen(out, a) {
			continue
		}
		p, ok := c.set.ByAddr(a)
		if !ok || !p.usable(a) || c.ledger.Reserved(a) || c.req.Pool != "" && c.req.Pool != p.name {
			continue
		}
		if c.taken(a) == nil {
			out = append(out, Assignment{a, p.name, RuleShown})
		}
	}
	return out
}

// fromPoolAsked takes what is missing from the pool that was asked for.
func (c *choice) fromPoolAsked(out []Assignment) ([]Assignment, *Error) {
	name := c.req.Pool
	p, ok := c.set.ByName(name)
	if !ok {
		if fault := c.set.Fault(name); fault != nil {
			return out, &Error{reason.PoolNotFound, fmt.Sprintf(
				"pool %q was asked for, but it is not valid (%s); see kubectl describe ipaddresspools.fairlead.dev %s", name, fault.Reason, name)}
		}
		return out, &Error{reason.PoolNotFound, fmt.Sprintf(
			"pool %q was asked for, but there is no such IPAddressPool; create it or ask for another", name)}
	}
	if err := c.open(p, "pool "+strconv.Quote(name)+" was asked for"); err != nil {
		return out, err
	}
	out = c.lowest(c.join(out, p), p, RulePool)
	if c.done(out) {
		return out, nil
	}
	return out, c.none([]*Pool{p})
}

// open says why a pool gives the Service nothing, though it was asked for.
func (c *choice) open(p *Pool, asked string) *Error {
	switch {
	case !p.serves(c.req):
		return &Error{reason.PoolNotAllowed, fmt.Sprintf(
			"%s, but the serviceAllocation of pool %q does not match this Service; ask for another or change the pool's serviceAllocation", asked, p.name)}
	case p.disabled:
		return &Error{reason.PoolDisabled, fmt.Sprintf(
			"%s, but pool %q is disabled and gives no more addresses; ask for another or unset its disabled", asked, p.name)}
	}
	return nil
}

// join takes addresses that the Service can share: of one pool, or of those that serve
// it unasked.
func (c *choice) join(out []Assignment, only *Pool) []Assignment {
	if c.req.SharingKey == "" {
		return out
	}
	for _, list := range c.ledger.shares[shareKey{c.req.SharingKey, c.req.Backends}] {
		if list.family != c.family || only != nil && list.pool != only {
			continue
		}
		if only == nil && (!list.pool.auto || list.pool.disabled || !list.pool.serves(c.req)) {
			continue
		}
		for at := 0; !c.done(out); at++ {
			if at = c.ledger.joinable(list, c.req, at); at == len(list.addrs) {
				break
			}
			if a := list.addrs[at]; !c.chosen(out, a) {
				out = append(out, Assignment{a, list.pool.name, RuleShared})
			}
		}
	}
	return out
}

// lowest takes the lowest free addresses of a pool.
func (c *choice) lowest(out []Assignment, p *Pool, r Rule) []Assignment {
	b := c.ledger.books[p.id]
	from := key{}
	for !c.done(out) {
		k, ok := b.lowest(c.family, from)
		if !ok {
			return out
		}
		if a := k.addr(c.family); !c.chosen(out, a) {
			out = append(out, Assignment{a, p.name, r})
		}
		if from, ok = k.next(); !ok {
			return out
		}
	}
	return out
}

// unasked takes what is missing from the pools that serve the Service by themselves.
func (c *choice) unasked(out []Assignment) ([]Assignment, *Error) {
	out = c.join(out, nil)
	mine, all := c.set.rankedFor[c.req.Service.Namespace], c.set.rankedAny
	for !c.done(out) && len(mine)+len(all) > 0 {
		var next int
		if len(all) == 0 || len(mine) > 0 && mine[0] < all[0] {
			next, mine = mine[0], mine[1:]
		} else {
			next, all = all[0], all[1:]
		}
		p := c.set.ranked[next]
		if c.ledger.books[p.id].hasRoom(c.family) && p.serves(c.req) {
			out = c.lowest(out, p, RuleServiceAllocation)
		}
	}
	for from := (key{}); !c.done(out); {
		k, ok := c.ledger.room[slot(c.family)].next(from)
		if !ok {
			break
		}
		out = c.lowest(out, c.set.open[k.lo], RuleAutoAssign)
		from, _ = k.next()
	}
	if c.done(out) {
		return out, nil
	}
	return out, c.none(c.set.candidates(c.req))
}

// candidates returns the pools that serve a Service unasked, best first.
func (s *Set) candidates(req *Request) []*Pool {
	var out []*Pool
	for _, p := range s.ranked {
		if p.alloc.matches(req) {
			out = append(out, p)
		}
	}
	return append(out, s.open...)
}

// none says why none of the pools has an address left.
func (c *choice) none(pools []*Pool) *Error {
	if len(pools) == 0 {
		return c.noPool()
	}
	var names, full []string
	for _, p := range pools {
		name := strconv.Quote(p.name)
		names = append(names, name)
		if p.has(c.family) {
			full = append(full, name)
		}
	}
	if len(full) > 0 {
		return &Error{reason.PoolExhausted, fmt.Sprintf(
			"no free %s address in pool %s; add addresses to it or delete a Service, the address follows by itself", c.family, abbreviate(full))}
	}
	return &Error{reason.NoAddressOfFamily, fmt.Sprintf(
		"the Service needs an %s address, but pool %s has none; add an %s range or change spec.ipFamilies", c.family, abbreviate(names), c.family)}
}

// noPool says why no pool serves the Service unasked.
func (c *choice) noPool() *Error {
	var disabled []string
	for _, p := range c.set.pools {
		if p.auto && p.disabled && p.serves(c.req) {
			disabled = append(disabled, strconv.Quote(p.name))
		}
	}
	switch {
	case len(disabled) > 0:
		return &Error{reason.NoPool, fmt.Sprintf(
			"no IPAddressPool serves this Service: pool %s would, but is disabled and gives no more addresses; unset its disabled or create another pool", abbreviate(disabled))}
	case len(c.set.pools) > 0:
		return &Error{reason.NoPool, "no IPAddressPool serves this Service unasked (autoAssign, serviceAllocation); create one that does, or ask for one with the annotation fairlead.dev/pool"}
	case len(c.set.faults) > 0:
		return &Error{reason.NoPool, "no IPAddressPool is valid; see kubectl get ipaddresspools.fairlead.dev"}
	default:
		return &Error{reason.NoPool, "there is no IPAddressPool; create one"}
	}
}
