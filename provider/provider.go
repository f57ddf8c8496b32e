// SPDX-License-Identifier: Apache-2.0

// Package provider is Fairlead's cloud provider for the stock cloud controller manager:
// the cloudprovider.Interface, its configuration file, and the wiring of Fairlead's own
// controllers into the framework. It delegates every decision to provider/internal/…
// and never touches a node. cmd/fairlead-cloud-controller-manager makes one Provider;
// the framework calls it on the leader only.
package provider

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// ProviderName is the cloud provider's name: --cloud-provider, and the scheme of
// provider IDs.
const ProviderName = "fairlead"

// eventSource is the component of Fairlead's events.
const eventSource = "fairlead-cloud-controller-manager"

// Options are what a Provider is made of; all are needed.
type Options struct {
	// Config is the parsed --cloud-config.
	Config Config
	// Namespace that the controller runs in.
	Namespace string
	// REST says how to reach the API server, with the rate limits to keep.
	REST *rest.Config
	// SharedInformers are the framework's, not started yet.
	SharedInformers informers.SharedInformerFactory
	// Broadcaster sends events to the API server once the framework has started it.
	Broadcaster record.EventBroadcaster
}

// Provider is the cloudprovider.Interface.
type Provider struct {
	config Config
	// own are the informers of Fairlead's kinds, which the provider starts itself.
	own []cache.SharedIndexInformer
	// synced are what has to be true before the store may reconcile.
	synced []cache.InformerSynced
	agents cache.SharedIndexInformer
	kube   kubernetes.Interface
	store  *store.Store
	alloc  *allocation.Allocator
	// controllers by name.
	controllers map[string]runner
}

// runner is a controller as each package of provider/internal makes one.
type runner interface {
	Run(ctx context.Context) error
}

var _ cloudprovider.Interface = (*Provider)(nil)

// New makes a Provider and hooks it into the informers. It talks to no server.
func New(o Options) (*Provider, error) {
	fl, err := client.New(rest.AddUserAgent(rest.CopyConfig(o.REST), "fairlead"))
	if err != nil {
		return nil, fmt.Errorf("make provider: %w", err)
	}
	kube, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(o.REST), "fairlead"))
	if err != nil {
		return nil, fmt.Errorf("make provider: kubernetes client: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("make provider: register types: %w", err)
	}
	p := &Provider{config: o.Config, kube: kube, controllers: make(map[string]runner)}
	w := wiring{
		p: p, fl: fl, kube: kube, rest: o.REST, namespace: o.Namespace,
		events: o.Broadcaster.NewRecorder(scheme, corev1.EventSource{Component: eventSource}),
	}
	w.makeInformers(o.SharedInformers)
	if err := w.makeControllers(); err != nil {
		return nil, fmt.Errorf("make provider: %w", err)
	}
	return p, nil
}

// Initialize starts the provider's own informers and the store; the framework calls it
// once, on becoming the leader.
func (p *Provider) Initialize(_ cloudprovider.ControllerClientBuilder, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-stop
		cancel()
	}()
	for _, i := range p.own {
		go i.RunWithContext(ctx)
	}
	go func() {
		synced, err := p.watchServiceCIDRs(ctx)
		if err == nil {
			err = p.store.Run(ctx, append(synced, p.synced...)...)
		}
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Store ended")
		}
	}()
}

// LoadBalancer returns the implementation of Services of type LoadBalancer.
func (p *Provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) {
	return balancer{alloc: p.alloc}, true
}

// Instances is not supported; it is InstancesV2's predecessor.
func (p *Provider) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 returns the implementation of Nodes, unless the configuration leaves
// Nodes to another cloud controller manager.
func (p *Provider) InstancesV2() (cloudprovider.InstancesV2, bool) {
	if !*p.config.Nodes.Manage {
		return nil, false
	}
	return NewInstances(p.agent), true
}

func (p *Provider) agent(node string) *v1alpha1.NodeAgent {
	return client.Get[v1alpha1.NodeAgent](p.agents, node)
}

// Zones is not supported.
func (p *Provider) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not supported.
func (p *Provider) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not supported: pod networks are somebody else's.
func (p *Provider) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName returns fairlead.
func (p *Provider) ProviderName() string { return ProviderName }

// HasClusterID is always true: there is no cloud whose resources need telling apart.
func (p *Provider) HasClusterID() bool { return true }
