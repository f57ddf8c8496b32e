// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation/poolstatus"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement"
	"github.com/fairlead-lb/fairlead/provider/internal/claims"
	"github.com/fairlead-lb/fairlead/provider/internal/externalippolicy"
	"github.com/fairlead-lb/fairlead/provider/internal/gossipkey"
	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// wiring is what New passes around while it makes a Provider.
type wiring struct {
	p         *Provider
	fl        *client.Client
	kube      kubernetes.Interface
	rest      *rest.Config
	namespace string
	events    record.EventRecorder

	claims, records, pools, ads, agents, policies cache.SharedIndexInformer
	bgp                                           announcement.BGP
	services, namespaces, nodes, endpointSlices   cache.SharedIndexInformer
}

// makeInformers makes one informer per kind; the framework starts those it shares.
func (w *wiring) makeInformers(shared informers.SharedInformerFactory) {
	w.claims = client.NewInformer(w.fl.Claims(), &v1alpha1.IPClaim{}, 0, cache.Indexers{})
	w.records = client.NewInformer(w.fl.LoadBalancers(metav1.NamespaceAll), &v1alpha1.LoadBalancer{}, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	w.pools = client.NewInformer(w.fl.Pools(), &v1alpha1.IPAddressPool{}, 0, cache.Indexers{})
	w.ads = client.NewInformer(w.fl.L2Advertisements(), &v1alpha1.L2Advertisement{}, 0, cache.Indexers{})
	w.agents = client.NewInformer(w.fl.NodeAgents(), &v1alpha1.NodeAgent{}, 0, cache.Indexers{})
	w.policies = client.NewInformer(w.fl.ExternalIPPolicies(), &v1alpha1.ExternalIPPolicy{}, 0, cache.Indexers{})
	w.makeBGPInformers()
	w.services = shared.Core().V1().Services().Informer()
	w.namespaces = shared.Core().V1().Namespaces().Informer()
	w.nodes = shared.Core().V1().Nodes().Informer()
	w.endpointSlices = shared.Discovery().V1().EndpointSlices().Informer()
	w.p.own = []cache.SharedIndexInformer{
		w.claims, w.records, w.pools, w.ads, w.agents, w.policies,
		w.bgp.Peers, w.bgp.Advertisements, w.bgp.Profiles, w.bgp.Communities,
	}
	w.p.agents = w.agents
	for _, i := range append(w.p.own, w.services, w.namespaces, w.nodes, w.endpointSlices) {
		w.p.synced = append(w.p.synced, i.HasSynced)
	}
}

// makeBGPInformers makes those of the kinds of BGP, which the API server of an older
// installation does not have: they are empty then.
func (w *wiring) makeBGPInformers() {
	peers := client.NewOptional(w.fl.BGPPeers(), "bgppeers", func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} })
	ads := client.NewOptional(w.fl.BGPAdvertisements(), "bgpadvertisements",
		func() *v1alpha1.BGPAdvertisementList { return &v1alpha1.BGPAdvertisementList{} })
	profiles := client.NewOptional(w.fl.BFDProfiles(), "bfdprofiles", func() *v1alpha1.BFDProfileList { return &v1alpha1.BFDProfileList{} })
	communities := client.NewOptional(w.fl.Communities(), "communities", func() *v1alpha1.CommunityList { return &v1alpha1.CommunityList{} })
	w.bgp = announcement.BGP{
		Peers:          client.NewInformer(peers, &v1alpha1.BGPPeer{}, 0, cache.Indexers{}),
		Advertisements: client.NewInformer(ads, &v1alpha1.BGPAdvertisement{}, 0, cache.Indexers{}),
		Profiles:       client.NewInformer(profiles, &v1alpha1.BFDProfile{}, 0, cache.Indexers{}),
		Communities:    client.NewInformer(communities, &v1alpha1.Community{}, 0, cache.Indexers{}),
		Absent: func() bool {
			return peers.Why() != nil || ads.Why() != nil || profiles.Why() != nil || communities.Why() != nil
		},
	}
}

// makeControllers makes the store and every controller around it.
func (w *wiring) makeControllers() error {
	w.p.store = store.New(store.Options{
		API: api{fl: w.fl, kube: w.kube}, Classes: w.p.config.classes(), Ranges: w.p.config.ranges(),
	})
	ann, err := announcement.New(announcement.Options{
		Claims:         w.fl.Claims(),
		Records:        func(ns string) announcement.Patcher[*v1alpha1.LoadBalancer] { return w.fl.LoadBalancers(ns) },
		Advertisements: w.fl.L2Advertisements(), Peers: w.fl.BGPPeers(), BGPAdvertisements: w.fl.BGPAdvertisements(),
		Recorder: w.events,
		Informers: announcement.Informers{
			Claims: w.claims, Records: w.records, Pools: w.pools, Advertisements: w.ads, NodeAgents: w.agents,
			Nodes: w.nodes, Services: w.services, EndpointSlices: w.endpointSlices, BGP: w.bgp,
		},
	})
	if err != nil {
		return err
	}
	cl, err := w.makeClaims()
	if err != nil {
		return err
	}
	gk, err := gossipkey.New(gossipkey.Options{
		Client: w.kube, Namespace: w.namespace, Recorder: w.events, Agents: w.agents, Nodes: w.nodes,
	})
	if err != nil {
		return err
	}
	w.p.alloc = allocation.New(allocation.Options{
		Store: w.p.store, Announcer: ann, Events: w.events, Service: w.getService, Patch: w.patchService, Now: time.Now,
		Defaults: w.p.config.forwarding(),
	})
	w.p.controllers[ServiceAddressController] = allocation.NewController(w.p.store, w.p.alloc)
	w.p.controllers[IPAddressPoolController], err = poolstatus.New(poolstatus.Options{
		Pools: w.fl.Pools(), Views: w.p.store, Informer: w.pools, Recorder: w.events, Now: time.Now,
	})
	if err != nil {
		return err
	}
	w.p.controllers[AnnouncementController] = ann
	w.p.controllers[IPClaimController] = cl
	w.p.controllers[GossipKeyController] = gk
	w.p.controllers[ExternalIPPolicyController], err = externalippolicy.New(externalippolicy.Options{
		Policies: w.fl.ExternalIPPolicies(), Informer: w.policies,
	})
	if err != nil {
		return err
	}
	if w.p.controllers[MetalLBMirrorController], err = w.makeMirror(); err != nil {
		return err
	}
	synced, err := w.p.store.Watch(store.Informers{
		Claims: w.claims, Records: w.records, Pools: w.pools, NodeAgents: w.agents, Policies: w.policies,
		Services: w.services, Namespaces: w.namespaces, Nodes: w.nodes, EndpointSlices: w.endpointSlices,
	})
	if err != nil {
		return err
	}
	w.p.synced = append(w.p.synced, synced...)
	return nil
}

func (w *wiring) makeClaims() (*claims.Controller, error) {
	return claims.New(claims.Options{
		Claims:     w.fl.Claims(),
		GetService: w.getService,
		GetRecord: func(ctx context.Context, ns, name string) (*v1alpha1.LoadBalancer, error) {
			return w.fl.LoadBalancers(ns).Get(ctx, name, metav1.GetOptions{})
		},
		Classes:  w.p.config.classes(),
		Recorder: w.events,
		Informers: claims.Informers{
			Claims: w.claims, Records: w.records, NodeAgents: w.agents, Nodes: w.nodes, Services: w.services,
		},
	})
}

// getService reads a Service uncached: without a resource version the API server
// answers from a quorum.
func (w *wiring) getService(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return w.kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (w *wiring) makeMirror() (*mirror.Controller, error) {
	dyn, err := dynamic.NewForConfig(rest.AddUserAgent(rest.CopyConfig(w.rest), "fairlead"))
	if err != nil {
		return nil, fmt.Errorf("dynamic client: %w", err)
	}
	return mirror.New(mirror.Options{
		Mode: mirrorMode(w.p.config.MetalLB.Mirror), Namespace: w.p.config.MetalLB.Namespace, Dynamic: dyn, Kube: w.kube,
		Pools: w.fl.Pools(), Advertisements: w.fl.L2Advertisements(),
		Peers: w.fl.BGPPeers(), BGPAdvertisements: w.fl.BGPAdvertisements(), Profiles: w.fl.BFDProfiles(), Communities: w.fl.Communities(),
		PoolInformer: w.pools, AdvertisementInformer: w.ads,
		PeerInformer: w.bgp.Peers, BGPAdvertisementInformer: w.bgp.Advertisements, ProfileInformer: w.bgp.Profiles,
		CommunityInformer: w.bgp.Communities, Recorder: w.events,
	})
}

func mirrorMode(m MirrorMode) mirror.Mode {
	switch m {
	case MirrorForce:
		return mirror.Force
	case MirrorOff:
		return mirror.Off
	case MirrorAuto:
		return mirror.Auto
	default:
		return mirror.Auto
	}
}

// api is the store's view of the API server.
type api struct {
	fl   *client.Client
	kube kubernetes.Interface
}

func (a api) Claims() store.Claims { return a.fl.Claims() }

func (a api) Records(namespace string) store.Records { return a.fl.LoadBalancers(namespace) }

func (a api) ListPools(ctx context.Context) (*v1alpha1.IPAddressPoolList, error) {
	return a.fl.Pools().List(ctx, metav1.ListOptions{})
}

func (a api) ListServices(ctx context.Context) (*corev1.ServiceList, error) {
	return a.kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
}
