// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// probeCount, probeGap and probeJitter are RFC 5227's PROBE_NUM, PROBE_MIN and PROBE_MAX,
	// ten times as quick: a new Service must not wait for seconds, and whoever has an
	// address on the same link answers within a few milliseconds. RFC 4862 §5.1 asks for one
	// solicitation and a second's wait; more of them, quicker, find the same hosts.
	probeCount  = 3
	probeGap    = 150 * time.Millisecond
	probeJitter = 50 * time.Millisecond
	// probeAgain is when an address that a stranger has is asked for again.
	probeAgain = 10 * time.Second
	// probeBatch probes go out at most every probeTick: 2,000 per second, on all links
	// together, however many addresses are new.
	probeBatch = 20
	probeTick  = 10 * time.Millisecond
)

// probes finds out whether anybody outside the cluster has the addresses that are about to
// be announced for the first time ever (RFC 5227 §2.1, RFC 4862 §5.4). The loop says which;
// the announcers carry the questions and hear the answers.
type probes struct {
	// ask sends a probe without blocking and says whether it could.
	ask    func(k plan.Announcement) bool
	notify func()
	wake   chan struct{}
	// active is the length of of: most frames are heard while there is nothing to probe.
	active atomic.Int64

	mu    sync.Mutex
	nodes map[kernel.MAC]struct{}      // guarded by mu: of node agents; nil: nobody is foreign
	of    map[plan.Announcement]*probe // guarded by mu
	queue probeQueue                   // guarded by mu: those that are not free
	next  time.Time                    // guarded by mu: when the next batch may go
}

// probe is what is known of one address on one link; it is guarded by probes.mu.
type probe struct {
	key plan.Announcement
	due time.Time
	// sent of the present round.
	sent int
	// free says that a round went by without an answer.
	free bool
	// duplicate says that somebody answered, and nobody failed to since.
	duplicate bool
	mac       kernel.MAC
	since     time.Time
	// told says that the log has it.
	told  bool
	index int // in the queue, -1 if it is not there
}

// verdict of probing.
type verdict int

const (
	verdictPending verdict = iota
	verdictFree
	verdictDuplicate
)

// duplicate is an address that a stranger has.
type duplicate struct {
	plan.Announcement
	mac   kernel.MAC
	since time.Time
}

func newProbes(ask func(k plan.Announcement) bool, notify func()) *probes {
	return &probes{ask: ask, notify: notify, wake: make(chan struct{}, 1), of: make(map[plan.Announcement]*probe)}
}

// verdict of an address on a link; it begins to probe one that is new.
func (p *probes) verdict(now time.Time, k plan.Announcement) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.of[k]
	switch {
	case b == nil:
		b = &probe{key: k, due: now}
		p.of[k] = b
		heap.Push(&p.queue, b)
		p.active.Store(int64(len(p.of)))
		mark(p.wake)
		return verdictPending
	case b.free:
		return verdictFree
	case b.duplicate:
		return verdictDuplicate
	default:
		return verdictPending
	}
}

// has says whether an address on a link is known.
func (p *probes) has(k plan.Announcement) bool {
	if p.active.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[k] != nil
}

// keep forgets all other addresses.
func (p *probes) keep(wanted map[plan.Announcement]struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, b := range p.of {
		if _, ok := wanted[k]; ok {
			continue
		}
		delete(p.of, k)
		if b.index >= 0 {
			heap.Remove(&p.queue, b.index)
		}
	}
	p.active.Store(int64(len(p.of)))
}

// duplicates are the addresses that strangers have, in any order.
func (p *probes) duplicates() []duplicate {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []duplicate
	for k, b := range p.of {
		if b.duplicate {
			out = append(out, duplicate{k, b.mac, b.since})
		}
	}
	return out
}

// log tells of addresses that were found to be a stranger's since it was last called.
func (p *probes) log(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, b := range p.of {
		if b.duplicate && !b.told {
			b.told = true
			klog.FromContext(ctx).Info("Not announcing: a host outside the cluster has the address",
				"address", k.Addr, "interface", k.Interface, "mac", b.mac.String(), "reason", reason.DuplicateAddress)
		}
	}
}

// setNodes says which link-layer addresses belong to node agents, this one's included.
func (p *probes) setNodes(macs map[kernel.MAC]struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes = macs
}

// heard takes a frame that says that a host has an address, or means to take it.
func (p *probes) heard(now time.Time, k plan.Announcement, from kernel.MAC) {
	if p.active.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.of[k]
	if _, ours := p.nodes[from]; ours || p.nodes == nil || b == nil || b.free {
		return
	}
	// Within a round it is an answer, and ends the round; between rounds it changes nothing.
	if b.duplicate && b.sent == 0 {
		return
	}
	news := !b.duplicate || b.mac != from
	if !b.duplicate {
		// The log has it once, however often the host's own address changes.
		b.duplicate, b.since, b.told = true, now, false
	}
	b.mac, b.sent, b.due = from, 0, now.Add(probeAgain)
	heap.Fix(&p.queue, b.index)
	if news {
		p.notify()
	}
}

// Run asks until ctx ends.
func (p *probes) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(p.turn(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// turn sends what is due and returns how long to sleep.
func (p *probes) turn(ctx context.Context, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait := p.next.Sub(now); wait > 0 {
		return wait
	}
	for range probeBatch {
		if len(p.queue) == 0 {
			return time.Hour
		}
		if wait := p.queue[0].due.Sub(now); wait > 0 {
			return wait
		}
		p.step(ctx, now, p.queue[0])
	}
	p.next = now.Add(probeTick)
	return probeTick
}

// step sends one probe, or ends a round that nobody answered.
func (p *probes) step(ctx context.Context, now time.Time, b *probe) {
	if b.sent == probeCount {
		if b.duplicate {
			klog.FromContext(ctx).Info("No other host has the address any longer", "address", b.key.Addr, "interface", b.key.Interface)
		}
		b.free, b.duplicate = true, false
		heap.Remove(&p.queue, b.index)
		p.notify()
		return
	}
	// A link that is not open yet gets its probes later.
	if p.ask(b.key) {
		b.sent++
	}
	b.due = now.Add(probeGap)
	if b.sent < probeCount {
		b.due = b.due.Add(rand.N(2*probeJitter) - probeJitter) //nolint:gosec // no secret
	}
	heap.Fix(&p.queue, b.index)
}

// probeQueue is a heap by due.
type probeQueue []*probe

func (q probeQueue) Len() int           { return len(q) }
func (q probeQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q probeQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for package heap.
func (q *probeQueue) Push(x any) {
	if b, ok := x.(*probe); ok {
		b.index = len(*q)
		*q = append(*q, b)
	}
}

// Pop is for package heap.
func (q *probeQueue) Pop() any {
	last := len(*q) - 1
	b := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	b.index = -1
	return b
}

// probe asks everybody on a link for an address, as a host that has none.
func (a *Agent) probe(k plan.Announcement) bool {
	announcer := a.arp
	if k.Addr.Is6() {
		announcer = a.ndp
	}
	return announcer.Ask(k.Interface, k.Addr, netip.Addr{}, kernel.MAC{})
}
