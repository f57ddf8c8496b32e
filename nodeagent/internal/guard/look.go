// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Present tells whether there is a table of ours, of this run or an earlier one.
func (g *Guard) Present(ctx context.Context) (bool, error) {
	all, err := g.objects(ctx)
	if err != nil {
		return false, err
	}
	return len(all["chain"])+len(all["set"]) > 0, nil
}

// objects are the names of what the table has, by kind; there are none without the table.
func (g *Guard) objects(ctx context.Context) (map[string][]string, error) {
	all, err := g.nft.ListAll(ctx)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the nftables table: %w", err)
	}
	return all, nil
}

// Owned returns what this or an earlier run serves, will serve ([Guard.Prepare]), or has
// served without having told by [Guard.Settle] that its virtual servers are gone. The keys
// have no mark and ascend.
func (g *Guard) Owned(ctx context.Context) ([]loadbalancer.VirtualServerKey, error) {
	owned := maps.Clone(g.owned)
	if g.have == nil {
		former, err := g.former(ctx)
		if err != nil {
			return nil, err
		}
		maps.Copy(owned, former)
	}
	keys := make([]loadbalancer.VirtualServerKey, 0, len(owned))
	for e := range owned {
		keys = append(keys, loadbalancer.VirtualServerKey{Addr: e.prefix.Addr(), Protocol: e.protocol, Port: e.port})
	}
	slices.SortFunc(keys, func(a, b loadbalancer.VirtualServerKey) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return keys, nil
}

// former reads from the kernel what is ours.
func (g *Guard) former(ctx context.Context) (map[element]bool, error) {
	owned := make(map[element]bool)
	for _, name := range []string{"served4", "served6", "left4", "left6"} {
		elements, err := g.read(ctx, name)
		if err != nil && !isNotFound(err) {
			return nil, err
		}
		for e := range elements {
			owned[e] = true
		}
	}
	return owned, nil
}

func (g *Guard) read(ctx context.Context, name string) (map[element]string, error) {
	kind := "set"
	if isMap(name) {
		kind = "map"
	}
	list, err := g.nft.ListElements(ctx, kind, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	elements := make(map[element]string, len(list))
	for _, obj := range list {
		e, err := parseElement(name, obj.Key)
		if err != nil {
			return nil, err
		}
		value := ""
		if isMap(name) {
			value = canonical(obj.Value)
		}
		elements[e] = value
	}
	return elements, nil
}

// canonical writes a mark as we do; nft lists it as a decimal number.
func canonical(value []string) string {
	if len(value) != 1 {
		return ""
	}
	if mark, err := strconv.ParseUint(value[0], 0, 32); err == nil {
		return fmt.Sprintf("0x%08x", mark)
	}
	return value[0]
}

// Check tells whether the table is still what Apply made; if not, the next Apply replaces
// it. It compares the names of chains, sets and maps each time. To list rules, nft reads
// the elements of all sets first; so rules are compared no more often than takes a
// fiftieth of the time, which is each second up to some hundred Services, and elements a
// tenth as often.
func (g *Guard) Check(ctx context.Context) (bool, error) {
	if g.have == nil {
		return false, nil
	}
	intact, err := twice(ctx, g.listed)
	start := time.Now()
	g.partial = start.Before(g.rulesDue) || start.Before(g.elementsDue)
	if err == nil && intact && !start.Before(g.rulesDue) {
		intact, err = twice(ctx, g.unchanged)
		g.rulesDue = time.Now().Add(50 * time.Since(start))
	}
	start = time.Now()
	if err == nil && intact && !start.Before(g.elementsDue) {
		intact, err = twice(ctx, g.Same)
		g.elementsDue = time.Now().Add(500 * time.Since(start))
	}
	if err != nil {
		return false, err
	}
	if !intact {
		g.have, g.handles, g.lost = nil, nil, true
	}
	return intact, nil
}

// Partial tells whether the last Check left something out, so that nothing more can be
// concluded from nobody having changed nftables since.
func (g *Guard) Partial() bool { return g.partial }

// twice must it look wrong: a list that was made while somebody changed nftables may lack
// what is there.
func twice(ctx context.Context, intact func(context.Context) (bool, error)) (bool, error) {
	ok, err := intact(ctx)
	if err != nil || !ok {
		ok, err = intact(ctx)
	}
	return ok, err
}

// listed tells whether chains, sets and maps are there, and no others.
func (g *Guard) listed(ctx context.Context) (bool, error) {
	all, err := g.objects(ctx)
	if err != nil {
		return false, err
	}
	var got, want []string
	for _, kind := range []string{"chain", "set", "map"} {
		for _, name := range all[kind] {
			if !strings.HasPrefix(name, "__") { // a set of one rule, which the kernel names
				got = append(got, name)
			}
		}
	}
	for _, objects := range [][]knftables.Object{setsAndMaps(), chains()} {
		for _, obj := range objects {
			want = append(want, nameOf(obj))
		}
	}
	for name := range g.lists {
		want = append(want, name, name) // a chain and a set
	}
	slices.Sort(got)
	slices.Sort(want)
	return slices.Equal(got, want), nil
}

// unchanged tells whether the rules are those that we made: a rule in another's place has
// another handle.
func (g *Guard) unchanged(ctx context.Context) (bool, error) {
	list, err := g.nft.ListRules(ctx, "")
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("listing the nftables rules: %w", err)
	}
	handles := make([]int, 0, len(list))
	for _, r := range list {
		handles = append(handles, *r.Handle)
	}
	slices.Sort(handles)
	if g.handles == nil {
		// What was changed before it was first looked at shows by its number only.
		if len(handles) != len(rules())+2*len(g.lists) {
			return false, nil
		}
		g.handles = handles
		return true, nil
	}
	return slices.Equal(handles, g.handles), nil
}

// isNotFound knows ENOENT also as the library for netlink hands it on: as text only.
func isNotFound(err error) bool {
	return err != nil && (knftables.IsNotFound(err) || strings.HasSuffix(err.Error(), "no such file or directory"))
}

// Same compares every element, as [Guard.Check] does now and then.
func (g *Guard) Same(ctx context.Context) (bool, error) {
	for _, obj := range setsAndMaps() {
		name := nameOf(obj)
		elements, err := g.read(ctx, name)
		if isNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !maps.Equal(elements, g.have[name]) {
			return false, nil
		}
	}
	return true, nil
}

func nameOf(obj knftables.Object) string {
	switch obj := obj.(type) {
	case *knftables.Set:
		return obj.Name
	case *knftables.Map:
		return obj.Name
	case *knftables.Chain:
		return obj.Name
	default:
		return ""
	}
}
