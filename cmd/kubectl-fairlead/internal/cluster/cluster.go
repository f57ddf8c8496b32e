// SPDX-License-Identifier: Apache-2.0

// Package cluster reads what the plugin's answers rest on from an API server. It only
// reads, and it takes what it is allowed to: what it may not read becomes a gap that the
// answer names, as long as an answer is possible at all. It decides nothing; the commands
// call it.
package cluster

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

const (
	// systemNamespace is where Fairlead runs; admission policies fix it.
	systemNamespace = "fairlead-system"
	configMap       = "fairlead-cloud-config"
	configKey       = "cloud-config.yaml"
	// policyName is the one ExternalIPPolicy that counts.
	policyName = "default"
)

// Clients talk to one API server.
type Clients struct {
	Kube     kubernetes.Interface
	Fairlead *client.Client
	Dynamic  dynamic.Interface
}

// Connect makes clients. It does not talk to the server yet.
func Connect(cfg *rest.Config) (*Clients, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	fairlead, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
	return &Clients{Kube: kube, Fairlead: fairlead, Dynamic: dyn}, nil
}

// State is what was there at one time, more or less: lists are read one after the other.
type State struct {
	Services       []corev1.Service
	Namespaces     []corev1.Namespace
	Nodes          []corev1.Node
	Pools          []v1alpha1.IPAddressPool
	Advertisements []v1alpha1.L2Advertisement
	// BGPAdvertisements and BGPPeers; BGPPeersKnown: they could be read.
	BGPAdvertisements []v1alpha1.BGPAdvertisement
	BGPPeers          []v1alpha1.BGPPeer
	BGPPeersKnown     bool
	// Endpoints are of the one Service that [ReadEndpoints] was asked for, nil when they are
	// not known.
	Endpoints *loadbalancer.Endpoints
	Claims    []v1alpha1.IPClaim
	// Records and Agents are nil when they could not be read.
	Records []v1alpha1.LoadBalancer
	Agents  []v1alpha1.NodeAgent
	// Policy grants external IPs, nil when there is none. PolicyKnown: it could be read.
	Policy       *v1alpha1.ExternalIPPolicy
	PolicyKnown  bool
	ServiceCIDRs []networkingv1.ServiceCIDR
	// APIServers are the addresses of the API server.
	APIServers []netip.Addr
	Config     Config
	// Gaps say what could not be read, and what that means for the answer.
	Gaps []string
}

// Config is the part of the controller's configuration that answers need.
type Config struct {
	Classes convert.Classes
	// PodRanges and ServiceRanges are the prefixes that no API object tells.
	PodRanges     []string
	ServiceRanges []string
}

// Read reads everything. Pools, claims and Services must be readable.
func Read(ctx context.Context, c *Clients) (*State, error) {
	var s State
	var all metav1.ListOptions
	pools, err := c.Fairlead.Pools().List(ctx, all)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("the cluster has no IPAddressPools of %s: is Fairlead installed there? (%w)", v1alpha1.GroupName, err)
	}
	if err != nil {
		return nil, fmt.Errorf("list IPAddressPools: %w", err)
	}
	s.Pools = pools.Items
	claims, err := c.Fairlead.Claims().List(ctx, all)
	if err != nil {
		return nil, fmt.Errorf("list IPClaims: %w", err)
	}
	s.Claims = claims.Items
	services, err := c.Kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, all)
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	s.Services = services.Items
	s.readFairlead(ctx, c)
	s.readCluster(ctx, c)
	s.readConfig(ctx, c)
	return &s, nil
}

// gap reports whether something was read, and notes it when not.
func (s *State) gap(err error, what, consequence string) bool {
	if err != nil {
		s.Gaps = append(s.Gaps, fmt.Sprintf("cannot read %s (%v): %s", what, err, consequence))
	}
	return err == nil
}

func (s *State) readFairlead(ctx context.Context, c *Clients) {
	var all metav1.ListOptions
	records, err := c.Fairlead.LoadBalancers(metav1.NamespaceAll).List(ctx, all)
	if s.gap(err, "LoadBalancers", "rules and conditions are missing") {
		s.Records = append([]v1alpha1.LoadBalancer{}, records.Items...)
	}
	ads, err := c.Fairlead.L2Advertisements().List(ctx, all)
	if s.gap(err, "L2Advertisements", "it is not known who announces what") {
		s.Advertisements = ads.Items
	}
	// An earlier version of Fairlead does not have these kinds.
	tells, err := c.Fairlead.BGPAdvertisements().List(ctx, all)
	if !apierrors.IsNotFound(err) && s.gap(err, "BGPAdvertisements", "it is not known who tells what by BGP") {
		s.BGPAdvertisements = tells.Items
	}
	peers, err := c.Fairlead.BGPPeers().List(ctx, all)
	if !apierrors.IsNotFound(err) && s.gap(err, "BGPPeers", "it is not known which of them exist") {
		s.BGPPeers, s.BGPPeersKnown = peers.Items, true
	}
	agents, err := c.Fairlead.NodeAgents().List(ctx, all)
	if s.gap(err, "NodeAgents", "it is not known which nodes are ready, and their own addresses count as free") {
		s.Agents = append([]v1alpha1.NodeAgent{}, agents.Items...)
	}
	policy, err := c.Fairlead.ExternalIPPolicies().Get(ctx, policyName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.PolicyKnown = true
	} else if s.gap(err, "the ExternalIPPolicy", "it is not known which external IPs are granted") {
		s.Policy, s.PolicyKnown = policy, true
	}
}

func (s *State) readCluster(ctx context.Context, c *Clients) {
	var all metav1.ListOptions
	namespaces, err := c.Kube.CoreV1().Namespaces().List(ctx, all)
	if s.gap(err, "Namespaces", "namespaceSelectors match nothing") {
		s.Namespaces = namespaces.Items
	}
	nodes, err := c.Kube.CoreV1().Nodes().List(ctx, all)
	if s.gap(err, "Nodes", "their addresses and pod ranges count as free") {
		s.Nodes = nodes.Items
	}
	// Servers before Kubernetes 1.33 do not have the kind.
	cidrs, err := c.Kube.NetworkingV1().ServiceCIDRs().List(ctx, all)
	if !apierrors.IsNotFound(err) && s.gap(err, "ServiceCIDRs", "the Service range counts as free") {
		s.ServiceCIDRs = cidrs.Items
	}
	endpoints, err := c.Kube.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
	if s.gap(err, "the API server's EndpointSlices", "its addresses count as free") {
		for i := range endpoints.Items {
			for _, e := range endpoints.Items[i].Endpoints {
				for _, text := range e.Addresses {
					if a, err := netip.ParseAddr(text); err == nil {
						s.APIServers = append(s.APIServers, a.Unmap())
					}
				}
			}
		}
	}
}

// ReadEndpoints reads where the targets of one Service are.
func ReadEndpoints(ctx context.Context, c *Clients, s *State, namespace, name string) {
	list, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if !s.gap(err, "the Service's EndpointSlices", "it is not known which nodes have targets of it") {
		return
	}
	var slices []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if list.Items[i].Labels[discoveryv1.LabelServiceName] == name {
			slices = append(slices, &list.Items[i])
		}
	}
	out := convert.EndpointsOf(slices)
	s.Endpoints = &out
}

// readConfig reads what the controller was told; the defaults when there is nothing.
func (s *State) readConfig(ctx context.Context, c *Clients) {
	s.Config.Classes = convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass, Classless: true}
	cm, err := c.Kube.CoreV1().ConfigMaps(systemNamespace).Get(ctx, configMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	const consequence = "the defaults are assumed"
	if !s.gap(err, "the controller's configuration", consequence) {
		return
	}
	var in struct {
		Services struct {
			Class     string `json:"class"`
			Classless *bool  `json:"classless"`
		} `json:"services"`
		Cluster struct {
			PodRanges     []string `json:"podRanges"`
			ServiceRanges []string `json:"serviceRanges"`
		} `json:"cluster"`
	}
	if !s.gap(yaml.Unmarshal([]byte(cm.Data[configKey]), &in), "the controller's configuration", consequence) {
		return
	}
	if in.Services.Class != "" {
		s.Config.Classes.Class = in.Services.Class
	}
	if in.Services.Classless != nil {
		s.Config.Classes.Classless = *in.Services.Classless
	}
	s.Config.PodRanges, s.Config.ServiceRanges = in.Cluster.PodRanges, in.Cluster.ServiceRanges
}
