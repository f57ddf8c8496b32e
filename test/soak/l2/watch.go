// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// watchInterval is how often the claims are looked at. An owner change lasts, so that
// only one that is taken back at once could be missed.
const watchInterval = 100 * time.Millisecond

// Change is an address that another node announces than before, by its claim.
type Change struct {
	At       time.Time
	Address  string
	From, To string
}

// String is one line for people.
func (c Change) String() string {
	return fmt.Sprintf("%s %s: %s → %s", c.At.Format("15:04:05.000"), c.Address, c.From, c.To)
}

// Watch notes each change of the owners of some addresses. A claim that names nobody for a
// moment is no change; one that names another node is. While the API server does not
// answer nothing is seen, and the difference counts when it answers again.
type Watch struct {
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	owners  map[string]string
	changes []Change
}

// NewWatch starts to watch until [Watch.Stop].
func NewWatch(ctx context.Context, lab *harness.Lab, addresses []string) *Watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watch{cancel: cancel, done: make(chan struct{}), owners: map[string]string{}}
	go func() {
		defer close(w.done)
		for {
			w.look(ctx, lab, addresses)
			if harness.Pause(ctx, watchInterval) != nil {
				return
			}
		}
	}()
	return w
}

func (w *Watch) look(ctx context.Context, lab *harness.Lab, addresses []string) {
	claims, err := lab.Claims(ctx)
	if err != nil {
		return // a disturbed API server; the next look counts
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range claims {
		c := &claims[i]
		if c.Status.Owner == nil || !slices.Contains(addresses, c.Name) {
			continue
		}
		w.note(c.Name, c.Status.Owner.Node, time.Now())
	}
}

// note compares with the last owner seen.
func (w *Watch) note(address, owner string, at time.Time) {
	before := w.owners[address]
	w.owners[address] = owner
	if before != "" && before != owner {
		w.changes = append(w.changes, Change{At: at, Address: address, From: before, To: owner})
	}
}

// Changes seen so far.
func (w *Watch) Changes() []Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.changes)
}

// Stop ends the watch and returns all changes.
func (w *Watch) Stop() []Change {
	w.cancel()
	<-w.done
	return w.Changes()
}
