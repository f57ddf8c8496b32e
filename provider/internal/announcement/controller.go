// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	// fieldManager owns the fields that this package applies.
	fieldManager = "fairlead-announcement"
	// workers run independent items side by side: 1,000 records in a few seconds.
	workers = 4
	// firstWriteDelay holds back the first status of a new record for as long as nothing is
	// heard from agents yet, awaitedDelay while one may take the address over: it does so
	// when it has asked three times whether a stranger has it, and one write can then tell
	// the whole story.
	firstWriteDelay = 300 * time.Millisecond
	awaitedDelay    = 2 * time.Second
	// releaseDelay holds back what a released claim means for its record, which as a
	// rule goes in the same moment.
	releaseDelay = 300 * time.Millisecond
	// worldDelay gathers changes of nodes, agents, pools and advertisements, which
	// come in bursts and touch every group.
	worldDelay = 200 * time.Millisecond

	groupIndex   = "announcement/group"
	serviceIndex = "announcement/service"
)

// Patcher applies changes to objects of one kind; gentype's clients are Patchers.
type Patcher[T any] interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

// Informers are the caches that the controller reads. The caller starts them after New.
type Informers struct {
	Claims         cache.SharedIndexInformer // IPClaim
	Records        cache.SharedIndexInformer // LoadBalancer
	Pools          cache.SharedIndexInformer // IPAddressPool
	Advertisements cache.SharedIndexInformer // L2Advertisement
	NodeAgents     cache.SharedIndexInformer // NodeAgent
	Nodes          cache.SharedIndexInformer // corev1.Node
	Services       cache.SharedIndexInformer // corev1.Service
	EndpointSlices cache.SharedIndexInformer // discoveryv1.EndpointSlice
	BGP            BGP
}

// Options are the controller's inputs; all are required.
type Options struct {
	Claims         Patcher[*v1alpha1.IPClaim]
	Records        func(namespace string) Patcher[*v1alpha1.LoadBalancer]
	Advertisements Patcher[*v1alpha1.L2Advertisement]
	// Peers and BGPAdvertisements are asked for only where the API server has such objects.
	Peers             Patcher[*v1alpha1.BGPPeer]
	BGPAdvertisements Patcher[*v1alpha1.BGPAdvertisement]
	// Recorder emits events on Services.
	Recorder  record.EventRecorder
	Informers Informers
}

// itemKind says what a queue item is about.
type itemKind uint8

const (
	recordItem itemKind = iota
	groupItem
	advertisementItem
	bgpAdvertisementItem
	peerItem
	// sessionsItem is about all BGP sessions and has no name.
	sessionsItem
)

// item is one unit of work. Name is namespace/name for records.
type item struct {
	kind itemKind
	name string
}

// String returns the item's name, for the log.
func (i item) String() string { return i.name }

// Controller is safe for concurrent use. Make it with New.
type Controller struct {
	opts  Options
	queue *worker.Queue[item]
	// synced reports whether every event handler has seen the first list.
	synced []cache.InformerSynced

	worlds   worldCache
	planes   planesCache
	sessions sessionsCache

	mu sync.Mutex
	// The fields below are guarded by mu.
	ledger  *ledger
	scratch []placement.Candidate // reused from one group to the next
	// ids are the ledger's numbers of the nodes of the world numbered.
	ids      []int
	numbered *world
	able     ableCache
	failures map[loadbalancer.ServiceKey]failure
	// settled are the Services that allocation has found in order since the process
	// started; before, what an earlier process said of them stands.
	settled   map[loadbalancer.ServiceKey]bool
	written   map[loadbalancer.ServiceKey]writtenStatus
	firstSeen map[types.UID]time.Time
	proposed  map[types.UID]writtenList
	// specs are the versions of records' specs, and relapsed the times that IPVS lost them
	// to kube-proxy; pending are records that wait for agents to program them, by name.
	specs    map[types.UID]specOf
	relapsed map[types.UID]relapses
	pending  map[string]struct{}
	// told are the conflicts that events have told of, by record.
	told map[types.UID][]string
	// spoken are the times of our last writes of records' statuses, and peers those of
	// BGPPeers' by name.
	spoken map[types.UID]time.Time
	peers  map[string]writtenPeer
}

// New checks the options and hooks into the informers. Wiring:
//
//	announcement.New(announcement.Options{
//		Claims:         c.Claims(),
//		Records:        func(ns string) announcement.Patcher[*v1alpha1.LoadBalancer] { return c.LoadBalancers(ns) },
//		Advertisements: c.L2Advertisements(),
//		Recorder:       recorder,
//		Informers:      announcement.Informers{…},
//	})
//
// Call it before the informers start, and wait for their caches before Propose.
func New(opts Options) (*Controller, error) {
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("announcement controller: %w", err)
	}
	c := &Controller{
		opts:      opts,
		queue:     worker.New[item]("announcement"),
		ledger:    newLedger(),
		failures:  map[loadbalancer.ServiceKey]failure{},
		settled:   map[loadbalancer.ServiceKey]bool{},
		written:   map[loadbalancer.ServiceKey]writtenStatus{},
		firstSeen: map[types.UID]time.Time{},
		proposed:  map[types.UID]writtenList{},
		told:      map[types.UID][]string{},
		specs:     map[types.UID]specOf{},
		relapsed:  map[types.UID]relapses{},
		pending:   map[string]struct{}{},
		spoken:    map[types.UID]time.Time{},
		peers:     map[string]writtenPeer{},
	}
	c.worlds.informers, c.planes.informers, c.sessions.informers = opts.Informers, opts.Informers, opts.Informers
	c.sessions.past = map[sessionKey]*sessionPast{}
	if err := c.hook(); err != nil {
		return nil, fmt.Errorf("announcement controller: %w", err)
	}
	return c, nil
}

func (o *Options) validate() error {
	in := o.Informers
	for _, i := range append(in.BGP.all(),
		in.Claims, in.Records, in.Pools, in.Advertisements, in.NodeAgents, in.Nodes, in.Services, in.EndpointSlices,
	) {
		if i == nil {
			return errors.New("an informer is missing")
		}
	}
	if o.Claims == nil || o.Records == nil || o.Advertisements == nil || o.Peers == nil || o.BGPAdvertisements == nil ||
		o.Recorder == nil || in.BGP.Absent == nil {
		return errors.New("a client or the recorder is missing")
	}
	return nil
}

// Run works until ctx is done. It waits for the caches first.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("announcement"))
	c.queue.Run(ctx, workers, c.synced, c.sync)
	return nil
}

func (c *Controller) sync(ctx context.Context, it item) (time.Duration, error) {
	switch it.kind {
	case groupItem:
		return 0, c.syncGroup(ctx, loadbalancer.Group(it.name))
	case advertisementItem:
		return 0, c.syncAdvertisement(ctx, it.name)
	case bgpAdvertisementItem:
		return 0, c.syncBGPAdvertisement(ctx, it.name)
	case peerItem:
		return c.syncPeer(ctx, it.name)
	case sessionsItem:
		return c.syncSessions(), nil
	case recordItem:
		return c.syncRecord(ctx, it.name)
	default:
		return 0, fmt.Errorf("unknown queue item kind %d", it.kind)
	}
}
