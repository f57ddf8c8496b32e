// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// book is what a ledger keeps of one pool: what is free, and counters.
type book struct {
	pool *Pool
	// open is the index of free addresses by family, nil where the pool has none.
	open [2]*index
	// held counts addresses held, unavailable those usable ones that are held or
	// reserved, own those usable ones that are reserved; by family.
	held, unavailable, own [2]int64
	// reserved counts all reserved addresses that the pool has.
	reserved int64
	// tenants counts addresses by namespace.
	tenants map[string]int64
}

// sameAddresses reports whether two pools hand out the same addresses, so that one can
// have the other's book.
func (p *Pool) sameAddresses(o *Pool) bool {
	return p.avoidBuggy == o.avoidBuggy && slices.Equal(p.intervals, o.intervals) && slices.Equal(p.grants, o.grants)
}

// newBook returns the book of a pool with every usable address free.
func newBook(p *Pool) *book {
	b := &book{pool: p, tenants: make(map[string]int64)}
	for f, gaps := range p.gaps {
		if len(gaps) == 0 {
			continue
		}
		x := newIndex(gaps[0].from, gaps[len(gaps)-1].to, p.avoidBuggy && f == slot(IPv4))
		for _, g := range gaps {
			x.free(g.from, g.to)
		}
		b.open[f] = x
	}
	return b
}

// spot is where an address stands in the books.
type spot struct {
	book   *book
	family Family
	key    key
	// usable: the pool may hand the address out.
	usable bool
}

// block and free change the index.
func (s *spot) block() {
	if s.usable {
		s.book.open[slot(s.family)].markOne(s.key, true)
	}
}

func (s *spot) free() {
	if s.usable {
		s.book.open[slot(s.family)].markOne(s.key, false)
	}
}

// hasRoom reports whether the pool has a free address of the family.
func (b *book) hasRoom(f Family) bool {
	x := b.open[slot(f)]
	return x != nil && !x.isFull()
}

// lowest returns the lowest free address of the family that is not below from.
func (b *book) lowest(f Family, from key) (key, bool) {
	x := b.open[slot(f)]
	if x == nil {
		return key{}, false
	}
	return x.next(from)
}

// count counts an address that gets held (n is 1) or no longer is (-1).
func (s *spot) count(by []Tenant, reserved bool, n int64) {
	b, f := s.book, slot(s.family)
	b.held[f] += n
	if s.usable && !reserved {
		b.unavailable[f] += n
	}
	for i := range by {
		ns := by[i].Service.Namespace
		// Each namespace counts once; sharers mostly are of one.
		if i > 0 && (ns == by[i-1].Service.Namespace || slices.ContainsFunc(by[:i-1], func(o Tenant) bool { return o.Service.Namespace == ns })) {
			continue
		}
		if n < 0 && b.tenants[ns] == -n {
			delete(b.tenants, ns)
		} else {
			b.tenants[ns] += n
		}
	}
}

// countOwn counts an address that gets reserved (n is 1) or no longer is (-1).
func (s *spot) countOwn(held bool, n int64) {
	b, f := s.book, slot(s.family)
	b.reserved += n
	if !s.usable {
		return
	}
	b.own[f] += n
	if !held {
		b.unavailable[f] += n
	}
}

// bookOf returns a pool's book. The pool is one of the ledger's set; see SetPools.
func (l *Ledger) bookOf(p *Pool) (*book, bool) {
	if p.id >= len(l.books) || l.books[p.id].pool != p {
		return nil, false
	}
	return l.books[p.id], true
}

// Count counts the addresses held in a pool of the set given to [Ledger.SetPools], per
// family, and those of its usable addresses that nobody can get (held, or a node's own).
func (l *Ledger) Count(p *Pool, f Family) (held, unavailable int64) {
	b, ok := l.bookOf(p)
	if !ok {
		return 0, 0
	}
	return b.held[slot(f)], b.unavailable[slot(f)]
}

// Own counts the usable addresses of a pool that are reserved: as long as they are, it
// cannot hand them out.
func (l *Ledger) Own(p *Pool, f Family) int64 {
	b, ok := l.bookOf(p)
	if !ok {
		return 0
	}
	return b.own[slot(f)]
}

// TenantCount is a namespace and how many addresses it holds.
type TenantCount struct {
	Namespace string
	Addresses int64
}

// Tenants returns the n namespaces that hold most addresses of a pool, the largest
// first, then by name. A shared address counts for each of its namespaces.
func (l *Ledger) Tenants(p *Pool, n int) []TenantCount {
	b, ok := l.bookOf(p)
	if !ok {
		return nil
	}
	out := make([]TenantCount, 0, len(b.tenants))
	for ns, count := range b.tenants {
		out = append(out, TenantCount{ns, count})
	}
	slices.SortFunc(out, func(a, b TenantCount) int {
		return cmp.Or(cmp.Compare(b.Addresses, a.Addresses), cmp.Compare(a.Namespace, b.Namespace))
	})
	return out[:min(n, len(out))]
}

// Conflict returns why a pool cannot hand out some of its addresses: they are reserved.
// nil when none is.
func (l *Ledger) Conflict(p *Pool) *Error {
	b, ok := l.bookOf(p)
	if !ok || b.reserved == 0 {
		return nil
	}
	var names []string
	for _, a := range slices.SortedFunc(maps.Keys(l.reserved), netip.Addr.Compare) {
		if p.Contains(a) {
			names = append(names, fmt.Sprintf("%s is the address of %s", a, l.reserved[a]))
		}
		if len(names) > namesInMessage {
			break
		}
	}
	return &Error{reason.OverlapsNode, "the pool has addresses of the cluster's own machines: " + abbreviate(names) +
		"; they are not handed out; list them in excludedAddresses, or take them out of the pool"}
}
