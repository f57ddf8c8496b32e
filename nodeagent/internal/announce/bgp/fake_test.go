// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// lab is a next hop for each family.
func lab(netip.Addr) (four, six netip.Addr) {
	return netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
}

// fakeDetector is a Detector that tests steer.
type fakeDetector struct {
	mu      sync.Mutex
	changed chan struct{}
	watched map[string]loadbalancer.BFDSession
	state   string
	falls   uint64
	// suspended keys, in the order of calls.
	suspended []string
	// forgets, if set, is called by Forget.
	forgets func()
}

func newFakeDetector() *fakeDetector {
	return &fakeDetector{changed: make(chan struct{}, 1), watched: make(map[string]loadbalancer.BFDSession), state: "Down"}
}

func (f *fakeDetector) Watch(key string, _, _ netip.Addr, s loadbalancer.BFDSession) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched[key] = s
}

func (f *fakeDetector) Forget(key string) {
	if f.forgets != nil {
		f.forgets()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, key)
}

func (f *fakeDetector) Suspend(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, key)
	f.suspended = append(f.suspended, key)
}

func (f *fakeDetector) State(key string) (string, uint64, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.watched[key]; !ok {
		return "", f.falls, ""
	}
	return f.state, f.falls, "as the test says"
}

func (f *fakeDetector) Changed() <-chan struct{} { return f.changed }

func (f *fakeDetector) set(state string, falls uint64) {
	f.mu.Lock()
	f.state, f.falls = state, falls
	f.mu.Unlock()
	poke(f.changed)
}

func (f *fakeDetector) watches(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.watched[key]
	return ok
}

func fmtPort(p uint16) string { return fmt.Sprint(p) }
