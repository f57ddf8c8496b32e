// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/arp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/pulse"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

// kernelView is what the agent needs of the kernel.
type kernelView interface {
	kernelSettings
	Links() ([]kernel.Link, error)
	DefaultRoutes() (kernel.DefaultRoutes, error)
	Watch(ctx context.Context, notify func()) error
	Keep(list []kernel.Kept, lifetime time.Duration) error
	Kept() ([]kernel.Kept, error)
	Drop(list []kernel.Kept) error
	Own() ([]kernel.Link, error)
}

// gossip is what the agent needs of the membership.
type gossip interface {
	Run(ctx context.Context) error
	View() member.View
	Publish(s member.State)
	SetPeers(addrs map[loadbalancer.NodeName]netip.Addr)
	Ask()
}

// objects is what the agent needs of the local copies.
type objects interface {
	Run(ctx context.Context) error
	WaitSynced(ctx context.Context) bool
	Objects(ctx context.Context) intake.Objects
	HasBGP() bool
	BGP(ctx context.Context, interfaces []loadbalancer.Interface) loadbalancer.BGPConfig
	Claim(name string) (*v1alpha1.IPClaim, bool)
	NodeUID(name loadbalancer.NodeName) types.UID
}

// deps are the agent's connections to the world; tests put fakes in.
type deps struct {
	kernel     kernelView
	cluster    cluster
	openARP    l2.Opener
	openNDP    l2.Opener
	newObjects func(notify func()) (objects, error)
	newGossip  func(cfg member.Config, notify func()) gossip
	claims     status.Claims
	agents     status.NodeAgents
	auth       *metrics.Authorizer
	registry   *prometheus.Registry
	plane      planeDeps
	// speaker tells BGP peers, bfd is what it watches them with, and finder what it finds those
	// with that have no address.
	speaker speaker
	bfd     detector
	finder  interface {
		Run(ctx context.Context) error
	}
}

// Agent is one node's agent.
type Agent struct {
	o       Options
	d       deps
	version string
	boot    uint64
	exclude *regexp.Regexp

	// dirty and linksDirty ask for a round at once, calm for one that may wait for a moment.
	dirty, linksDirty, calm chan struct{}
	objects                 objects
	arp, ndp                *l2.Announcer
	probes                  *probes
	fence                   fence
	timing                  member.Timing
	pulse                   *pulse.Watcher
	owners                  *status.Owners
	report                  *status.Report
	metrics                 *metrics.Metrics
	health                  health
	forward                 *forwarder
	meter                   *meter
	speaker                 speaker
	teller                  *teller
}

func newAgent(o Options, version string, d deps) (*Agent, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	exclude, err := regexp.Compile(o.ExcludeInterfaces)
	if err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	m, err := metrics.New(d.registry, version)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	a := &Agent{
		fence: fence{start: time.Now()},
		o:     o, d: d, version: version, boot: uint64(time.Now().UnixNano()), exclude: exclude,
		dirty: make(chan struct{}, 1), linksDirty: make(chan struct{}, 1), calm: make(chan struct{}, 1), metrics: m,
	}
	if a.objects, err = d.newObjects(func() { mark(a.calm) }); err != nil {
		return nil, err
	}
	a.arp = arp.New(a.fence.around(d.openARP), m.ARP(), o.AnnounceInterval, func() { mark(a.dirty) }, a.hear)
	a.ndp = ndp.New(a.fence.around(d.openNDP), m.NDP(), o.AnnounceInterval, func() { mark(a.dirty) }, a.hear)
	a.arp.HearProbes(a.hearProbe)
	a.ndp.HearProbes(a.hearProbe)
	a.probes = newProbes(a.probe, func() { mark(a.calm) })
	a.timing = member.Profile(o.Profile).Timing()
	a.pulse = pulse.NewWatcher(pulse.Timing{Interval: a.timing.PulseInterval, Misses: a.timing.PulseMisses}, a.askPulse, func() { mark(a.dirty) })
	a.owners = status.NewOwners(o.NodeName, d.claims, a.objects.Claim)
	a.forward = newForwarder(o.DataPlane, d.plane, m, func() { mark(a.dirty) })
	a.meter = &meter{node: o.NodeName, forward: a.forward, announced: func() int { return int(a.health.announced.Load()) }}
	if err := metrics.NewTraffic(d.registry, a.meter.Read, o.BackendMetrics); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	a.speaker = d.speaker
	a.teller = &teller{node: o.NodeName, speaker: d.speaker, bfd: d.bfd}
	if err := metrics.NewBGP(d.registry, a.teller.Read, a.teller.Strangers, o.MetalLBMetricNames); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	a.report = status.NewReport(o.NodeName, d.agents, func() types.UID { return a.objects.NodeUID(a.name()) }, func() { mark(a.dirty) })
	return a, nil
}

func (a *Agent) name() loadbalancer.NodeName { return loadbalancer.NodeName(a.o.NodeName) }

// mark sets a dirty flag without blocking.
func mark(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run runs the agent until ctx ends. Then it is either to come back in a moment: it leaves
// its addresses to the kernel for that time. Or it leaves: peers take its addresses over
// while it still answers for them, and it withdraws. It says goodbye and returns nil. An
// error means that the agent could not start or that a part of it failed for good.
func (a *Agent) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithValues("node", a.o.NodeName)
	ctx = klog.NewContext(ctx, logger)
	logger.Info("Starting node agent", "version", a.version, "daemonSet", a.o.DaemonSetName)
	// The children go on while the agent leaves.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	g.Go(func() error { return a.serveHealth(work) })
	g.Go(func() error { return a.objects.Run(work) })
	g.Go(func() error { return a.arp.Run(work) })
	g.Go(func() error { return a.ndp.Run(work) })
	g.Go(func() error { return a.probes.Run(work) })
	g.Go(func() error { return a.pulse.Run(work) })
	g.Go(func() error { return a.owners.Run(work) })
	g.Go(func() error { return a.report.Run(work) })
	g.Go(func() error { return a.forward.Run(work) })
	g.Go(func() error { return a.speaker.Run(work) })
	g.Go(func() error { return a.d.bfd.Run(work) })
	g.Go(func() error { return a.d.finder.Run(work) })
	g.Go(func() error { return a.watchLinks(work) })
	g.Go(func() error { return a.serveMetrics(work) })
	g.Go(func() error {
		defer stop()
		// The loop ends with ctx, or when another part fails.
		loop, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(work, cancel)()
		return a.lead(loop, work, g)
	})
	err := g.Wait()
	logger.Info("Node agent stopped")
	return err
}

// lead waits for what the loop depends on, starts the gossip and runs the loop. ctx
// ends when the agent is to stop, work when all is over.
func (a *Agent) lead(ctx, work context.Context, g *errgroup.Group) error {
	a.reportRoutes(ctx)
	if !a.objects.WaitSynced(ctx) {
		return nil
	}
	addr, ok := a.gossipAddr(ctx)
	if !ok {
		return nil
	}
	gs := a.d.newGossip(member.Config{
		Node: a.name(), Addr: addr, Port: a.o.GossipPort, KeyFile: a.o.GossipKeyFile, Boot: a.boot,
		Profile: member.Profile(a.o.Profile), NewClaims: func() { mark(a.calm) },
	}, func() { mark(a.dirty) })
	g.Go(func() error { return gs.Run(work) })
	l := newLoop(a, gs)
	l.addr = addr
	return l.run(ctx, work)
}

// reportRoutes tells the node's own addresses before anything else works: the
// controller may need them to make the Node usable.
func (a *Agent) reportRoutes(ctx context.Context) {
	routes, err := a.d.kernel.DefaultRoutes()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the default routes")
	}
	s := v1alpha1.NodeAgentStatus{
		Version: a.version, BootID: strconv.FormatUint(a.boot, 36), DefaultRouteAddresses: texts(routes.Addrs),
		Gateways: texts(routes.Gateways[:min(len(routes.Gateways), maxGateways)]),
	}
	a.report.Set(s, status.Health{Reason: reason.Syncing, Message: "the agent reads the cluster's objects"})
}

// addrPoll is how often gossipAddr looks.
const addrPoll = time.Second

// gossipAddr waits until the node has an address to gossip on.
func (a *Agent) gossipAddr(ctx context.Context) (netip.Addr, bool) {
	t := time.NewTicker(addrPoll)
	defer t.Stop()
	for {
		if addr, err := netip.ParseAddr(a.o.NodeIP); err == nil {
			return addr.Unmap(), true
		}
		if ips := a.objects.Objects(ctx).Nodes[a.name()].InternalIPs; len(ips) > 0 {
			return ips[0], true
		}
		if routes, err := a.d.kernel.DefaultRoutes(); err == nil && len(routes.Addrs) > 0 {
			return routes.Addrs[0], true
		}
		klog.FromContext(ctx).Info("Waiting for an address of this node")
		select {
		case <-ctx.Done():
			return netip.Addr{}, false
		case <-t.C:
		}
	}
}

const (
	// watchRetry is the pause before netlink is watched again.
	watchRetry = time.Second
	// serveRetry is the pause before the metrics port is tried again.
	serveRetry = 10 * time.Second
)

func (a *Agent) watchLinks(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.d.kernel.Watch(ctx, func() { mark(a.linksDirty) }); err != nil {
			klog.FromContext(ctx).V(2).Info("Watching links again", "cause", err.Error())
		}
		mark(a.linksDirty)
		pause(ctx, watchRetry)
	}
	return nil
}

// serveMetrics serves metrics; a port that is taken must not stop the announcing.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.o.MetricsAddress == "" {
		return nil
	}
	for ctx.Err() == nil {
		if err := metrics.Serve(ctx, a.o.MetricsAddress, a.d.registry, a.d.auth); err != nil && !errors.Is(err, context.Canceled) {
			klog.FromContext(ctx).Error(err, "Cannot serve metrics")
		}
		pause(ctx, serveRetry)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
