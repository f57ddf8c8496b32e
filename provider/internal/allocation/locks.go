// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"sync"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// keyLocks is one mutex per Service: the service controller and the service-address
// controller work on the same Services, and each Service wants one of them at a time.
type keyLocks struct {
	mu    sync.Mutex
	locks map[loadbalancer.ServiceKey]*keyLock
}

type keyLock struct {
	mu sync.Mutex
	// users counts who holds or waits; guarded by keyLocks.mu.
	users int
}

func newKeyLocks() *keyLocks {
	return &keyLocks{locks: make(map[loadbalancer.ServiceKey]*keyLock)}
}

// lock waits for the key and returns its unlock function.
func (k *keyLocks) lock(key loadbalancer.ServiceKey) func() {
	k.mu.Lock()
	l := k.locks[key]
	if l == nil {
		l = &keyLock{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
