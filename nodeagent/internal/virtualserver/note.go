// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// note takes a plan in and marks as dirty what differs from the one before: a walk along
// both, in which an unchanged virtual server costs a comparison.
func (s *Servers) note(f loadbalancer.Forwarding) {
	byKey := func(a, b loadbalancer.VirtualServer) int { return compare(a.VirtualServerKey, b.VirtualServerKey) }
	if !slices.IsSortedFunc(f.VirtualServers, byKey) {
		f.VirtualServers = slices.SortedFunc(slices.Values(f.VirtualServers), byKey)
	}
	before, after := s.last.VirtualServers, f.VirtualServers
	for len(before) > 0 || len(after) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = byKey(before[0], after[0])
		}
		switch {
		case order < 0:
			delete(s.want, before[0].VirtualServerKey)
			s.changed(before[0].VirtualServerKey)
			before = before[1:]
		case order > 0:
			s.want[after[0].VirtualServerKey] = after[0]
			s.changed(after[0].VirtualServerKey)
			after = after[1:]
		default:
			if !equal(&before[0], &after[0]) {
				s.want[after[0].VirtualServerKey] = after[0]
				s.changed(after[0].VirtualServerKey)
			}
			before, after = before[1:], after[1:]
		}
	}
	s.last, s.protocols = f, nil
}

// changed has a virtual server looked at, and a refusal of what it was forgotten.
func (s *Servers) changed(key loadbalancer.VirtualServerKey) {
	s.dirty[key] = struct{}{}
	delete(s.refused, key)
}

func equal(a, b *loadbalancer.VirtualServer) bool {
	return a.Service == b.Service && a.Scheduler == b.Scheduler && a.Flags == b.Flags && a.Affinity == b.Affinity && slices.Equal(a.Reals, b.Reals)
}
