// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"sync"

	"k8s.io/client-go/tools/cache"
)

// mirror keeps what the objects of one kind were converted to. The informer's events say of
// which objects there may be others: with thousands of objects and a look after every change,
// to go through all of them each time would be most of the agent's work. Only touch is safe
// for concurrent use.
type mirror[T, V any] struct {
	of cache.SharedIndexInformer
	// known are values by key of their objects. Values are not changed once made.
	known map[string]mirrored[T, V]

	mu      sync.Mutex
	touched map[string]struct{} // guarded by mu: keys of objects that may be others
}

// mirrored is an object, which informers replace and never change, and its value.
type mirrored[T, V any] struct {
	object *T
	value  *V
}

func newMirror[T, V any](of cache.SharedIndexInformer) mirror[T, V] {
	return mirror[T, V]{of: of, known: make(map[string]mirrored[T, V]), touched: make(map[string]struct{})}
}

// touch notes that an object may be another, or gone.
func (m *mirror[T, V]) touch(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return // not possible of an object of Kubernetes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touched[key] = struct{}{}
}

// read converts objects that are others than when they were read last, and tells of each
// value that is new (before is nil), another or gone (now is nil). It looks at those that were
// touched, or at all.
func (m *mirror[T, V]) read(all bool, convert func(*T) V, changed func(before, now *V)) {
	var touched map[string]struct{}
	m.mu.Lock()
	if len(m.touched) > 0 { // else it stays the one that touch writes to
		touched, m.touched = m.touched, make(map[string]struct{})
	}
	m.mu.Unlock()
	if all {
		touched = make(map[string]struct{}, len(m.known))
		for _, key := range m.of.GetStore().ListKeys() {
			touched[key] = struct{}{}
		}
		for key := range m.known {
			touched[key] = struct{}{}
		}
	}
	for key := range touched {
		before := m.known[key]
		obj, found, err := m.of.GetStore().GetByKey(key)
		if object, ok := obj.(*T); err == nil && found && ok {
			if object == before.object {
				continue
			}
			value := convert(object)
			m.known[key] = mirrored[T, V]{object, &value}
			changed(before.value, &value)
		} else if before.object != nil {
			delete(m.known, key)
			changed(before.value, nil)
		}
	}
}
