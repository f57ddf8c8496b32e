// SPDX-License-Identifier: Apache-2.0

// Package client is the typed client of the fairlead.dev API, built on client-go's
// generic client instead of generated code. It owns the scheme, the REST client,
// the informer constructor and how informers' copies are read; it caches nothing itself
// and decides nothing. The controller and the node agents each make one.
package client

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Pools reads and writes IPAddressPools.
type Pools = gentype.ClientWithList[*v1alpha1.IPAddressPool, *v1alpha1.IPAddressPoolList]

// L2Advertisements reads and writes L2Advertisements.
type L2Advertisements = gentype.ClientWithList[*v1alpha1.L2Advertisement, *v1alpha1.L2AdvertisementList]

// Claims reads and writes IPClaims.
type Claims = gentype.ClientWithList[*v1alpha1.IPClaim, *v1alpha1.IPClaimList]

// LoadBalancers reads and writes the LoadBalancers of one namespace.
type LoadBalancers = gentype.ClientWithList[*v1alpha1.LoadBalancer, *v1alpha1.LoadBalancerList]

// NodeAgents reads and writes NodeAgents.
type NodeAgents = gentype.ClientWithList[*v1alpha1.NodeAgent, *v1alpha1.NodeAgentList]

// ExternalIPPolicies reads and writes ExternalIPPolicies.
type ExternalIPPolicies = gentype.ClientWithList[*v1alpha1.ExternalIPPolicy, *v1alpha1.ExternalIPPolicyList]

// BGPPeers reads and writes BGPPeers.
type BGPPeers = gentype.ClientWithList[*v1alpha1.BGPPeer, *v1alpha1.BGPPeerList]

// BGPAdvertisements reads and writes BGPAdvertisements.
type BGPAdvertisements = gentype.ClientWithList[*v1alpha1.BGPAdvertisement, *v1alpha1.BGPAdvertisementList]

// BFDProfiles reads and writes BFDProfiles.
type BFDProfiles = gentype.ClientWithList[*v1alpha1.BFDProfile, *v1alpha1.BFDProfileList]

// Communities reads and writes Communities.
type Communities = gentype.ClientWithList[*v1alpha1.Community, *v1alpha1.CommunityList]

// Client is a client of fairlead.dev/v1alpha1. It is safe for concurrent use.
type Client struct {
	rest  rest.Interface
	codec runtime.ParameterCodec
}

// New makes a client from a REST configuration, which it copies.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register fairlead.dev types: %w", err)
	}
	c := rest.CopyConfig(cfg)
	gv := v1alpha1.SchemeGroupVersion()
	c.GroupVersion = &gv
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make fairlead.dev client: %w", err)
	}
	return &Client{rest: r, codec: runtime.NewParameterCodec(scheme)}, nil
}

// Pools returns the IPAddressPool client.
func (c *Client) Pools() *Pools {
	return gentype.NewClientWithList[*v1alpha1.IPAddressPool, *v1alpha1.IPAddressPoolList](
		"ipaddresspools", c.rest, c.codec, "",
		func() *v1alpha1.IPAddressPool { return &v1alpha1.IPAddressPool{} },
		func() *v1alpha1.IPAddressPoolList { return &v1alpha1.IPAddressPoolList{} })
}

// L2Advertisements returns the L2Advertisement client.
func (c *Client) L2Advertisements() *L2Advertisements {
	return gentype.NewClientWithList[*v1alpha1.L2Advertisement, *v1alpha1.L2AdvertisementList](
		"l2advertisements", c.rest, c.codec, "",
		func() *v1alpha1.L2Advertisement { return &v1alpha1.L2Advertisement{} },
		func() *v1alpha1.L2AdvertisementList { return &v1alpha1.L2AdvertisementList{} })
}

// Claims returns the IPClaim client.
func (c *Client) Claims() *Claims {
	return gentype.NewClientWithList[*v1alpha1.IPClaim, *v1alpha1.IPClaimList](
		"ipclaims", c.rest, c.codec, "",
		func() *v1alpha1.IPClaim { return &v1alpha1.IPClaim{} },
		func() *v1alpha1.IPClaimList { return &v1alpha1.IPClaimList{} })
}

// LoadBalancers returns the LoadBalancer client of a namespace; "" lists and watches all.
func (c *Client) LoadBalancers(namespace string) *LoadBalancers {
	return gentype.NewClientWithList[*v1alpha1.LoadBalancer, *v1alpha1.LoadBalancerList](
		"loadbalancers", c.rest, c.codec, namespace,
		func() *v1alpha1.LoadBalancer { return &v1alpha1.LoadBalancer{} },
		func() *v1alpha1.LoadBalancerList { return &v1alpha1.LoadBalancerList{} })
}

// NodeAgents returns the NodeAgent client.
func (c *Client) NodeAgents() *NodeAgents {
	return gentype.NewClientWithList[*v1alpha1.NodeAgent, *v1alpha1.NodeAgentList](
		"nodeagents", c.rest, c.codec, "",
		func() *v1alpha1.NodeAgent { return &v1alpha1.NodeAgent{} },
		func() *v1alpha1.NodeAgentList { return &v1alpha1.NodeAgentList{} })
}

// ExternalIPPolicies returns the ExternalIPPolicy client.
func (c *Client) ExternalIPPolicies() *ExternalIPPolicies {
	return gentype.NewClientWithList[*v1alpha1.ExternalIPPolicy, *v1alpha1.ExternalIPPolicyList](
		"externalippolicies", c.rest, c.codec, "",
		func() *v1alpha1.ExternalIPPolicy { return &v1alpha1.ExternalIPPolicy{} },
		func() *v1alpha1.ExternalIPPolicyList { return &v1alpha1.ExternalIPPolicyList{} })
}

// BGPPeers returns the BGPPeer client.
func (c *Client) BGPPeers() *BGPPeers {
	return gentype.NewClientWithList[*v1alpha1.BGPPeer, *v1alpha1.BGPPeerList](
		"bgppeers", c.rest, c.codec, "",
		func() *v1alpha1.BGPPeer { return &v1alpha1.BGPPeer{} },
		func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} })
}

// BGPAdvertisements returns the BGPAdvertisement client.
func (c *Client) BGPAdvertisements() *BGPAdvertisements {
	return gentype.NewClientWithList[*v1alpha1.BGPAdvertisement, *v1alpha1.BGPAdvertisementList](
		"bgpadvertisements", c.rest, c.codec, "",
		func() *v1alpha1.BGPAdvertisement { return &v1alpha1.BGPAdvertisement{} },
		func() *v1alpha1.BGPAdvertisementList { return &v1alpha1.BGPAdvertisementList{} })
}

// BFDProfiles returns the BFDProfile client.
func (c *Client) BFDProfiles() *BFDProfiles {
	return gentype.NewClientWithList[*v1alpha1.BFDProfile, *v1alpha1.BFDProfileList](
		"bfdprofiles", c.rest, c.codec, "",
		func() *v1alpha1.BFDProfile { return &v1alpha1.BFDProfile{} },
		func() *v1alpha1.BFDProfileList { return &v1alpha1.BFDProfileList{} })
}

// Communities returns the Community client.
func (c *Client) Communities() *Communities {
	return gentype.NewClientWithList[*v1alpha1.Community, *v1alpha1.CommunityList](
		"communities", c.rest, c.codec, "",
		func() *v1alpha1.Community { return &v1alpha1.Community{} },
		func() *v1alpha1.CommunityList { return &v1alpha1.CommunityList{} })
}

// ListerWatcher is what an informer needs of a typed client.
type ListerWatcher[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// NewInformer makes an informer over a typed client, for example
// NewInformer(c.Claims(), &v1alpha1.IPClaim{}, 0, cache.Indexers{}). The caller runs it.
func NewInformer[L runtime.Object](lw ListerWatcher[L], example runtime.Object, resync time.Duration, ix cache.Indexers) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return lw.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return lw.Watch(ctx, o)
		},
	}, example, resync, ix)
}
