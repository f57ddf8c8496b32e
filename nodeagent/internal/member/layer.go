// SPDX-License-Identifier: Apache-2.0

package member

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	keyPoll = time.Second
	// rejoinInterval is how often every known node that is no member is asked to join,
	// seekInterval how often some of them are.
	rejoinInterval = 10 * time.Second
	seekInterval   = time.Second
	// seekers is how many members look for one that is missing, each seekInterval.
	seekers = 3
	// givenUp is when a member that is gone is looked for at rejoinInterval only.
	givenUp = 10 * time.Minute
	// aloneAfter is how long a node that finds nobody waits before it acts alone.
	aloneAfter = 2 * time.Second
	leaveTime  = 500 * time.Millisecond
	// sendTime is how long a goodbye waits for what is being sent.
	sendTime = 300 * time.Millisecond
	// joiners is how many peers are asked at once: those that are off cost a second each.
	joiners = 16
	// keepGone is how long a member that went is remembered when its Node is gone too.
	keepGone = time.Minute
)

// Config of a [Layer].
type Config struct {
	Node loadbalancer.NodeName
	// Addr and Port to bind and to advertise, TCP and UDP.
	Addr netip.Addr
	Port int
	// KeyFile holds the gossip keys; it is read again every second.
	KeyFile string
	// Boot is higher for each later run of this node's agent.
	Boot uint64
	// Profile is how quickly to detect; empty is the default.
	Profile Profile
	// NewClaims, if set, is called in place of New's notify when a peer began to announce
	// what nobody did before, and told nothing else: with a thousand new addresses there are
	// many such messages, and none that anybody has to act on at once. It must not block.
	NewClaims func()
}

// Layer is this node's membership. Its methods are safe for concurrent use.
type Layer struct {
	cfg    Config
	timing Timing
	notify func()
	view   atomic.Pointer[View]
	wake   chan struct{}

	mu      sync.Mutex
	list    *memberlist.Memberlist                     // guarded by mu, nil until up
	live    map[loadbalancer.NodeName]*memberlist.Node // guarded by mu
	peers   map[loadbalancer.NodeName]*peer            // guarded by mu
	joins   map[loadbalancer.NodeName]uint64           // guarded by mu
	gone    map[loadbalancer.NodeName]time.Time        // guarded by mu, members that went and when
	own     own                                        // guarded by mu
	addrs   map[loadbalancer.NodeName]netip.Addr       // guarded by mu
	keys    []string                                   // guarded by mu
	settled bool                                       // guarded by mu
	queue   *memberlist.TransmitLimitedQueue           // set before anyone reads it
	ctx     func() context.Context                     // of Run, for logging in callbacks
	sends   sync.WaitGroup                             // direct messages under way
	slots   chan struct{}                              // bounds direct messages
}

// New makes a layer. notify is called after every change of the view; it must not
// block and must not call back.
func New(cfg Config, notify func()) *Layer {
	l := &Layer{
		cfg: cfg, timing: cfg.Profile.Timing(), notify: notify, wake: make(chan struct{}, 1),
		live:  make(map[loadbalancer.NodeName]*memberlist.Node),
		peers: make(map[loadbalancer.NodeName]*peer),
		joins: make(map[loadbalancer.NodeName]uint64),
		gone:  make(map[loadbalancer.NodeName]time.Time),
		own:   own{node: cfg.Node, boot: cfg.Boot, claims: make(map[loadbalancer.Group]claim)},
		slots: make(chan struct{}, 16),
	}
	l.queue = &memberlist.TransmitLimitedQueue{NumNodes: l.size, RetransmitMult: 3}
	l.view.Store(&View{})
	return l
}

// View returns the present view.
func (l *Layer) View() View { return *l.view.Load() }

// SetPeers says where the other nodes are; those that are not members are asked to
// join every ten seconds.
func (l *Layer) SetPeers(addrs map[loadbalancer.NodeName]netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := false
	for n, a := range addrs {
		fresh = fresh || l.addrs[n] != a
	}
	l.addrs = addrs
	if fresh {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Run waits for the key, joins the peers and keeps the membership until ctx ends; then
// it says goodbye.
func (l *Layer) Run(ctx context.Context) error {
	ring, keys, err := l.waitForKey(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	l.ctx = func() context.Context { return ctx }
	list, err := memberlist.Create(l.memberlistConfig(ctx, ring))
	if err != nil {
		return fmt.Errorf("start gossip on %s: %w", netip.AddrPortFrom(l.cfg.Addr, uint16(l.cfg.Port)), err) //nolint:gosec // a port
	}
	l.mu.Lock()
	l.list, l.keys = list, keyIDs(keys)
	l.publishLocked()
	l.mu.Unlock()
	l.notify()
	defer l.shutdown(ctx, list)
	l.keep(ctx, list, ring)
	return nil
}

func (l *Layer) waitForKey(ctx context.Context) (*memberlist.Keyring, [][]byte, error) {
	logger := klog.FromContext(ctx)
	ticker := time.NewTicker(keyPoll)
	defer ticker.Stop()
	for said := false; ; said = true {
		keys, err := readKeys(l.cfg.KeyFile)
		if err == nil {
			ring, err := memberlist.NewKeyring(keys, keys[0])
			if err != nil {
				return nil, nil, fmt.Errorf("make gossip keyring: %w", err)
			}
			return ring, keys, nil
		}
		if !said {
			logger.Info("Waiting for the gossip key", "file", l.cfg.KeyFile, "cause", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil, nil, nil
		case <-ticker.C:
		}
	}
}

// keep joins, rejoins and rotates keys.
func (l *Layer) keep(ctx context.Context, list *memberlist.Memberlist, ring *memberlist.Keyring) {
	// Neither waits for the other: after a power cut of everything, asking hundreds of
	// peers that are still off takes much longer than aloneAfter.
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.rejoin(ctx, list) })
	keyTick := time.NewTicker(keyPoll)
	defer keyTick.Stop()
	alone := time.NewTimer(aloneAfter)
	defer alone.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-alone.C:
			l.settle()
		case <-keyTick.C:
			l.rereadKeys(ctx, ring)
		}
	}
}

// rejoin asks those who are missing: all at once when some are new, all now and then,
// and in between a few.
func (l *Layer) rejoin(ctx context.Context, list *memberlist.Memberlist) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	delay := 500 * time.Millisecond
	for {
		all := true
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case now := <-timer.C:
			if all = now.Sub(last) >= delay-seekInterval/10; all {
				delay = min(2*delay, rejoinInterval)
			}
			timer.Reset(min(delay, seekInterval))
		}
		now := time.Now()
		if all {
			last = now
		}
		l.join(ctx, list, l.missing(now, all))
	}
}

// missing are known nodes that are no members: all of them, or a sample of those that
// have not been gone for long. All members together look for each missing node a few
// times a second, however many they are: one that finds it is enough.
func (l *Layer) missing(now time.Time, all bool) map[loadbalancer.NodeName]netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[loadbalancer.NodeName]netip.Addr)
	for n, a := range l.addrs {
		if l.live[n] != nil || n == l.cfg.Node || !a.IsValid() {
			continue
		}
		at, was := l.gone[n]
		if all || was && now.Sub(at) < givenUp && rand.IntN(len(l.live)+1) < seekers { //nolint:gosec // no secret
			out[n] = a
		}
	}
	return out
}

// join asks nodes to join.
func (l *Layer) join(ctx context.Context, list *memberlist.Memberlist, missing map[loadbalancer.NodeName]netip.Addr) {
	var joined atomic.Bool
	var g errgroup.Group
	g.SetLimit(joiners)
	for n, a := range missing {
		g.Go(func() error {
			if l.ask(ctx, list, n, a) {
				joined.Store(true)
			}
			return nil
		})
	}
	_ = g.Wait() // no function fails
	if joined.Load() {
		l.settle()
	}
}

// ask joins one node and says whether it answered.
func (l *Layer) ask(ctx context.Context, list *memberlist.Memberlist, n loadbalancer.NodeName, a netip.Addr) bool {
	if ctx.Err() != nil || l.knows(n) {
		return false
	}
	target := fmt.Sprintf("%s/%s", n, netip.AddrPortFrom(a, uint16(l.cfg.Port))) //nolint:gosec // a port
	if _, err := list.Join([]string{target}); err != nil {
		klog.FromContext(ctx).V(4).Info("Peer does not answer", "peer", n, "address", a, "cause", err.Error())
		return false
	}
	if l.knowsAll() {
		l.settle()
	}
	return true
}

// knows says whether a node is a live member that has told its state.
func (l *Layer) knows(n loadbalancer.NodeName) bool { return l.View().Members[n].Known }

// knowsAll says whether every live member has told its state.
func (l *Layer) knowsAll() bool {
	for _, m := range l.View().Members {
		if !m.Known {
			return false
		}
	}
	return true
}

func (l *Layer) settle() {
	l.mu.Lock()
	changed := !l.settled
	l.settled = true
	l.publishLocked()
	l.mu.Unlock()
	if changed {
		l.notify()
	}
}

func (l *Layer) rereadKeys(ctx context.Context, ring *memberlist.Keyring) {
	keys, err := readKeys(l.cfg.KeyFile)
	if errors.Is(err, ErrNoKey) {
		return
	}
	logger := klog.FromContext(ctx)
	if err == nil {
		ids := keyIDs(keys)
		l.mu.Lock()
		same := fmt.Sprint(ids) == fmt.Sprint(l.keys)
		l.mu.Unlock()
		if same {
			return
		}
		if err = rotate(ring, keys); err == nil {
			l.mu.Lock()
			l.keys = ids
			l.publishLocked()
			l.mu.Unlock()
			l.notify()
			logger.Info("Gossip keys changed", "keyIDs", ids)
			return
		}
	}
	logger.Error(err, "Cannot use the gossip keys, keeping the old ones", "file", l.cfg.KeyFile)
}

func (l *Layer) shutdown(ctx context.Context, list *memberlist.Memberlist) {
	logger := klog.FromContext(ctx)
	l.flush()
	if err := list.Leave(leaveTime); err != nil {
		logger.V(2).Info("Left the gossip without goodbye", "cause", err.Error())
	}
	if err := list.Shutdown(); err != nil {
		logger.Error(err, "Cannot close the gossip listener")
	}
	l.sends.Wait()
}

// flush waits for what is being sent, for a moment: the last thing that a node tells is
// why it goes.
func (l *Layer) flush() {
	sent := make(chan struct{})
	go func() {
		l.sends.Wait()
		close(sent)
	}()
	t := time.NewTimer(sendTime)
	defer t.Stop()
	select {
	case <-sent:
	case <-t.C:
	}
}

func (l *Layer) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.live) + 1
}
