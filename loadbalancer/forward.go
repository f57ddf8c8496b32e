// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"time"
)

// Protocol is an IP protocol by its IANA number, as the kernel has it.
type Protocol uint8

// The protocols that a Service may name.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name that Kubernetes uses.
func (p Protocol) String() string {
	switch p {
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	default:
		return "TCP"
	}
}

// ServicePort is one port of a Service.
type ServicePort struct {
	// Name is empty for a single unnamed port.
	Name     string
	Protocol Protocol
	Port     uint16
	// NodePort is 0 when none is allocated.
	NodePort uint16
}

// Backend is one port of one endpoint of a Service.
type Backend struct {
	Addr netip.Addr
	// PortName joins it with a [ServicePort] of that name and protocol.
	PortName string
	Protocol Protocol
	Port     uint16
	// Node is empty when the endpoint does not say: a machine outside the cluster.
	Node NodeName
	// Weight is its share of new connections, at least 1.
	Weight uint16
	// Ready, Serving and Terminating are the endpoint's conditions.
	Ready, Serving, Terminating bool
}

// TargetType says what a load balancer sends to.
type TargetType uint8

const (
	// TargetPod sends straight to pods.
	TargetPod TargetType = iota
	// TargetNodePort sends to other nodes' node ports, and to this node's own pods.
	TargetNodePort
)

// DataPlane says who takes packets from the announcing node to the targets.
type DataPlane uint8

const (
	// KubeProxy leaves it to kube-proxy.
	KubeProxy DataPlane = iota
	// IPVS has the node agent program it into the kernel, where the kernel can.
	IPVS
)

// SchedulerFlags are those of a virtual server as the kernel has them: IP_VS_SVC_F_SCHED1
// to 3 of linux/ip_vs.h, whose meaning is each scheduler's own.
type SchedulerFlags uint32

// Flags of the schedulers sh and mh. The same bit means the same for both.
const (
	SchedFallback SchedulerFlags = 0x0008 // sh-fallback, mh-fallback
	SchedPort     SchedulerFlags = 0x0010 // sh-port, mh-port
)

// VirtualServerKey identifies a virtual server in the kernel: an address with port and
// protocol, or, where Mark is not zero, the packets of one IP family with this mark. Of the
// latter Addr is the family's unspecified address, and port and protocol are zero.
type VirtualServerKey struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
	Mark     uint32
}

// RealServerKey identifies a real server within its virtual server.
type RealServerKey struct {
	Addr netip.Addr
	Port uint16
}

// RealServer is one target of a virtual server. Forwarding is always masquerading (NAT).
type RealServer struct {
	RealServerKey
	// Weight is the share of new connections; 0 gets none and keeps those that it has.
	Weight uint32
}

// VirtualServer is one as it should be in the kernel. One without real servers is there for
// the kernel to refuse: nothing serves the Service anywhere.
type VirtualServer struct {
	VirtualServerKey
	// Service that it serves, for people: the kernel does not keep it.
	Service ServiceKey
	// Scheduler by its name in the kernel: rr, wrr, mh ….
	Scheduler string
	Flags     SchedulerFlags
	// Affinity is how long a client stays with its real server after its last connection,
	// in whole seconds; 0: not at all.
	Affinity time.Duration
	// Reals ascend by address and port: mh and the other hashing schedulers choose by the
	// order in which real servers were added and by their weights, which are therefore the
	// same on every node.
	Reals []RealServer
}

// Served is one address, port and protocol that the node takes from whoever else would.
type Served struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
	// Mark is set on packets from within the cluster, the node itself included: they use
	// the virtual server of that mark. 0 where there is none.
	Mark uint32
	// Masquerade has packets from outside leave with this node's address, unless their real
	// server is on this node. Packets from within the cluster always do.
	Masquerade bool
	// Foreign addresses have other ports that are not ours to refuse: the node's own
	// (spec.externalIPs that name it), which are not on our link, and virtual addresses
	// that have Services of kube-proxy too.
	Foreign bool
	// Sources that may connect, of either family, disjoint and ascending; none: everybody.
	// Where all are of the other family, that is nobody.
	Sources []netip.Prefix
}

// Forwarding is what one node's data plane should be. All slices ascend and hold nothing
// twice, so that equal plans compare equal.
type Forwarding struct {
	// VIPs are to be on the node's own dummy link.
	VIPs []netip.Addr
	// VirtualServers ascend by key: address, protocol, port, mark.
	VirtualServers []VirtualServer
	// Served ascend by address, protocol and port. One without a virtual server of its address
	// and port is served by other nodes only: what comes here from outside is to wait.
	Served []Served
	// InCluster are the sources that count as within the cluster: pods; disjoint. The node's
	// own addresses do without being listed.
	InCluster []netip.Prefix
	// LocalReals are addresses of real servers that are pods of this node.
	LocalReals []netip.Addr
}

// CompareBools is cmp.Compare for bools: false is less than true.
func CompareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}
