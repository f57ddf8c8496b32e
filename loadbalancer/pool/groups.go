// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"maps"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Groups returns each claim's group: the lowest name among the claims that it is linked
// to by common Services, directly or through others. One node announces a group, so
// that a Service's addresses and all Services on them stay together. Claims without
// Services are groups of their own.
func Groups(claims map[string][]loadbalancer.ServiceUID) map[string]string {
	group := make(map[string]string, len(claims))
	first := make(map[loadbalancer.ServiceUID]string)
	// Names are visited in ascending order and a root only ever gets a lower parent,
	// so every root is the lowest name of its component.
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		group[name] = name
		for _, uid := range claims[name] {
			other, seen := first[uid]
			if !seen {
				first[uid] = name
				continue
			}
			a, b := root(group, name), root(group, other)
			group[max(a, b)] = min(a, b)
		}
	}
	for name := range claims {
		group[name] = root(group, name)
	}
	return group
}

// root follows parents to the top and shortens the way.
func root(parent map[string]string, name string) string {
	for parent[name] != name {
		parent[name] = parent[parent[name]]
		name = parent[name]
	}
	return name
}
