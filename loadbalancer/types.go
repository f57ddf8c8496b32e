// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"time"
)

// NodeName is a Node's metadata.name.
type NodeName string

// Group names the claims that one node announces together: the lowest claim name among them.
type Group string

// ServiceKey names a Service.
type ServiceKey struct {
	Namespace string
	Name      string
}

// String returns namespace/name.
func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// ServiceUID is a Service's metadata.uid.
type ServiceUID string

// Ownership says that a node announces a group, as of an epoch. The zero value means nobody.
type Ownership struct {
	Node  NodeName
	Epoch uint64
}

// Beats reports whether o wins over p: the higher epoch, then the lower node name.
// An ownership beats nobody's, and nobody's beats nothing.
func (o Ownership) Beats(p Ownership) bool {
	switch {
	case o.Node == "":
		return false
	case p.Node == "":
		return true
	case o.Epoch != p.Epoch:
		return o.Epoch > p.Epoch
	default:
		return o.Node < p.Node
	}
}

// Claim is one allocated address as a node agent sees it.
type Claim struct {
	// Name of the claim, which is also the group of it alone.
	Name  Group
	Addr  netip.Addr
	Group Group
	// Services that hold the address.
	Services []ServiceUID
	// Successors are the proposed owners, best first.
	Successors []NodeName
	// Persisted is the owner in the API, zero when none.
	Persisted Ownership
	// Releasing claims are never announced.
	Releasing bool
}

// TrafficPolicy is a Service's externalTrafficPolicy.
type TrafficPolicy uint8

const (
	// Cluster lets any node announce.
	Cluster TrafficPolicy = iota
	// Local lets only nodes with a serving endpoint announce.
	Local
)

// Record is one LoadBalancer object as a node agent sees it.
type Record struct {
	UID            ServiceUID
	Service        ServiceKey
	Addrs          []netip.Addr
	Policy         TrafficPolicy
	Advertisements []string
	// BGPAdvertisements by name; BGP is what the Service says itself of its routes.
	BGPAdvertisements []string
	BGP               BGPOverrides
	// BGPAddrs are the addresses that one of BGPAdvertisements is limited to, by its name,
	// because its pools have no others; those that are not here tell all.
	BGPAddrs map[string][]netip.Addr

	// DataPlane asked for. A node whose kernel has no IPVS leaves it to kube-proxy all the same.
	DataPlane DataPlane
	Targets   TargetType
	Ports     []ServicePort
	// Scheduler by its name in the kernel, with Flags; empty: rr, or wrr where weights differ.
	Scheduler string
	Flags     SchedulerFlags
	// Affinity is the Service's session affinity by client address, 0 for none.
	Affinity time.Duration
	// Sources that may connect (spec.loadBalancerSourceRanges); none: everybody.
	Sources []netip.Prefix
	// NodeAddrs are granted addresses of spec.externalIPs that are nodes' own: each is
	// served by the node that has it, and neither bound nor announced.
	NodeAddrs []netip.Addr
	// Revision is the record's resourceVersion when it was read.
	Revision string
}

// Interface is one link that can announce.
type Interface struct {
	Name  string
	Index int
	// Prefixes are the link's own addresses with their length, not masked.
	Prefixes []netip.Prefix
	// MAC is the link's Ethernet address, zero when an agent of an earlier version does
	// not tell.
	MAC [6]byte
	// NoIPv4 and NoIPv6 say that addresses of a family cannot be announced on it.
	NoIPv4, NoIPv6 bool
}

// Since is a point in time, kept as Unix nanoseconds so that values stay comparable.
type Since int64

// SinceTime converts a time.
func SinceTime(t time.Time) Since { return Since(t.UnixNano()) }

// Time converts back.
func (s Since) Time() time.Time { return time.Unix(0, int64(s)) }
