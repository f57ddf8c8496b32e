// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

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
	for _, a := range req.Addresses {
		if !slices.Contains(req.Families, FamilyOf(a)) {
			return nil, &Error{reason.FamilyMismatch, fmt.Sprintf(
				"address %s was asked for, but the Service's ipFamilies have no %s; ask for an address of its family or change spec.ipFamilies", a, FamilyOf(a))}
		}
	}
	var out []Assignment
	var first *Error
	for _, f := range req.Families {
		got, err := allocateOne(s, l, req, f)
		switch {
		case err == nil:
			out = append(out, got)
		case !req.AnyFamily || !absent(err.Reason):
			return nil, err
		case first == nil:
			first = err
		}
	}
	if len(out) == 0 {
		return nil, first
	}
	return out, nil
}

// absent tells "there is none" from a mistake in what was asked for.
func absent(r reason.Reason) bool {
	return r == reason.NoPool || r == reason.NoAddressOfFamily || r == reason.PoolExhausted
}

func allocateOne(s *Set, l *Ledger, req *Request, f Family) (Assignment, *Error) {
	ofFamily := func(a netip.Addr) bool { return FamilyOf(a) == f }
	if i := slices.IndexFunc(req.Addresses, ofFamily); i >= 0 {
		return allocateAddress(s, l, req, req.Addresses[i])
	}
	for _, h := range req.Held {
		if ofFamily(h.Addr) && (req.Pool == "" || h.Pool == req.Pool) {
			return h, nil
		}
	}
	for _, a := range req.Preferred {
		if ofFamily(a) {
			if got, err := allocateAddress(s, l, req, a); err == nil {
				return got, nil
			}
		}
	}
	if req.Pool != "" {
		return allocateFromPool(s, l, req.Pool, f)
	}
	return allocateUnasked(s, l, req, f)
}

func allocateAddress(s *Set, l *Ledger, req *Request, a netip.Addr) (Assignment, *Error) {
	for _, h := range req.Held {
		if h.Addr == a && (req.Pool == "" || req.Pool == h.Pool) {
			return h, nil
		}
	}
	p, ok := s.ByAddr(a)
	switch {
	case !ok:
		return Assignment{}, &Error{reason.AddressNotInPool, fmt.Sprintf(
			"address %s was asked for, but no valid IPAddressPool has it; ask for another or add it to a pool", a)}
	case req.Pool != "" && p.name != req.Pool:
		return Assignment{}, &Error{reason.ConflictingRequests, fmt.Sprintf(
			"address %s and pool %q were asked for, but the address is in pool %q; drop one of the two", a, req.Pool, p.name)}
	case p.avoidBuggy && buggy(a):
		return Assignment{}, &Error{reason.AddressReserved, fmt.Sprintf(
			"address %s was asked for, but pool %q avoids addresses that end in .0 or .255; ask for another or unset avoidBuggyIPs", a, p.name)}
	}
	if err := taken(l, req, a); err != nil {
		return Assignment{}, err
	}
	return Assignment{Addr: a, Pool: p.name}, nil
}

func taken(l *Ledger, req *Request, a netip.Addr) *Error {
	if node, ok := l.reserved[a]; ok {
		return &Error{reason.AddressReserved, fmt.Sprintf(
			"address %s was asked for, but it is the address of %s; ask for another", a, node)}
	}
	if h, ok := l.held[a]; ok {
		switch {
		case h.State == Releasing:
			return &Error{reason.AddressReleasing, fmt.Sprintf(
				"address %s was asked for, but Service %s just released it and a node may still answer for it; it follows by itself", a, h.first())}
		case !h.Names(req.UID):
			return inUse(a, h.first())
		}
		return nil
	}
	if other, ok := l.wantedByOther(a, req.UID); ok {
		return inUse(a, other)
	}
	return nil
}

func inUse(a netip.Addr, by loadbalancer.ServiceKey) *Error {
	return &Error{reason.AddressInUse, fmt.Sprintf(
		"address %s was asked for, but Service %s has it; ask for another or delete that Service", a, by)}
}

func allocateFromPool(s *Set, l *Ledger, name string, f Family) (Assignment, *Error) {
	p, ok := s.ByName(name)
	if !ok {
		if fault := s.Fault(name); fault != nil {
			return Assignment{}, &Error{reason.PoolNotFound, fmt.Sprintf(
				"pool %q was asked for, but it is not valid (%s); see kubectl describe ipaddresspools.fairlead.dev %s", name, fault.Reason, name)}
		}
		return Assignment{}, &Error{reason.PoolNotFound, fmt.Sprintf(
			"pool %q was asked for, but there is no such IPAddressPool; create it or ask for another", name)}
	}
	return pick(l, []*Pool{p}, f)
}

func allocateUnasked(s *Set, l *Ledger, req *Request, f Family) (Assignment, *Error) {
	c := s.candidates(req)
	if len(c) > 0 {
		return pick(l, c, f)
	}
	switch {
	case len(s.pools) > 0:
		return Assignment{}, &Error{reason.NoPool, "no IPAddressPool serves this Service unasked (autoAssign, serviceAllocation); create one that does, or ask for one with the annotation fairlead.dev/pool"}
	case len(s.faults) > 0:
		return Assignment{}, &Error{reason.NoPool, "no IPAddressPool is valid; see kubectl get ipaddresspools.fairlead.dev"}
	default:
		return Assignment{}, &Error{reason.NoPool, "there is no IPAddressPool; create one"}
	}
}

// pick takes the lowest free address of the first pool that has one.
func pick(l *Ledger, pools []*Pool, f Family) (Assignment, *Error) {
	var full []string
	for _, p := range pools {
		if !p.has(f) {
			continue
		}
		if a, ok := p.firstFree(f, &l.blocked); ok {
			return Assignment{Addr: a, Pool: p.name}, nil
		}
		full = append(full, strconv.Quote(p.name))
	}
	if len(full) > 0 {
		return Assignment{}, &Error{reason.PoolExhausted, fmt.Sprintf(
			"no free %s address in pool %s; add addresses to it or delete a Service, the address follows by itself", f, strings.Join(full, ", "))}
	}
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = strconv.Quote(p.name)
	}
	return Assignment{}, &Error{reason.NoAddressOfFamily, fmt.Sprintf(
		"the Service needs an %s address, but pool %s has none; add an %s range or change spec.ipFamilies", f, strings.Join(names, ", "), f)}
}
