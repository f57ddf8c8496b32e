// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Present tells whether there is a table of ours, of this run or an earlier one.
func (g *Guard) Present(ctx context.Context) (bool, error) {
	if _, err := g.nft.ListAll(ctx); err != nil {
		if knftables.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("looking for the nftables table: %w", err)
	}
	return true, nil
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
		if err != nil && !knftables.IsNotFound(err) {
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
// it. It compares chains, sets and rules each time, which costs two runs of nft however
// much is served, and every element each 300th time.
func (g *Guard) Check(ctx context.Context) (bool, error) {
	if g.have == nil {
		return false, nil
	}
	outline, err := g.look(ctx)
	if err != nil && !knftables.IsNotFound(err) {
		return false, err
	}
	intact := err == nil
	if intact && g.outline == nil {
		intact = g.complete(outline)
		g.outline = outline
	}
	intact = intact && slices.Equal(outline, g.outline)
	g.checks++
	if intact && g.checks%deepEvery == 0 {
		if intact, err = g.same(ctx); err != nil {
			return false, err
		}
	}
	if !intact {
		g.have, g.outline = nil, nil
	}
	return intact, nil
}

// look returns the names of the table's chains, sets and maps, and the handles of its rules:
// a rule that was put in another's place has another handle.
func (g *Guard) look(ctx context.Context) ([]string, error) {
	all, err := g.nft.ListAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the nftables table: %w", err)
	}
	rules, err := g.nft.ListRules(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("listing the nftables rules: %w", err)
	}
	var outline []string
	for _, kind := range []string{"chain", "set", "map"} {
		for _, name := range all[kind] {
			outline = append(outline, kind+" "+name)
		}
	}
	for _, r := range rules {
		outline = append(outline, "rule "+r.Chain+" "+strconv.Itoa(*r.Handle))
	}
	slices.Sort(outline)
	return outline, nil
}

// complete tells whether an outline has as much as we made: it may have been changed
// before it was first looked at.
func (g *Guard) complete(outline []string) bool {
	want := len(setsAndMaps()) + len(chains()) + len(rules())
	for name := range g.lists {
		want += len(sourceList(name))
	}
	return len(outline) == want
}

// same compares every element.
func (g *Guard) same(ctx context.Context) (bool, error) {
	for _, obj := range setsAndMaps() {
		name := nameOf(obj)
		elements, err := g.read(ctx, name)
		if knftables.IsNotFound(err) {
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
	default:
		return ""
	}
}
