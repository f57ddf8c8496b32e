// SPDX-License-Identifier: Apache-2.0

package intake

// memo keeps what objects were converted to, by pointer: informers replace their objects
// and never change them. With thousands of objects and a plan after every change, to
// convert all of them each time would be most of the agent's work. It is not safe for
// concurrent use, and what it returns must not be changed.
type memo[K comparable, V any] struct {
	known map[K]*memory[V]
	round uint64
	// news says that some value is new in this round.
	news bool
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
		m.news = true
	}
	e.round = m.round
	return e.value
}

// end ends a round in which n objects were asked for: the others are gone. It says whether
// the known values are others than after the round before.
func (m *memo[K, V]) end(n int) bool {
	if len(m.known) > n {
		for obj, e := range m.known {
			if e.round != m.round {
				delete(m.known, obj)
				m.news = true
			}
		}
	}
	news := m.news
	m.news = false
	m.round++
	return news
}
