// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import "net/netip"

// Node is a Node object as far as announcing goes.
type Node struct {
	Name NodeName
	// Addrs are the addresses in the Node's status.
	Addrs []netip.Addr
	// InternalIPs are those of type InternalIP, in the order of the status.
	InternalIPs []netip.Addr
	// Excluded nodes carry the label node.kubernetes.io/exclude-from-external-load-balancers.
	Excluded bool
	// NetworkUnavailable is the condition of that name.
	NetworkUnavailable bool
	// Cordoned nodes are unschedulable.
	Cordoned bool
	// ShuttingDown says that the kubelet has begun a graceful shutdown of the node.
	ShuttingDown bool
	// Ready is the condition of that name as the API server last told.
	Ready bool
	// PodCIDRs are the ranges of the node's pods, where the API knows them.
	PodCIDRs []netip.Prefix
}

// Advertisement is one L2Advertisement with its node selectors resolved.
type Advertisement struct {
	Name string
	// AllNodes says that there is no node selector.
	AllNodes bool
	// Nodes that a node selector matches.
	Nodes map[NodeName]struct{}
	// Interfaces to announce on; none means every one whose subnet holds the address.
	Interfaces []string
}

// Selects says whether the advertisement lets a node announce.
func (a Advertisement) Selects(n NodeName) bool {
	_, ok := a.Nodes[n]
	return a.AllNodes || ok
}

// Endpoints says which nodes serve a Service: those with ready endpoints or, when no
// endpoint is ready anywhere, those whose terminating endpoints still serve.
type Endpoints struct {
	// Nodes with a serving endpoint.
	Nodes map[NodeName]struct{}
	// Any is true when some endpoint serves, on a known node or not.
	Any bool
	// Backends are all endpoints, one for each of their ports, ascending by address, port
	// and port name; those that do not serve too.
	Backends []Backend
}
