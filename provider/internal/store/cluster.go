// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Names of the Service whose endpoints are the API servers.
const (
	apiServerNamespace = metav1.NamespaceDefault
	apiServerService   = "kubernetes"
)

// clusterView is what the cluster itself has: single addresses that no Service gets,
// and ranges. Every list is by the object that it comes from, and replaced with it.
type clusterView struct {
	// nodes, gateways and servers are addresses, most telling source first.
	nodes, agents, gateways, servers map[string][]netip.Addr
	pods, services                   map[string][]pool.ClusterRange
	// objects are what a range's Object stands for.
	objects map[string]rangeObject
}

type rangeObject struct {
	kind, name string
	uid        types.UID
}

func newClusterView() clusterView {
	return clusterView{
		nodes: make(map[string][]netip.Addr), agents: make(map[string][]netip.Addr),
		gateways: make(map[string][]netip.Addr), servers: make(map[string][]netip.Addr),
		pods: make(map[string][]pool.ClusterRange), services: make(map[string][]pool.ClusterRange),
		objects: make(map[string]rangeObject),
	}
}

// reserved returns whose each address is, as a phrase. Of several owners the one that
// tells most counts, then the lowest name.
func (v *clusterView) reserved() map[netip.Addr]string {
	all := make(map[netip.Addr]string)
	for _, source := range []struct {
		addrs  map[string][]netip.Addr
		phrase func(name string) string
	}{
		{v.nodes, nodePhrase},
		{v.agents, nodePhrase},
		{v.gateways, func(name string) string { return "the gateway of " + nodePhrase(name) }},
		{v.servers, func(string) string { return "the API server" }},
	} {
		for _, name := range slices.Sorted(maps.Keys(source.addrs)) {
			for _, a := range source.addrs[name] {
				if _, known := all[a]; !known {
					all[a] = source.phrase(name)
				}
			}
		}
	}
	return all
}

func nodePhrase(name string) string { return "node " + strconv.Quote(name) }

// owners returns the addresses that are nodes' own, by the lowest name of a node that
// has it.
func (v *clusterView) owners() map[netip.Addr]string {
	all := make(map[netip.Addr]string)
	for _, addrs := range []map[string][]netip.Addr{v.nodes, v.agents} {
		for name, list := range addrs {
			for _, a := range list {
				if old, known := all[a]; !known || name < old {
					all[a] = name
				}
			}
		}
	}
	return all
}

// ranges returns the cluster ranges, in a fixed order.
func (v *clusterView) ranges() []pool.ClusterRange {
	var out []pool.ClusterRange
	for _, source := range []map[string][]pool.ClusterRange{v.pods, v.services} {
		for _, name := range slices.Sorted(maps.Keys(source)) {
			out = append(out, source[name]...)
		}
	}
	return out
}

// ObserveNode takes in a node's own addresses and its pods' ranges.
func (s *Store) ObserveNode(n *corev1.Node) {
	var addrs []netip.Addr
	for _, na := range n.Status.Addresses {
		addrs = appendAddr(addrs, na.Address)
	}
	s.reserve(s.cluster.nodes, n.Name, addrs)
	o := rangeObject{kind: "Node", name: n.Name, uid: n.UID}
	s.setRanges(s.cluster.pods, o, pool.PodRange, n.CreationTimestamp, n.Spec.PodCIDRs)
}

// ForgetNode takes in that a node is gone.
func (s *Store) ForgetNode(n *corev1.Node) {
	s.reserve(s.cluster.nodes, n.Name, nil)
	s.setRanges(s.cluster.pods, rangeObject{kind: "Node", name: n.Name}, pool.PodRange, metav1.Time{}, nil)
}

// ObserveAgent takes in the addresses that a node's agent sees on its interfaces, and
// its gateways.
func (s *Store) ObserveAgent(n *v1alpha1.NodeAgent) {
	var addrs, gateways []netip.Addr
	for _, text := range n.Status.DefaultRouteAddresses {
		addrs = appendAddr(addrs, text)
	}
	for _, i := range n.Status.Interfaces {
		for _, text := range i.Prefixes {
			if p, err := netip.ParsePrefix(text); err == nil {
				addrs = append(addrs, p.Addr().Unmap())
			}
		}
	}
	for _, text := range n.Status.Gateways {
		gateways = appendAddr(gateways, text)
	}
	s.reserve(s.cluster.agents, n.Name, addrs)
	s.reserve(s.cluster.gateways, n.Name, gateways)
}

// ForgetAgent takes in that a node's agent is gone.
func (s *Store) ForgetAgent(n *v1alpha1.NodeAgent) {
	s.reserve(s.cluster.agents, n.Name, nil)
	s.reserve(s.cluster.gateways, n.Name, nil)
}

// ObserveEndpointSlice takes in the API servers' addresses; other slices do not count.
func (s *Store) ObserveEndpointSlice(e *discoveryv1.EndpointSlice) {
	if !ofAPIServer(e) {
		return
	}
	var addrs []netip.Addr
	for i := range e.Endpoints {
		for _, text := range e.Endpoints[i].Addresses {
			addrs = appendAddr(addrs, text)
		}
	}
	s.reserve(s.cluster.servers, e.Name, addrs)
}

// ForgetEndpointSlice takes in that a slice is gone.
func (s *Store) ForgetEndpointSlice(e *discoveryv1.EndpointSlice) {
	if ofAPIServer(e) {
		s.reserve(s.cluster.servers, e.Name, nil)
	}
}

func ofAPIServer(e *discoveryv1.EndpointSlice) bool {
	return e.Namespace == apiServerNamespace && e.Labels[discoveryv1.LabelServiceName] == apiServerService
}

// ObserveServiceCIDR takes in a range of cluster IPs.
func (s *Store) ObserveServiceCIDR(c *networkingv1.ServiceCIDR) {
	o := rangeObject{kind: "ServiceCIDR", name: c.Name, uid: c.UID}
	s.setRanges(s.cluster.services, o, pool.ServiceRange, c.CreationTimestamp, c.Spec.CIDRs)
}

// ForgetServiceCIDR takes in that a range of cluster IPs is gone.
func (s *Store) ForgetServiceCIDR(c *networkingv1.ServiceCIDR) {
	s.setRanges(s.cluster.services, rangeObject{kind: "ServiceCIDR", name: c.Name}, pool.ServiceRange, metav1.Time{}, nil)
}

func appendAddr(addrs []netip.Addr, text string) []netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return addrs
	}
	return append(addrs, a.Unmap().WithZone(""))
}

// reserve replaces one object's addresses in one of the sources.
func (s *Store) reserve(source map[string][]netip.Addr, name string, addrs []netip.Addr) {
	s.mu.Lock()
	before := source[name]
	if slices.Equal(before, addrs) {
		s.mu.Unlock()
		return
	}
	if source[name] = addrs; len(addrs) == 0 {
		delete(source, name)
	}
	s.staleReserved = true
	s.freed++
	concerned := s.externallyNaming(slices.Concat(before, addrs))
	s.mu.Unlock()
	s.tellAddresses()
	s.tellService(concerned...)
}

// setRanges replaces one object's ranges in one of the sources.
func (s *Store) setRanges(source map[string][]pool.ClusterRange, o rangeObject, kind pool.RangeKind, created metav1.Time, cidrs []string) {
	object := o.kind + " " + strconv.Quote(o.name)
	if o.kind == "Node" {
		object = nodePhrase(o.name)
	}
	var out []pool.ClusterRange
	for _, text := range cidrs {
		if iv, err := pool.ParseInterval(text); err == nil {
			out = append(out, pool.ClusterRange{Interval: iv, Kind: kind, Created: loadbalancer.SinceTime(created.Time), Object: object})
		}
	}
	slices.SortFunc(out, func(a, b pool.ClusterRange) int { return cmp.Compare(a.Interval.String(), b.Interval.String()) })
	s.mu.Lock()
	if slices.Equal(source[o.name], out) {
		s.mu.Unlock()
		return
	}
	source[o.name], s.cluster.objects[object] = out, o
	if len(out) == 0 {
		delete(source, o.name)
		delete(s.cluster.objects, object)
	}
	s.stale = true
	s.freed++
	s.mu.Unlock()
	s.tellAddresses()
}
