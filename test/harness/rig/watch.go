// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Seen is what a [Watch] saw of one address.
type Seen struct {
	// Asked and Answered count; an answer that two nodes gave counts twice.
	Asked, Answered int
	// LongestGap is the longest time between two answers, or an answer and an end of the
	// watch.
	LongestGap time.Duration
	// Owners are the hardware addresses that answered, each time that it was another than
	// before.
	Owners []MAC
	last   time.Time
}

// Watch asks for addresses all the time.
type Watch struct {
	mu     sync.Mutex
	seen   map[netip.Addr]*Seen
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	failed error
}

// Watch begins to ask for every address, each every interval by broadcast.
func (c *Client) Watch(ctx context.Context, addrs []netip.Addr, interval time.Duration) *Watch {
	w := &Watch{seen: make(map[netip.Addr]*Seen, len(addrs))}
	start := time.Now()
	for _, a := range addrs {
		w.seen[a] = &Seen{last: start}
	}
	w.stop = c.Hear(w.hear)
	ctx, w.cancel = context.WithCancel(ctx)
	w.wg.Go(func() {
		w.failed = c.pace(ctx, len(addrs), interval, func(i int) (bool, error) {
			w.mu.Lock()
			w.seen[addrs[i]].Asked++
			w.mu.Unlock()
			return true, c.Ask(addrs[i], MAC{})
		})
	})
	return w
}

func (w *Watch) hear(f Frame) {
	if f.Kind != Answer {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.seen[f.Addr]
	if !ok {
		return
	}
	s.Answered++
	s.LongestGap = max(s.LongestGap, f.At.Sub(s.last))
	s.last = f.At
	if len(s.Owners) == 0 || s.Owners[len(s.Owners)-1] != f.MAC {
		s.Owners = append(s.Owners, f.MAC)
	}
}

// Stop ends the watch and returns what it saw.
func (w *Watch) Stop() (map[netip.Addr]Seen, error) {
	w.cancel()
	w.wg.Wait()
	w.stop()
	end := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[netip.Addr]Seen, len(w.seen))
	for a, s := range w.seen {
		s.LongestGap = max(s.LongestGap, end.Sub(s.last))
		out[a] = Seen{Asked: s.Asked, Answered: s.Answered, LongestGap: s.LongestGap, Owners: slices.Clone(s.Owners)}
	}
	return out, w.failed
}
