// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// note takes a plan in and marks as dirty what differs from the one before: a walk along
// both, in which an unchanged virtual server costs a comparison.
func (s *Servers) note(f loadbalancer.Forwarding) {
	f.VirtualServers = ascending(f.VirtualServers)
	before, after := s.last.VirtualServers, f.VirtualServers
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && less(&before[i], &after[j]):
			delete(s.want, before[i].VirtualServerKey)
			s.changed(before[i].VirtualServerKey)
			i++
		case i == len(before) || before[i].VirtualServerKey != after[j].VirtualServerKey:
			s.want[after[j].VirtualServerKey] = after[j]
			s.changed(after[j].VirtualServerKey)
			j++
		default:
			if !equal(&before[i], &after[j]) {
				s.want[after[j].VirtualServerKey] = after[j]
				s.changed(after[j].VirtualServerKey)
			}
			i, j = i+1, j+1
		}
	}
	s.last, s.protocols = f, nil
}

// ascending is the list itself if it ascends by key, as plans do.
func ascending(list []loadbalancer.VirtualServer) []loadbalancer.VirtualServer {
	for i := 1; i < len(list); i++ {
		if !less(&list[i-1], &list[i]) {
			byKey := func(a, b loadbalancer.VirtualServer) int { return compare(a.VirtualServerKey, b.VirtualServerKey) }
			list = slices.SortedFunc(slices.Values(list), byKey)
			return slices.CompactFunc(list, func(a, b loadbalancer.VirtualServer) bool { return a.VirtualServerKey == b.VirtualServerKey })
		}
	}
	return list
}

func less(a, b *loadbalancer.VirtualServer) bool {
	return a.VirtualServerKey != b.VirtualServerKey && compare(a.VirtualServerKey, b.VirtualServerKey) < 0
}

// changed has a virtual server looked at, and a refusal of what it was forgotten.
func (s *Servers) changed(key loadbalancer.VirtualServerKey) {
	s.dirty[key] = struct{}{}
	delete(s.refused, key)
}

func equal(a, b *loadbalancer.VirtualServer) bool {
	return a.Service == b.Service && a.Scheduler == b.Scheduler && a.Flags == b.Flags && a.Affinity == b.Affinity && same(a.Reals, b.Reals)
}

// same compares lists, which are often the very same one.
func same(a, b []loadbalancer.RealServer) bool {
	if len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] {
		return true
	}
	return slices.Equal(a, b)
}
