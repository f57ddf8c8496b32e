// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	// probeInterval is how often the API is asked whether the mirrored kinds exist,
	// reportInterval whether those do that are only told that nobody reads them.
	probeInterval  = 10 * time.Second
	reportInterval = time.Minute
)

// Mode says when metallb.io objects are mirrored.
type Mode uint8

const (
	// Auto mirrors unless a MetalLB runs in the namespace.
	Auto Mode = iota
	// Force mirrors even then.
	Force
	// Off reads and writes nothing; objects mirrored before stay as they are.
	Off
)

// Client writes objects of one kind; gentype's clients are Clients.
type Client[T any] interface {
	Create(ctx context.Context, obj T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// Options are the controller's inputs; all are required, Mode's zero value is Auto.
type Options struct {
	Mode Mode
	// Namespace is the one whose metallb.io objects count.
	Namespace string
	// Dynamic reads the metallb.io kinds, Kube the Deployments and DaemonSets of Namespace.
	Dynamic dynamic.Interface
	Kube    kubernetes.Interface

	Pools             Client[*v1alpha1.IPAddressPool]
	Advertisements    Client[*v1alpha1.L2Advertisement]
	Peers             Client[*v1alpha1.BGPPeer]
	BGPAdvertisements Client[*v1alpha1.BGPAdvertisement]
	Profiles          Client[*v1alpha1.BFDProfile]
	Communities       Client[*v1alpha1.Community]
	// The informers cache Fairlead's own kinds; the caller starts them after New. One that is
	// never filled, because the API server lacks the kind, keeps that kind alone from being
	// mirrored.
	PoolInformer             cache.SharedIndexInformer
	AdvertisementInformer    cache.SharedIndexInformer
	PeerInformer             cache.SharedIndexInformer
	BGPAdvertisementInformer cache.SharedIndexInformer
	ProfileInformer          cache.SharedIndexInformer
	CommunityInformer        cache.SharedIndexInformer
	// Recorder emits events on the metallb.io objects.
	Recorder record.EventRecorder
}

// key names one metallb.io object.
type key struct {
	kind      string
	namespace string
	name      string
}

// String returns the key's text, for the log.
func (k key) String() string { return k.kind + " " + k.namespace + "/" + k.name }

// Controller is made with New.
type Controller struct {
	opts    Options
	kinds   map[string]*kind
	metallb *detector
	queue   *worker.Queue[key]
	// told is what each metallb.io object was last told by an event, noted the version of
	// it that was told of unread fields; only the worker touches them.
	told, noted map[key]string
	// shared is what each BGPPeer of ours was last told of MetalLB's sessions with its
	// router; only the worker touches it.
	shared map[string]string
}

// New checks the options and hooks into the informers. Wiring:
//
//	mirror.New(mirror.Options{
//		Mode: mirror.Auto, Namespace: "metallb-system", Dynamic: dyn, Kube: kube,
//		Pools: c.Pools(), Advertisements: c.L2Advertisements(), Peers: c.BGPPeers(), …
//		PoolInformer: …, AdvertisementInformer: …, PeerInformer: …, Recorder: recorder,
//	})
//
// Call it before the informers start. The controller runs informers of its own for
// what it alone reads.
func New(opts Options) (*Controller, error) {
	if slices.Contains([]bool{
		opts.Namespace != "", opts.Dynamic != nil, opts.Kube != nil, opts.Recorder != nil,
		opts.Pools != nil, opts.Advertisements != nil, opts.Peers != nil, opts.BGPAdvertisements != nil, opts.Profiles != nil, opts.Communities != nil,
		opts.PoolInformer != nil, opts.AdvertisementInformer != nil, opts.PeerInformer != nil, opts.BGPAdvertisementInformer != nil,
		opts.ProfileInformer != nil, opts.CommunityInformer != nil,
	}, false) {
		return nil, errors.New("mirror controller: an option is missing")
	}
	c := &Controller{
		opts:  opts,
		queue: worker.New[key]("metallb-mirror"),
		kinds: map[string]*kind{},
		told:  map[key]string{}, noted: map[key]string{}, shared: map[string]string{},
	}
	for _, k := range append(bgpKinds(opts), reportedKind(), poolKind(opts), advertisementKind(opts)) {
		c.kinds[k.name] = k
		if k.target == nil {
			continue
		}
		reg, err := k.target.informer().AddEventHandler(onAny(func(obj metav1.Object) {
			c.queue.Add(key{k.name, opts.Namespace, obj.GetName()})
		}))
		if err != nil {
			return nil, fmt.Errorf("mirror controller: add event handler: %w", err)
		}
		k.copiesKnown = reg.HasSynced
	}
	var err error
	if c.metallb, err = newDetector(opts.Kube, opts.Namespace, c.markAll); err != nil {
		return nil, fmt.Errorf("mirror controller: %w", err)
	}
	return c, nil
}

// onAny calls f for each new, changed and deleted object.
func onAny(f func(metav1.Object)) cache.ResourceEventHandler {
	mark := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if o, ok := obj.(metav1.Object); ok {
			f(o)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: mark, UpdateFunc: func(_, obj any) { mark(obj) }, DeleteFunc: mark}
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("metallb-mirror")
	ctx = klog.NewContext(ctx, logger)
	if c.opts.Mode == Off {
		defer c.queue.ShutDown()
		logger.Info("Mirroring of metallb.io objects is off")
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	var synced []cache.InformerSynced
	if c.opts.Mode == Auto {
		wg.Go(func() { c.metallb.run(ctx) })
		synced = append(synced, c.metallb.hasSynced)
	}
	for _, k := range c.kinds {
		wg.Go(func() { c.follow(ctx, k) })
	}
	c.queue.Run(ctx, 1, synced, c.sync)
	return nil
}

// markAll re-examines every object, source or mirrored.
func (c *Controller) markAll() {
	for _, k := range c.kinds {
		c.markKind(k)
	}
}

func (c *Controller) markKind(k *kind) {
	for _, o := range k.source.list() {
		c.queue.Add(key{k.name, o.GetNamespace(), o.GetName()})
	}
	if k.target == nil {
		return
	}
	for _, name := range k.target.informer().GetStore().ListKeys() {
		c.queue.Add(key{k.name, c.opts.Namespace, name})
	}
}
