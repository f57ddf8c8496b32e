// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// breeze is what must move no address: agents that are away for a moment, some of them at
// once, and an API server that is.
func (w *storm) breeze() {
	w.note("breeze")
	var agents sync.WaitGroup
	for _, i := range w.rand.Perm(len(w.names))[:1+w.rand.IntN(len(w.names))] {
		n, kind, away := w.names[i], w.rand.IntN(4), time.Duration(w.rand.IntN(4000))*time.Millisecond
		later := time.Duration(w.rand.IntN(3000)) * time.Millisecond
		w.note("%s: %d after %s for %s", n, kind, later, away)
		agents.Go(func() {
			pause(w.t.Context(), later)
			switch kind {
			case 0:
				w.sigterm(n)
				pause(w.t.Context(), away)
				w.start(n)
			case 1:
				w.nodes[n].stop()
				w.lose(n)
				pause(w.t.Context(), away)
				w.start(n)
			case 2:
				w.sigstop(n)
				w.lose(n)
				pause(w.t.Context(), away)
				w.setCut(n, false)
				w.sigcont(n)
			case 3:
				w.freeze(n)
				pause(w.t.Context(), away)
				w.thaw(n)
			}
		})
	}
	if w.rand.IntN(3) == 0 {
		w.note("API server away")
		w.claims.FailWith(func(string, string) error { return errors.New("the server is away") })
		pause(w.t.Context(), time.Duration(w.rand.IntN(8000))*time.Millisecond)
		w.claims.FailWith(nil)
	}
	agents.Wait()
	w.wait(45 * time.Second)
}

// TestBreeze runs a few random histories after which every address is where it was.
func TestBreeze(t *testing.T) {
	t.Parallel()
	for seed := uint64(*first); seed < uint64(*first+*storms); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			names := abcd()[:2+seed%3]
			simulate(t, names, func(s *sim) {
				w := newStorm(s, names, seed)
				for range 6 {
					w.claimEvent()
				}
				w.wait(2 * time.Second)
				for range 4 {
					before := w.owners()
					w.log = []string{before}
					w.breeze()
					if after := w.owners(); after != before {
						s.t.Errorf("seed %d:\n%s\n%s", seed, strings.Join(w.log, "\n"), after)
						return
					}
				}
			})
		})
	}
}

// owners are the nodes that answer for each address.
func (w *storm) owners() string {
	out := ""
	for _, addr := range slices.Sorted(maps.Keys(w.bound)) {
		out += addr + ":" + w.who(addr) + " "
	}
	return out
}
