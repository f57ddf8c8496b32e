// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Table is the name of our table, of family inet.
const Table = "fairlead"

// Guard is our nftables table. Its methods are for one goroutine.
type Guard struct {
	nft knftables.Interface
	// have is what the kernel has; nil: not known, or not what it should be.
	have contents
	// lists of sources that are in the kernel, used or not.
	lists map[string]bool
	// owned is what was or will be served since the last Settle; lost says that it is all
	// although have is nil: somebody else has changed the table.
	owned map[element]bool
	lost  bool
	// handles of the rules as we made them, ascending; nil: not looked at since.
	handles []int
	// rulesDue and elementsDue are when they are compared next.
	rulesDue, elementsDue time.Time
	// partial: the last Check compared less than all.
	partial bool
}

// Open returns the way to our table in the network namespace of the calling thread. It
// fails without the program nft, and where the kernel has no nf_tables.
func Open() (knftables.Interface, error) {
	nft, err := knftables.New(knftables.InetFamily, Table, knftables.UseNetlink)
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return nft, nil
}

// New returns the guard of the table behind nft. It changes nothing.
func New(nft knftables.Interface) *Guard {
	return &Guard{nft: nft, owned: make(map[element]bool)}
}

// Prepare notes as ours what a plan serves, before its virtual servers are programmed: a
// crash in between leaves none that nobody knows. It forwards nothing.
func (g *Guard) Prepare(ctx context.Context, want loadbalancer.Forwarding) error {
	fresh := make(contents)
	for _, s := range want.Served {
		if e := keyOf(s); g.have == nil || !g.owned[e] {
			fresh.add("left"+suffix(s.Addr), e, "")
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	tx := g.nft.NewTransaction()
	if g.have == nil {
		tx.Add(&knftables.Table{})
		for _, obj := range leftSets() {
			tx.Add(obj)
		}
	}
	for _, name := range names(fresh) {
		g.difference(tx, name, nil, fresh[name])
	}
	if err := g.nft.Run(ctx, tx); err != nil {
		g.have, g.lost = nil, false
		return fmt.Errorf("noting in nftables what will be served: %w", err)
	}
	for name, elements := range fresh {
		for e := range elements {
			g.owned[e] = true
			if g.have != nil {
				g.have.add(name, e, "")
			}
		}
	}
	return nil
}

// Apply makes the table what the plan says. A plan that differs little from the former one
// is a small transaction. After an error the table is as it was, and the next Apply
// replaces it whole.
func (g *Guard) Apply(ctx context.Context, want loadbalancer.Forwarding) error {
	next := contentsOf(want)
	owned := maps.Clone(g.owned)
	if g.have == nil && !g.lost {
		former, err := g.former(ctx)
		if err != nil {
			return err
		}
		maps.Copy(owned, former)
	}
	for _, s := range want.Served {
		owned[keyOf(s)] = true
	}
	leave(next, owned)
	var err error
	if g.have == nil {
		err = g.replace(ctx, next)
	} else {
		err = g.change(ctx, next)
	}
	if err != nil {
		return err
	}
	g.owned = owned
	return nil
}

// Settle tells that no virtual server is left but those of the last plan that was applied:
// what was served before that is forgotten.
func (g *Guard) Settle(ctx context.Context) error {
	if g.have == nil {
		return nil
	}
	next := maps.Clone(g.have)
	delete(next, "left4")
	delete(next, "left6")
	tx := g.nft.NewTransaction()
	g.differences(tx, next)
	lists := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(g.lists)) {
		if next[name] != nil {
			lists[name] = true
			continue
		}
		tx.Flush(&knftables.Chain{Name: name})
		tx.Delete(&knftables.Chain{Name: name})
		tx.Delete(&knftables.Set{Name: name})
	}
	if err := g.run(ctx, tx, next, lists); err != nil {
		return err
	}
	clear(g.owned)
	for _, name := range []string{"served4", "served6"} {
		for e := range next[name] {
			g.owned[e] = true
		}
	}
	return nil
}

// leave notes in next what is ours and not served any more.
func leave(next contents, owned map[element]bool) {
	for e := range owned {
		family := suffix(e.prefix.Addr())
		if _, serves := next["served"+family][e]; !serves {
			next.add("left"+family, e, "")
		}
	}
}

// replace makes the whole table anew in one transaction.
func (g *Guard) replace(ctx context.Context, next contents) error {
	tx := g.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	tx.Add(&knftables.Table{})
	for _, objects := range [][]knftables.Object{setsAndMaps(), chains(), rules()} {
		for _, obj := range objects {
			tx.Add(obj)
		}
	}
	g.lists = make(map[string]bool)
	lists := g.addLists(tx, next)
	g.differences(tx, next)
	return g.run(ctx, tx, next, lists)
}

// change brings the sets and maps from what they hold to next.
func (g *Guard) change(ctx context.Context, next contents) error {
	tx := g.nft.NewTransaction()
	lists := g.addLists(tx, next)
	g.differences(tx, next)
	return g.run(ctx, tx, next, lists)
}

// addLists adds the lists of sources that are not there. One that nobody uses any more
// stays until Settle: the kernel refuses to delete a chain together with the last element
// that jumps there.
func (g *Guard) addLists(tx *knftables.Transaction, next contents) map[string]bool {
	lists := maps.Clone(g.lists)
	for _, name := range names(next) {
		if !strings.HasPrefix(name, sourcesPrefix) || lists[name] {
			continue
		}
		lists[name] = true
		for _, obj := range sourceList(name) {
			tx.Add(obj)
		}
		g.difference(tx, name, nil, next[name])
	}
	return lists
}

func (g *Guard) differences(tx *knftables.Transaction, next contents) {
	all := maps.Clone(next)
	for name := range g.have {
		all[name] = nil
	}
	for _, name := range names(all) {
		if !strings.HasPrefix(name, sourcesPrefix) {
			g.difference(tx, name, g.have[name], next[name])
		}
	}
}

// difference deletes before it adds: the value of a map's element changes only so.
func (g *Guard) difference(tx *knftables.Transaction, name string, have, want map[element]string) {
	var gone, fresh []element
	for e, value := range have {
		if next, stays := want[e]; !stays || next != value {
			gone = append(gone, e)
		}
	}
	for e, value := range want {
		if former, there := have[e]; !there || former != value {
			fresh = append(fresh, e)
		}
	}
	for _, e := range ascending(gone) {
		tx.Delete(e.object(name, have[e]))
	}
	for _, e := range ascending(fresh) {
		tx.Add(e.object(name, want[e]))
	}
}

func (g *Guard) run(ctx context.Context, tx *knftables.Transaction, next contents, lists map[string]bool) error {
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := g.nft.Run(ctx, tx); err != nil {
		g.have, g.lost = nil, false
		return fmt.Errorf("changing nftables: %w", err)
	}
	if g.have == nil || !maps.Equal(lists, g.lists) {
		g.handles, g.rulesDue = nil, time.Time{}
	}
	g.have, g.lists, g.lost = next, lists, false
	return nil
}

// Remove deletes the table.
func (g *Guard) Remove(ctx context.Context) error {
	tx := g.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := g.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("deleting the nftables table: %w", err)
	}
	g.have, g.handles, g.lost = nil, nil, false
	clear(g.owned)
	return nil
}

func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func ascending(elements []element) []element {
	slices.SortFunc(elements, func(a, b element) int {
		return cmp.Or(
			a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()),
			cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port),
		)
	})
	return elements
}
