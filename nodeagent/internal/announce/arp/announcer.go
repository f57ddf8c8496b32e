// SPDX-License-Identifier: Apache-2.0

package arp

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Conn sends and receives Ethernet frames with ARP on one link.
type Conn interface {
	// ReadFrame blocks for one frame; it fails once the connection is closed.
	ReadFrame(b []byte) (int, error)
	WriteFrame(b []byte, to kernel.MAC) error
	Close() error
}

// Opener opens a connection on a link.
type Opener func(kernel.Link) (Conn, error)

// Counters is told what happens on the wire. It is called from several goroutines.
type Counters interface {
	// Request: somebody asked for an address that we announce.
	Request()
	// Reply: we answered.
	Reply()
	// Gratuitous: we sent one unsolicited frame.
	Gratuitous()
	// Conflict: another host claims an address that we announce.
	Conflict()
}

// reopenDelay is how long a link rests after its connection failed.
const reopenDelay = time.Second

// burst is when gratuitous frames go out after a take-over. The first is what moves
// the traffic; the later ones are for neighbours that lost it or that ignore changes
// within a second of the last one (Linux' locktime).
func burst() []time.Duration {
	return []time.Duration{
		0, 100 * time.Millisecond, 300 * time.Millisecond, 1100 * time.Millisecond, 2200 * time.Millisecond,
	}
}

// table is what is announced: addresses by link name, with the epoch of ownership.
type table map[plan.Announcement]uint64

// Announcer announces on layer 2.
type Announcer struct {
	open   Opener
	count  Counters
	notify func()

	// current is read by the responders for every request.
	current atomic.Pointer[table]
	changed chan struct{}

	mu     sync.Mutex
	links  []kernel.Link       // guarded by mu
	failed map[string]struct{} // guarded by mu, by link name
}

// New makes an announcer that announces nothing yet. notify is called when the answer
// of [Announcer.Failed] changes; it must not block.
func New(open Opener, count Counters, notify func()) *Announcer {
	a := &Announcer{open: open, count: count, notify: notify, changed: make(chan struct{}, 1), failed: map[string]struct{}{}}
	a.current.Store(&table{})
	return a
}

// Apply replaces what is announced, and the links to announce on. An address that is
// not in want is not answered for when a request arrives after Apply returned; one that is new, or has
// a new epoch, is told to the neighbours. Apply does not block on the network.
func (a *Announcer) Apply(links []kernel.Link, want map[plan.Announcement]uint64) {
	t := table(maps.Clone(want))
	a.current.Store(&t)
	a.mu.Lock()
	a.links = links
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Failed says whether a link cannot be announced on: there is no connection, and the
// last attempt to open one failed. It is tried again every second.
func (a *Announcer) Failed(link string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.failed[link]
	return ok
}

// setFailed notes that a link works or not and says whether that is new.
func (a *Announcer) setFailed(link string, failed bool) bool {
	a.mu.Lock()
	_, before := a.failed[link]
	if failed {
		a.failed[link] = struct{}{}
	} else {
		delete(a.failed, link)
	}
	a.mu.Unlock()
	if before != failed {
		a.notify()
	}
	return before != failed
}

func (a *Announcer) announces(link string, addr netip.Addr) bool {
	_, ok := (*a.current.Load())[plan.Announcement{Interface: link, Addr: addr}]
	return ok
}

// Run announces until ctx ends, and closes every connection before it returns.
func (a *Announcer) Run(ctx context.Context) error {
	r := runner{
		a: a, told: table{}, conns: map[string]*responder{}, broken: make(chan *responder),
		retryAt: map[string]time.Time{},
	}
	defer r.closeAll()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(r.next(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
		case dead := <-r.broken:
			r.drop(ctx, dead)
		case <-timer.C:
		}
		r.reconcile(ctx, time.Now())
		r.sendDue(ctx, time.Now())
	}
}

// runner is the state of [Announcer.Run]'s goroutine.
type runner struct {
	a *Announcer
	// told is the table for which bursts were started.
	told    table
	conns   map[string]*responder
	retryAt map[string]time.Time
	broken  chan *responder
	pending queue
	wg      sync.WaitGroup
}

// next is how long to sleep.
func (r *runner) next(now time.Time) time.Duration {
	d := time.Hour
	if len(r.pending) > 0 {
		d = r.pending[0].due.Sub(now)
	}
	for _, at := range r.retryAt {
		d = min(d, at.Sub(now))
	}
	return max(d, 0)
}

// reconcile opens and closes connections and starts bursts for what is new.
func (r *runner) reconcile(ctx context.Context, now time.Time) {
	r.a.mu.Lock()
	links := r.a.links
	r.a.mu.Unlock()
	want := make(map[string]kernel.Link, len(links))
	for _, l := range links {
		want[l.Name] = l
	}
	for name, c := range r.conns {
		if l, ok := want[name]; !ok || l.Index != c.link.Index || l.MAC != c.link.MAC {
			c.stop()
			delete(r.conns, name)
			r.forget(name)
		}
	}
	for name, l := range want {
		if _, ok := r.conns[name]; !ok && !now.Before(r.retryAt[name]) {
			r.start(ctx, l, now)
		}
	}
	for name := range r.retryAt {
		if _, ok := want[name]; !ok {
			delete(r.retryAt, name)
			r.a.setFailed(name, false)
		}
	}
	r.startBursts(now)
}

func (r *runner) start(ctx context.Context, l kernel.Link, now time.Time) {
	logger := klog.FromContext(ctx)
	conn, err := r.a.open(l)
	if err != nil {
		r.retryAt[l.Name] = now.Add(reopenDelay)
		if r.a.setFailed(l.Name, true) {
			logger.Error(err, "Cannot announce on link", "interface", l.Name)
		}
		return
	}
	delete(r.retryAt, l.Name)
	r.a.setFailed(l.Name, false)
	c := &responder{a: r.a, link: l, conn: conn, done: make(chan struct{})}
	r.conns[l.Name] = c
	r.wg.Go(func() {
		c.run(ctx)
		select {
		case r.broken <- c:
		case <-c.done:
		}
	})
	logger.V(2).Info("Answering ARP on link", "interface", l.Name, "mac", l.MAC.String())
}

// drop forgets a connection that failed by itself.
func (r *runner) drop(ctx context.Context, c *responder) {
	if r.conns[c.link.Name] != c {
		return
	}
	klog.FromContext(ctx).Info("Lost ARP connection", "interface", c.link.Name)
	c.stop()
	delete(r.conns, c.link.Name)
	r.forget(c.link.Name)
	r.retryAt[c.link.Name] = time.Now().Add(reopenDelay)
}

// forget makes a link's addresses new again: its address or its neighbours changed.
func (r *runner) forget(link string) {
	maps.DeleteFunc(r.told, func(k plan.Announcement, _ uint64) bool { return k.Interface == link })
}

func (r *runner) startBursts(now time.Time) {
	current := *r.a.current.Load()
	for k, epoch := range current {
		if _, open := r.conns[k.Interface]; !open || r.told[k] == epoch {
			continue
		}
		r.told[k] = epoch
		r.pending.push(job{due: now, key: k, epoch: epoch, started: now})
	}
	maps.DeleteFunc(r.told, func(k plan.Announcement, _ uint64) bool { _, ok := current[k]; return !ok })
}

// sendDue sends the gratuitous frames whose time has come, for what is still ours.
func (r *runner) sendDue(ctx context.Context, now time.Time) {
	steps := burst()
	for len(r.pending) > 0 && !r.pending[0].due.After(now) {
		j := r.pending.pop()
		c, open := r.conns[j.key.Interface]
		if !open || r.told[j.key] != j.epoch || (*r.a.current.Load())[j.key] != j.epoch {
			continue
		}
		c.announce(ctx, j.key.Addr)
		if j.step++; j.step < len(steps) {
			j.due = j.started.Add(steps[j.step])
			r.pending.push(j)
		}
	}
}

func (r *runner) closeAll() {
	for _, c := range r.conns {
		c.stop()
	}
	r.wg.Wait()
}
