// SPDX-License-Identifier: Apache-2.0

package pulse

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Asker asks once who has target and does not wait for the answer, which comes to
// [Watcher.Heard]; false says that the question could not be asked.
type Asker func(Target) bool

// Watcher runs a [Machine]. Its methods are safe for concurrent use.
type Watcher struct {
	ask    Asker
	notify func()
	wake   chan struct{}
	// known are the addresses that matter, by link, read for every frame.
	known atomic.Pointer[map[place]struct{}]

	mu                 sync.Mutex
	m                  *Machine // guarded by mu
	targets, witnesses []Target // guarded by mu
}

type place struct {
	link string
	addr netip.Addr
}

// NewWatcher makes a watcher. notify is called when the state of a node changed; it must
// not block.
func NewWatcher(t Timing, ask Asker, notify func()) *Watcher {
	w := &Watcher{ask: ask, notify: notify, wake: make(chan struct{}, 1), m: New(t, time.Now())}
	w.known.Store(&map[place]struct{}{})
	return w
}

// Watch replaces whom to watch, and the other members that can vouch for a link.
func (w *Watcher) Watch(targets, witnesses []Target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(targets, w.targets) && slices.Equal(witnesses, w.witnesses) {
		return
	}
	w.targets, w.witnesses = targets, witnesses
	known := make(map[place]struct{}, len(targets)+len(witnesses))
	for _, t := range slices.Concat(targets, witnesses) {
		known[place{t.Link, t.Addr}] = struct{}{}
	}
	w.known.Store(&known)
	if w.m.Watch(targets, witnesses) {
		w.notify()
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Heard is told that a frame on a link came from addr. It is cheap for addresses that are
// not watched.
func (w *Watcher) Heard(link string, addr netip.Addr) {
	if _, ok := (*w.known.Load())[place{link, addr}]; !ok {
		return
	}
	w.mu.Lock()
	changed := w.m.Heard(time.Now(), link, addr)
	w.mu.Unlock()
	if changed {
		w.notify()
	}
}

// State says what is known of a node.
func (w *Watcher) State(n loadbalancer.NodeName) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m.State(n)
}

// Run asks until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		next, ok := w.m.Next()
		w.mu.Unlock()
		timer.Stop()
		if ok {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-timer.C:
			w.tick()
		}
	}
}

func (w *Watcher) tick() {
	w.mu.Lock()
	ask, changed := w.m.Tick(time.Now())
	w.mu.Unlock()
	for _, t := range ask {
		if !w.ask(t) {
			w.mu.Lock()
			w.m.Unasked(t.Node)
			w.mu.Unlock()
		}
	}
	if changed {
		w.notify()
	}
}
