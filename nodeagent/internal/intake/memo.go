// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// memo keeps what objects were converted to, by pointer: informers replace their objects
// and never change them. With thousands of objects and a plan after every change, to
// convert all of them each time would be most of the agent's work. It is not safe for
// concurrent use, and what it returns must not be changed.
type memo[K comparable, V any] struct {
	known map[K]*memory[V]
	round uint64
}

// memory is a value and the last round in which it was asked for.
type memory[V any] struct {
	value V
	round uint64
}

// get returns an object's value, which convert makes when it is not known.
func (m *memo[K, V]) get(obj K, convert func(K) V) V {
	if m.known == nil {
		m.known = make(map[K]*memory[V])
	}
	e, ok := m.known[obj]
	if !ok {
		e = &memory[V]{value: convert(obj)}
		m.known[obj] = e
	}
	e.round = m.round
	return e.value
}

// end ends a round in which n objects were asked for: the others are gone.
func (m *memo[K, V]) end(n int) {
	if len(m.known) > n {
		for obj, e := range m.known {
			if e.round != m.round {
				delete(m.known, obj)
			}
		}
	}
	m.round++
}

// endpointsMemo keeps the endpoints of Services. Those of one are converted again when one
// of its slices changes, all when the weight of a node does. It is like memo otherwise.
type endpointsMemo struct {
	known   map[loadbalancer.ServiceKey]*endpointsMemory
	weights map[loadbalancer.NodeName]uint16
	round   uint64
}

// endpointsMemory is a Service's endpoints and what they were made of.
type endpointsMemory struct {
	slices []*discoveryv1.EndpointSlice
	value  loadbalancer.Endpoints
	round  uint64
}

// weigh forgets all endpoints if the nodes' weights are others than before.
func (m *endpointsMemo) weigh(weights map[loadbalancer.NodeName]uint16) {
	if !maps.Equal(m.weights, weights) {
		m.known, m.weights = nil, weights
	}
}

// get returns a Service's endpoints, which convert makes when they are not known, of its
// slices in any order.
func (m *endpointsMemo) get(key loadbalancer.ServiceKey, of []*discoveryv1.EndpointSlice, convert func() loadbalancer.Endpoints) loadbalancer.Endpoints {
	if m.known == nil {
		m.known = make(map[loadbalancer.ServiceKey]*endpointsMemory)
	}
	e := m.known[key]
	if e == nil || !sameObjects(e.slices, of) {
		e = &endpointsMemory{slices: of, value: convert()}
		m.known[key] = e
	}
	e.round = m.round
	return e.value
}

// sameObjects says whether two lists, neither of which has anything twice, hold the same.
func sameObjects[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}

// end ends a round in which the endpoints of n Services were asked for: the others are gone.
func (m *endpointsMemo) end(n int) {
	if len(m.known) > n {
		for key, e := range m.known {
			if e.round != m.round {
				delete(m.known, key)
			}
		}
	}
	m.round++
}
