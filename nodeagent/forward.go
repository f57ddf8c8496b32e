// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
	viplink "github.com/fairlead-lb/fairlead/nodeagent/internal/vip"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

const (
	// sentinel is how often the data plane is looked at, for what others removed.
	sentinel = time.Second
	// eventGap is the least time between two looks for events of nftables, which every
	// change of our own and of kube-proxy's causes too.
	eventGap = 200 * time.Millisecond
	// restPerLook is how much longer than a look the rest before one for an event is.
	restPerLook = 4
	// lookAgain is how often the kernel and who else works on it are looked at anew.
	lookAgain = 30 * time.Second
	// handBack is how long a node that stops forwarding goes on after it said so: the
	// controller has kube-proxy take the addresses meanwhile.
	handBack = 5 * time.Second
	// maxRetry is the longest pause after a failure to program.
	maxRetry = 30 * time.Second
	// refusals is how many failures in a row make a kernel that was never programmed one
	// that cannot be.
	refusals = 3
)

// virtualServers program IPVS: [virtualserver.Servers].
type virtualServers interface {
	Apply(ctx context.Context, f loadbalancer.Forwarding) (virtualserver.Result, error)
	// Check puts back what somebody removed, and drains.
	Check(ctx context.Context) (virtualserver.Result, error)
	Remove(ctx context.Context) error
}

// vipLink has the addresses on our link: [viplink.VIPs].
type vipLink interface {
	Apply(ctx context.Context, want []netip.Addr) (viplink.Result, error)
	// Check puts back what somebody removed.
	Check(ctx context.Context) (viplink.Result, error)
	Remove(ctx context.Context) error
}

// guarding takes packets past kube-proxy and keeps them from the node itself: [guard.Guard].
type guarding interface {
	// Prepare notes as ours what will be served.
	Prepare(ctx context.Context, f loadbalancer.Forwarding) error
	Apply(ctx context.Context, f loadbalancer.Forwarding) error
	// Settle forgets what was served before.
	Settle(ctx context.Context) error
	// Check only looks, and not at everything where it was Partial.
	Check(ctx context.Context) (intact bool, err error)
	Partial() bool
	Remove(ctx context.Context) error
}

// plane are the parts of the data plane; one goroutine uses them.
type plane struct {
	servers virtualServers
	vips    vipLink
	guard   guarding
	// generation is the number of the last transaction of nftables, whoever's.
	generation func() (uint32, error)
	// adopt finds out what an earlier run forwards, once, before anything is changed.
	adopt func(ctx context.Context) (earlier, error)
	// forget has TCP connections to the addresses that were begun and have no answer be
	// decided on anew.
	forget func(addrs []netip.Addr) (int, error)
	close  func()
}

// earlier is what a run before this one left that forwards.
type earlier struct {
	// vips are on the link.
	vips []netip.Addr
	// served by virtual servers that have real servers.
	served map[loadbalancer.VirtualServerKey]struct{}
}

// planeDeps connect the forwarder to the kernel.
type planeDeps struct {
	// open finds out whether the kernel can forward; kernel.ErrNoIPVS says that it has no
	// IPVS. Nothing is programmed yet.
	open func(ctx context.Context) (*plane, error)
	// left says whether an earlier run left anything that forwards.
	left func(ctx context.Context) (bool, error)
	// look finds out who else works on this node's packets.
	look func(ctx context.Context) surroundings.Report
	// read returns all virtual servers with their figures, and how many buckets the table of
	// connections has. It is called from anywhere.
	read func() ([]kernel.ServerState, int, error)
	// watch calls notify when anything of nftables changed, until ctx ends.
	watch func(ctx context.Context, notify func()) error
}

// wanted is what the owner loop wants programmed.
type wanted struct {
	loadbalancer.Forwarding
	// ready says that the kernel's settings are as forwarding needs them.
	ready bool
	// refused says why they cannot be made so.
	refused error
	// revision is the highest of all records planned for, spec that of the last one whose
	// spec changed.
	revision, spec uint64
}

// planeState is what the forwarder has come to. It is immutable.
type planeState struct {
	// decided says that it is known whether this node forwards.
	decided bool
	// forwards says that the loop is to plan for it.
	forwards bool
	// told is for NodeAgent.status.dataPlane, but for the revision; its Forwarding is empty
	// while it is not known what is in the kernel.
	told v1alpha1.DataPlaneStatus
	// revision and spec are those of what is programmed.
	revision, spec uint64
	// programmed is what the kernel has.
	programmed loadbalancer.Forwarding
	// vips of the last plan that was programmed, those that the kernel refuses included.
	vips map[netip.Addr]struct{}
}

// forwarder is the data plane's goroutine: programming thousands of virtual servers must
// not keep the owner loop from its peers. The latest plan wins.
type forwarder struct {
	mode    string
	d       planeDeps
	metrics *metrics.Metrics
	notify  func()
	wake    chan struct{}
	events  chan struct{}
	state   atomic.Pointer[planeState]

	mu      sync.Mutex
	want    wanted        // guarded by mu
	leaving chan struct{} // guarded by mu: closed when all is removed, nil while nothing is to be
	// interrupt ends the look at the guard, nil while there is none; insists says that a change
	// is no reason to: both guarded by mu.
	interrupt context.CancelFunc
	insists   bool

	// What follows is Run's alone.
	plane *plane
	// around is what the last look around saw, looked when it began; seen says that there
	// was one. While one is under way, looking is set, and its result comes by looks.
	around  surroundings.Report
	looked  time.Time
	seen    bool
	looking bool
	looks   chan surroundings.Report
	// spawn runs what Run waits for in the end.
	spawn func(func())
	// checked is when the kernel was checked last, asked that it should be before its time.
	checked time.Time
	asked   bool
	// cost is what the last look took.
	cost time.Duration
	// against is why this node does not forward, empty where it does.
	against reason.Reason
	message string
	// giveUp is when a node that forwards stops, zero while it does not.
	giveUp time.Time
	// doubts counts how often in a row it was found that it should not.
	doubts int
	// done is what was programmed last, programmed says that it is in the kernel; have is the
	// same without what the kernel refuses.
	done       wanted
	have       loadbalancer.Forwarding
	programmed bool
	// last is what may be there of virtual servers and addresses.
	last loadbalancer.Forwarding
	// released says that the guard has let go of what an earlier run served and this one does
	// not.
	released bool
	// guarded is what the guard has, if that is known.
	guarded    loadbalancer.Forwarding
	guardKnown bool
	// interrupted says that the last look at the guard was ended for a change.
	interrupted bool
	// generation of nftables that the guard is known to be intact in, 0 for none.
	generation uint32
	// refused by the kernel are virtual servers, ascending, unbound addresses.
	refused []virtualserver.Refusal
	unbound map[netip.Addr]error
	// failures in a row, the last of which is err; the next try is at retry.
	failures int
	retry    time.Time
	err      error
}

// newForwarder makes a forwarder; without open it never forwards. notify is called after
// every change of its state and must not block.
func newForwarder(mode string, d planeDeps, m *metrics.Metrics, notify func()) *forwarder {
	f := &forwarder{
		mode: mode, d: d, metrics: m, notify: notify, wake: make(chan struct{}, 1), events: make(chan struct{}, 1),
		looks: make(chan surroundings.Report, 1), spawn: func(look func()) { look() },
	}
	f.state.Store(&planeState{})
	if d.open == nil {
		f.state.Store(&planeState{decided: true, told: v1alpha1.DataPlaneStatus{
			Forwarding: v1alpha1.ForwardingKubeProxy, Reason: reason.KernelWithoutIPVS.String(), Message: noIPVS,
		}})
	}
	return f
}

const noIPVS = "the kernel has no ip_vs; kube-proxy forwards on this node"

// State returns what the forwarder has come to.
func (f *forwarder) State() *planeState { return f.state.Load() }

// Want replaces what is to be programmed. It does not block.
func (f *forwarder) Want(w wanted) {
	f.mu.Lock()
	unchanged := equalForwarding(f.want.Forwarding, w.Forwarding)
	same := f.want.ready == w.ready && f.want.refused == nil && w.refused == nil && f.want.revision == w.revision &&
		f.want.spec == w.spec && unchanged
	f.want = w
	if !unchanged && f.interrupt != nil && !f.insists {
		f.interrupt()
	}
	f.mu.Unlock()
	if !same {
		mark(f.wake)
	}
}

// Leave removes everything, once and for all. It blocks until that is done or ctx ends.
func (f *forwarder) Leave(ctx context.Context) error {
	f.mu.Lock()
	if f.leaving == nil {
		f.leaving = make(chan struct{})
	}
	done := f.leaving
	if f.interrupt != nil {
		f.interrupt()
	}
	f.mu.Unlock()
	mark(f.wake)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // says that it took too long
	}
}

// Run keeps the data plane as wanted until ctx ends, and leaves it in the kernel then.
func (f *forwarder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.d.open == nil {
		f.idle(ctx)
		return nil
	}
	defer f.closePlane()
	f.spawn = wg.Go
	wg.Go(func() { f.watchEvents(ctx) })
	t := time.NewTicker(sentinel)
	defer t.Stop()
	for ctx.Err() == nil {
		if f.step(ctx, time.Now()) {
			f.idle(ctx)
			return nil
		}
		f.wait(ctx, t)
	}
	return nil
}

// wait returns when something is to be done. An event of nftables waits until the last check
// is some time ago, because kube-proxy makes as many as there are changes of endpoints; what
// the loop wants does not wait for that.
func (f *forwarder) wait(ctx context.Context, t *time.Ticker) {
	events, due := f.events, (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			if due != nil {
				mark(f.events)
			}
			return
		case <-events:
			rest := time.NewTimer(max(eventGap, restPerLook*f.cost) - time.Since(f.checked))
			defer rest.Stop()
			events, due = nil, rest.C
		case <-due:
			f.asked = true
			return
		case <-t.C:
			return
		}
	}
}

// idle answers requests to leave, with nothing to remove.
func (f *forwarder) idle(ctx context.Context) {
	for {
		f.mu.Lock()
		if f.leaving != nil {
			close(f.leaving)
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
	}
}

// watchEvents asks for a look when somebody changed nftables: whoever flushes our table or
// IPVS does so together with its own.
func (f *forwarder) watchEvents(ctx context.Context) {
	for ctx.Err() == nil {
		if err := f.d.watch(ctx, func() { mark(f.events) }); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Watching nftables again", "cause", err.Error())
		}
		pause(ctx, lookAgain)
	}
}

// step does what is due and says whether all is over.
func (f *forwarder) step(ctx context.Context, now time.Time) (over bool) {
	want, leaving := f.wanted()
	if leaving {
		if err := f.remove(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot remove the data plane yet")
			return false
		}
		f.against, f.message, f.giveUp = reason.Leaving, leavingMessage, time.Time{}
		f.publish()
		return true
	}
	if now.Sub(f.looked) >= lookAgain || f.doubts > 0 && now.Sub(f.looked) >= sentinel {
		f.look(ctx, now)
	}
	select {
	case f.around = <-f.looks:
		f.looking, f.seen = false, true
		f.judge(ctx, now)
		want, _ = f.wanted()
	default:
	}
	if want.refused != nil && f.against == "" {
		f.stop(ctx, now, reason.KernelRefuses, want.refused.Error())
	}
	if !f.giveUp.IsZero() && !now.Before(f.giveUp) {
		f.giveAway(ctx, now)
	}
	if f.plane != nil && f.against == "" && want.ready {
		f.keep(ctx, now, want)
	}
	f.publish()
	return false
}

const leavingMessage = "the agent is leaving"

func (f *forwarder) wanted() (w wanted, leaving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.want, f.leaving != nil
}

// keep programs what changed and repairs what others removed.
func (f *forwarder) keep(ctx context.Context, now time.Time, want wanted) {
	if now.Before(f.retry) {
		return
	}
	var err error
	changed := !f.programmed || f.failures > 0 || !equalForwarding(f.done.Forwarding, want.Forwarding)
	// A check may take long where others have many rules: what is wanted goes first, once.
	since := now.Sub(f.checked)
	if f.programmed && (f.asked || since >= sentinel-tick) && (!changed || since >= 2*sentinel) {
		err = f.repair(ctx)
		f.asked, f.checked, f.cost = false, now, time.Since(now)
		if f.interrupted {
			f.checked = now.Add(f.cost) // what interrupted it goes first
			want, _ = f.wanted()
			changed = changed || !equalForwarding(f.done.Forwarding, want.Forwarding)
		}
	}
	if err == nil && changed {
		err = f.apply(ctx, want.Forwarding)
	} else if err == nil {
		f.have = f.served(want.Forwarding) // what was refused may have changed
		err = f.setGuard(ctx, f.have)
	}
	if err == nil {
		f.failures, f.err, f.retry = 0, nil, time.Time{}
		f.programmed, f.done = true, want
		return
	}
	if ctx.Err() != nil {
		return
	}
	f.failures++
	f.err = err
	f.retry = now.Add(min(sentinel<<min(f.failures-1, 5), maxRetry) - sentinel/2)
	klog.FromContext(ctx).Error(err, "Cannot program the data plane", "failures", f.failures)
	if !f.programmed && f.failures >= refusals {
		f.stop(ctx, now, reason.KernelRefuses, err.Error())
	}
}

// publish tells the loop what became of it.
func (f *forwarder) publish() {
	before := f.state.Load()
	s := &planeState{
		decided: true, forwards: f.against == "" || !f.giveUp.IsZero(), told: f.told(),
		revision: f.done.revision, spec: f.done.spec, programmed: f.have, vips: before.vips,
	}
	// What the kernel refuses is kube-proxy's: it is not to wait.
	tried := f.done.VIPs
	if s.vips == nil || len(s.vips) != len(tried) || slices.ContainsFunc(tried, func(a netip.Addr) bool { _, ok := s.vips[a]; return !ok }) {
		s.vips = make(map[netip.Addr]struct{}, len(tried))
		for _, a := range tried {
			s.vips[a] = struct{}{}
		}
	}
	f.state.Store(s)
	f.metrics.Forwarding(s.told.Forwarding == v1alpha1.ForwardingIPVS, int(s.told.VirtualServers), len(f.refused))
	if !s.same(before) {
		f.notify()
	}
}

func (f *forwarder) closePlane() {
	if f.plane != nil && f.plane.close != nil {
		f.plane.close()
	}
	f.plane = nil
}
