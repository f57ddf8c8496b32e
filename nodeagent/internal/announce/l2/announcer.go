// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// reopenDelay is how long a link rests after its connection failed.
const reopenDelay = time.Second

// table is what is announced: addresses by link name, with the epoch of ownership.
type table map[plan.Announcement]uint64

// Announcer announces on layer 2 by one protocol.
type Announcer struct {
	protocol Protocol
	opener   Opener
	count    Counters
	repeat   time.Duration
	notify   func()
	heard    Heard
	probed   Heard

	// current is read by the responders for every request.
	current atomic.Pointer[table]
	// probing are the addresses that are asked for to see whether they are free.
	probing atomic.Pointer[probing]
	changed chan struct{}

	conflicts conflicts

	mu     sync.Mutex
	links  []kernel.Link         // guarded by mu
	failed map[string]struct{}   // guarded by mu, by link name
	open   map[string]*responder // guarded by mu, by link name: the runner's connections
}

// New makes an announcer that announces nothing yet. Neighbours are told again of each
// address every repeat, for switches that forget; 0 is never. notify is called when the
// answer of [Announcer.Failed] changes; it must not block. heard is told who has which
// address.
func New(p Protocol, open Opener, count Counters, repeat time.Duration, notify func(), heard Heard) *Announcer {
	a := &Announcer{
		protocol: p, opener: open, count: count, repeat: repeat, notify: notify, heard: heard, probed: func(string, netip.Addr, kernel.MAC) {},
		changed: make(chan struct{}, 1), failed: map[string]struct{}{}, open: map[string]*responder{},
		conflicts: newConflicts(),
	}
	a.current.Store(&table{})
	a.probing.Store(&probing{})
	return a
}

// Apply replaces what is announced, and the links to announce on; addresses of another
// family than the protocol's are left out. An address that is not in want is not answered
// for when a request arrives after Apply returned; one that is new, or has a new epoch, is
// told to the neighbours. Apply does not block on the network.
func (a *Announcer) Apply(links []kernel.Link, want map[plan.Announcement]uint64) {
	t := make(table, len(want))
	for k, epoch := range want {
		if a.protocol.Serves(k.Addr) {
			t[k] = epoch
		}
	}
	a.mu.Lock()
	same := slices.EqualFunc(a.links, links, kernel.Link.Equal)
	a.links = links
	a.mu.Unlock()
	if same && maps.Equal(t, *a.current.Load()) {
		return
	}
	a.current.Store(&t)
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Failed says whether a link cannot be announced on: it has nothing of the address family,
// or there is no connection and the last attempt to open one failed; that is tried again
// every second.
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

// setOpen says by which connection questions go, nil for none.
func (a *Announcer) setOpen(link string, c *responder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c == nil {
		delete(a.open, link)
	} else {
		a.open[link] = c
	}
}

// forgetFailed forgets links that are no longer there.
func (a *Announcer) forgetFailed(known map[string]struct{}) {
	a.mu.Lock()
	before := len(a.failed)
	maps.DeleteFunc(a.failed, func(name string, _ struct{}) bool { _, ok := known[name]; return !ok })
	changed := len(a.failed) != before
	a.mu.Unlock()
	if changed {
		a.notify()
	}
}

func (a *Announcer) announces(link string, addr netip.Addr) bool {
	_, ok := (*a.current.Load())[plan.Announcement{Interface: link, Addr: addr}]
	return ok
}

// Run announces until ctx ends, and closes every connection before it returns.
func (a *Announcer) Run(ctx context.Context) error {
	r := runner{
		a: a, told: map[plan.Announcement]told{}, burst: a.protocol.Burst(), conns: map[string]*responder{},
		broken: make(chan *responder), resting: map[string]rest{}, later: jobs{less: byDue},
	}
	defer r.closeAll()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(r.next(time.Now()))
		changed := true
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
		case dead := <-r.broken:
			r.drop(ctx, dead)
		case <-a.conflicts.wake:
			changed = false
			r.defend(time.Now())
		case <-timer.C:
			changed = r.mayRetry(time.Now())
		}
		if changed {
			r.reconcile(ctx, time.Now())
		}
		r.sendDue(ctx, time.Now())
		r.a.giveNotice(time.Now())
	}
}

// told is a burst that was started.
type told struct{ epoch, run uint64 }

// runner is the state of [Announcer.Run]'s goroutine.
type runner struct {
	a *Announcer
	// told are the bursts that were started for what is announced, runs their number.
	told map[plan.Announcement]told
	runs uint64
	// burst is the protocol's.
	burst   []time.Duration
	conns   map[string]*responder
	resting map[string]rest
	broken  chan *responder
	// later are the jobs that are not due; those that are lie in their link's outbox.
	later jobs
	wg    sync.WaitGroup
}

// next is how long to sleep.
func (r *runner) next(now time.Time) time.Duration {
	d := time.Hour
	if r.later.Len() > 0 {
		d = r.later.list[0].due.Sub(now)
	}
	for _, c := range r.conns {
		if at, ok := c.outbox.ready(); ok {
			d = min(d, at.Sub(now))
		}
	}
	for _, rest := range r.resting {
		d = min(d, rest.until.Sub(now))
	}
	if at, due := r.a.conflicts.noticeDue(); due {
		d = min(d, at.Sub(now))
	}
	return max(d, 0)
}

// mayRetry says whether a link has rested for long enough.
func (r *runner) mayRetry(now time.Time) bool {
	for _, rest := range r.resting {
		if !now.Before(rest.until) {
			return true
		}
	}
	return false
}

// reconcile opens and closes connections and starts bursts for what is new.
func (r *runner) reconcile(ctx context.Context, now time.Time) {
	r.a.mu.Lock()
	links := r.a.links
	r.a.mu.Unlock()
	want, known := make(map[string]kernel.Link, len(links)), make(map[string]struct{}, len(links))
	for _, l := range links {
		known[l.Name] = struct{}{}
		if r.a.protocol.Uses(l) {
			want[l.Name] = l
		} else {
			r.a.setFailed(l.Name, true)
		}
	}
	for name, c := range r.conns {
		if l, ok := want[name]; !ok || changed(l, c.link) {
			r.end(c)
		}
	}
	maps.DeleteFunc(r.resting, func(name string, rest rest) bool {
		l, ok := want[name]
		return !ok || changed(l, rest.link)
	})
	for name, l := range want {
		if _, ok := r.conns[name]; !ok && !now.Before(r.resting[name].until) {
			r.start(ctx, l, now)
		}
	}
	r.a.forgetFailed(known)
	r.listen(ctx, now)
	r.startBursts(now)
}

// changed says that a link is not what a connection was opened on, or lapsed meanwhile, so
// that the kernel may have left the connection's groups, and neighbours have forgotten.
func changed(a, b kernel.Link) bool {
	return a.Index != b.Index || a.MAC != b.MAC || a.Lapses != b.Lapses
}

// rest is until when a link is left alone, unless it changes.
type rest struct {
	until time.Time
	link  kernel.Link
}

// listening is what a connection listens for.
type listening struct {
	table   *table
	probing *probing
}

// listen tells the connections what to listen for, once per change.
func (r *runner) listen(ctx context.Context, now time.Time) {
	want := listening{r.a.current.Load(), r.a.probing.Load()}
	var addrs map[string][]netip.Addr
	for name, c := range r.conns {
		if have := c.listens.Load(); have != nil && *have == want {
			continue
		}
		if addrs == nil {
			addrs = want.addrs()
		}
		if err := c.conn.Listen(addrs[name]); err != nil {
			r.end(c)
			r.rest(ctx, c.link, err, now)
			continue
		}
		c.listens.Store(&want)
	}
}

// addrs are the addresses by link.
func (l listening) addrs() map[string][]netip.Addr {
	out := make(map[string][]netip.Addr)
	for k := range *l.table {
		out[k.Interface] = append(out[k.Interface], k.Addr)
	}
	for k := range *l.probing {
		out[k.Interface] = append(out[k.Interface], k.Addr)
	}
	return out
}

// rest leaves a link alone for a while.
func (r *runner) rest(ctx context.Context, l kernel.Link, cause error, now time.Time) {
	r.resting[l.Name] = rest{now.Add(reopenDelay), l}
	if r.a.setFailed(l.Name, true) {
		klog.FromContext(ctx).Error(cause, "Cannot announce on link", "interface", l.Name, "protocol", r.a.protocol.Name())
	}
}

func (r *runner) start(ctx context.Context, l kernel.Link, now time.Time) {
	conn, err := r.a.opener(l)
	if err != nil {
		r.rest(ctx, l, err, now)
		return
	}
	delete(r.resting, l.Name)
	r.a.setFailed(l.Name, false)
	c := &responder{
		a: r.a, link: l, conn: conn, outbox: newOutbox(now), done: make(chan struct{}), questions: make(chan Frame, maxQuestions),
	}
	r.conns[l.Name] = c
	r.a.setOpen(l.Name, c)
	r.wg.Go(func() { c.speak(ctx) })
	r.wg.Go(func() {
		c.run(ctx)
		select {
		case r.broken <- c:
		case <-c.done:
		}
	})
	klog.FromContext(ctx).V(2).Info("Answering on link", "interface", l.Name, "protocol", r.a.protocol.Name(), "mac", l.MAC.String())
}

// end gives a connection up.
func (r *runner) end(c *responder) {
	c.stop()
	delete(r.conns, c.link.Name)
	r.a.setOpen(c.link.Name, nil)
	r.forget(c.link.Name)
}

// drop forgets a connection that failed by itself.
func (r *runner) drop(ctx context.Context, c *responder) {
	if r.conns[c.link.Name] != c {
		return
	}
	klog.FromContext(ctx).Info("Lost the connection to a link", "interface", c.link.Name, "protocol", r.a.protocol.Name())
	r.end(c)
	r.resting[c.link.Name] = rest{time.Now().Add(reopenDelay), c.link}
}

// forget makes a link's addresses new again: its address or its neighbours changed.
func (r *runner) forget(link string) {
	maps.DeleteFunc(r.told, func(k plan.Announcement, _ told) bool { return k.Interface == link })
}

func (r *runner) startBursts(now time.Time) {
	current := *r.a.current.Load()
	for k, epoch := range current {
		if t, ok := r.told[k]; r.conns[k.Interface] == nil || ok && t.epoch == epoch {
			continue
		}
		r.runs++
		r.told[k] = told{epoch, r.runs}
		r.later.add(job{due: now, key: k, run: r.runs, started: now})
	}
	maps.DeleteFunc(r.told, func(k plan.Announcement, _ told) bool { _, ok := current[k]; return !ok })
}

// sendDue sends the unsolicited frames whose time has come, for what is still ours.
func (r *runner) sendDue(ctx context.Context, now time.Time) {
	for r.later.Len() > 0 && !r.later.list[0].due.After(now) {
		j := r.later.take()
		if c := r.conns[j.key.Interface]; c != nil && r.told[j.key].run == j.run {
			c.outbox.due.add(j)
		}
	}
	for _, c := range r.conns {
		c.outbox.fill(now)
		for c.outbox.due.Len() > 0 && c.outbox.tokens >= 1 {
			j := c.outbox.due.take()
			// The table may have changed since it was read for the bursts.
			if !r.a.announces(j.key.Interface, j.key.Addr) || r.told[j.key].run != j.run {
				continue
			}
			step := j.step
			if j.once {
				step = len(r.burst)
			}
			c.outbox.tokens -= float64(c.announce(ctx, j.key.Addr, step))
			if j.nextStep(r.burst, r.a.repeat) {
				r.later.add(j)
			}
		}
	}
}

func (r *runner) closeAll() {
	for name, c := range r.conns {
		c.stop()
		r.a.setOpen(name, nil)
	}
	r.wg.Wait()
}
