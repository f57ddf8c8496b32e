// SPDX-License-Identifier: Apache-2.0

package store

import (
	"maps"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// GroupFor returns the group that claims of these names are in once one Service has
// them all; those that are not bound yet count too. It is empty for no names.
func (s *Store) GroupFor(names []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.AppendSeq(slices.Clone(names), maps.Keys(s.linked(names)))
	if len(all) == 0 {
		return ""
	}
	return slices.Min(all)
}

// Misgrouped returns the Bound claims linked to those named whose group is not what it
// should be, as changed copies, by name.
func (s *Store) Misgrouped(names []string) []*v1alpha1.IPClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*v1alpha1.IPClaim
	groups := pool.Groups(s.linked(names))
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		c := s.claims[name]
		if c == nil || c.Spec.Group == groups[name] {
			continue
		}
		next := c.DeepCopy()
		next.Spec.Group = groups[name]
		out = append(out, next)
	}
	return out
}
