// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"net/netip"
	"slices"
	"strconv"
)

// ableCache remembers which nodes may announce one address: as a rule thousands of groups
// are alike but for the address, and are in one subnet. It is not safe for concurrent use.
type ableCache struct {
	world *world
	// subnets of all interfaces of the world's nodes, each once.
	subnets []netip.Prefix
	nodes   map[string][]int
}

// of returns the indexes of the nodes that may announce all the targets, ascending; but
// for the addresses that no node could announce, as agents do.
func (a *ableCache) of(w *world, targets []target) []int {
	switch len(targets) {
	case 0:
		return nil
	case 1:
	default:
		return able(w, reachable(w.nodes, targets))
	}
	if a.world != w {
		*a = ableCache{world: w, subnets: subnetsOf(w.nodes), nodes: map[string][]int{}}
	}
	key := a.key(targets[0])
	nodes, ok := a.nodes[key]
	if !ok {
		nodes = able(w, targets)
		a.nodes[key] = nodes
	}
	return nodes
}

// key is all that verdicts on one target depend on: the advertisements of each Service,
// and the subnets that the address is in.
func (a *ableCache) key(t target) string {
	b := make([]byte, 0, 64)
	for _, ads := range t.wishes {
		for _, ad := range ads {
			b = append(append(b, ad.Name...), ',')
		}
		b = append(b, ';')
	}
	for i, p := range a.subnets {
		if p.Contains(t.addr) {
			b = append(strconv.AppendInt(b, int64(i), 10), ',')
		}
	}
	return string(b)
}

func able(w *world, targets []target) []int {
	var out []int
	for i := range w.nodes {
		if w.nodes[i].verdict(targets) == "" {
			out = append(out, i)
		}
	}
	return out
}

func subnetsOf(nodes []node) []netip.Prefix {
	seen := map[netip.Prefix]bool{}
	var out []netip.Prefix
	for i := range nodes {
		for _, itf := range nodes[i].interfaces {
			for _, p := range itf.Prefixes {
				if m := p.Masked(); !seen[m] {
					seen[m] = true
					out = append(out, m)
				}
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}
