// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"reflect"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// groupMemory makes plans cost less of whose makers say what changed: it keeps the decision on
// each group, and decides anew only on those of which something changed that it follows from.
// Whatever all groups follow from has all of them decided anew.
type groupMemory struct {
	// last is the snapshot of the last plan, without what is in maps below; planner holds what
	// follows from it for all groups. Both are valid while known is set.
	known   bool
	last    Snapshot
	planner planner

	claims map[loadbalancer.Group]*loadbalancer.Claim
	// members are the names of the claims of each group, services those of each Service.
	members  map[loadbalancer.Group][]loadbalancer.Group
	services map[loadbalancer.ServiceUID][]loadbalancer.Group
	states   map[loadbalancer.Group]GroupState
}

// affected is what is to be looked at again.
type affected struct {
	// claims by name, nil for one that is gone.
	claims map[loadbalancer.Group]*loadbalancer.Claim
	groups map[loadbalancer.Group]struct{}
	// changes are those of claims.
	changes map[loadbalancer.Group]loadbalancer.ClaimChange
}

// plan decides on all groups. What is affected is nil where that may be anything.
func (m *groupMemory) plan(s *Snapshot) (*planner, *affected, map[loadbalancer.Group]GroupState) {
	if s.Changed == nil {
		*m = groupMemory{}
		p := newPlanner(s)
		return &p, nil, p.groups(s.Claims)
	}
	a := m.affected(s)
	if a == nil {
		m.learn(s)
		return &m.planner, nil, m.states
	}
	p := &m.planner
	p.s, p.claims = *s, claimIndex{members: s.Members}
	for g := range a.groups {
		names := m.members[g]
		if len(names) == 0 {
			delete(m.states, g)
			continue
		}
		claims := make([]loadbalancer.Claim, 0, len(names))
		for _, name := range names {
			claims = append(claims, *m.claims[name])
		}
		m.states[g] = p.group(g, claims)
	}
	return p, a, m.states
}

// learn decides on all groups and remembers all.
func (m *groupMemory) learn(s *Snapshot) {
	*m = groupMemory{
		known: true, last: *s, planner: newPlanner(s),
		claims:   make(map[loadbalancer.Group]*loadbalancer.Claim, len(s.Claims)),
		members:  make(map[loadbalancer.Group][]loadbalancer.Group, len(s.Claims)),
		services: make(map[loadbalancer.ServiceUID][]loadbalancer.Group, len(s.Claims)),
	}
	claims := slices.Clone(s.Claims) // for theirs may be changed
	for i := range claims {
		m.add(&claims[i])
	}
	m.states = m.planner.groups(s.Claims)
}

func (m *groupMemory) add(c *loadbalancer.Claim) {
	m.claims[c.Name] = c
	m.members[c.Group] = append(m.members[c.Group], c.Name)
	for _, uid := range c.Services {
		m.services[uid] = append(m.services[uid], c.Name)
	}
}

func (m *groupMemory) remove(c *loadbalancer.Claim) {
	delete(m.claims, c.Name)
	without(m.members, c.Group, c.Name)
	for _, uid := range c.Services {
		without(m.services, uid, c.Name)
	}
}

// without takes one name from a list.
func without[K comparable](lists map[K][]loadbalancer.Group, of K, name loadbalancer.Group) {
	list := lists[of]
	i := slices.Index(list, name)
	if i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(lists, of)
		return
	}
	lists[of] = list
}

// affected says what is to be looked at again, nil if that may be anything.
func (m *groupMemory) affected(s *Snapshot) *affected {
	a := &affected{
		claims: make(map[loadbalancer.Group]*loadbalancer.Claim), groups: make(map[loadbalancer.Group]struct{}), changes: s.Changed.Claims,
	}
	if !m.known || s.Changed.All || !m.sameForAll(s) || !m.claimedOtherwise(s, a) {
		return nil
	}
	m.last = *s
	for name, change := range s.Changed.Claims {
		if old := m.claims[name]; old != nil {
			a.groups[old.Group] = struct{}{}
			m.remove(old)
		}
		if change.Now != nil {
			m.add(change.Now)
		}
		a.claims[name] = change.Now
	}
	for uid := range s.Changed.Records {
		for _, name := range m.services[uid] {
			a.claims[name] = m.claims[name]
		}
	}
	for _, c := range a.claims {
		if c != nil {
			a.groups[c.Group] = struct{}{}
		}
	}
	for name := range s.Changed.Epochs {
		m.named(a, name)
	}
	return a
}

// named adds the groups that have a name, or a claim of that name.
func (m *groupMemory) named(a *affected, name loadbalancer.Group) {
	a.groups[name] = struct{}{}
	if c := m.claims[name]; c != nil {
		a.groups[c.Group] = struct{}{}
	}
}

// sameForAll says whether all is the same that every group follows from, but for members.
func (m *groupMemory) sameForAll(s *Snapshot) bool {
	o := &m.last
	return o.Self == s.Self && o.Guard == s.Guard && o.Hold == s.Hold && maps.Equal(o.Awaited, s.Awaited) &&
		(sameMap(o.Nodes, s.Nodes) || reflect.DeepEqual(o.Nodes, s.Nodes)) &&
		(sameMap(o.Advertisements, s.Advertisements) || reflect.DeepEqual(o.Advertisements, s.Advertisements))
}

// claimedOtherwise adds the groups of which members claim something else than before; it says
// whether nothing else of any member changed.
func (m *groupMemory) claimedOtherwise(s *Snapshot, a *affected) bool {
	if len(m.last.Members) != len(s.Members) {
		return false
	}
	for n, now := range s.Members {
		before, known := m.last.Members[n]
		if !known || before.Known != now.Known || before.Leaving != now.Leaving || before.Absent != now.Absent ||
			!slices.Equal(before.Gateways, now.Gateways) || !slices.EqualFunc(before.Interfaces, now.Interfaces, sameInterface) {
			return false
		}
		if sameMap(before.Claims, now.Claims) {
			continue
		}
		for name, epoch := range now.Claims {
			if before.Claims[name] != epoch {
				m.named(a, name)
			}
		}
		for name := range before.Claims {
			if _, still := now.Claims[name]; !still {
				m.named(a, name)
			}
		}
	}
	return true
}

func sameInterface(a, b loadbalancer.Interface) bool {
	return a.Name == b.Name && a.Index == b.Index && a.MAC == b.MAC && a.NoIPv4 == b.NoIPv4 && a.NoIPv6 == b.NoIPv6 && slices.Equal(a.Prefixes, b.Prefixes)
}

// sameMap says whether two are one map, which snapshots share where nothing changed.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}
