// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeAgent is what the agent of one node reports, written on change only. It has the
// Node's name. It is a persisted copy for people and for the controller's proposals:
// agents do not watch each other's, they gossip.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="VIPs",type=integer,JSONPath=`.status.announcedAddresses`
// +kubebuilder:printcolumn:name="Members",type=integer,JSONPath=`.status.gossip.members`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.interfaces[*].name`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeAgent struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status NodeAgentStatus `json:"status,omitempty"`
}

// NodeAgentStatus is written by the node's own agent.
type NodeAgentStatus struct {
	// Version of the agent.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version,omitempty"`
	// BootID identifies one run of the agent process.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	BootID string `json:"bootID,omitempty"`
	// DefaultRouteAddresses are the node's own addresses on the interfaces of its
	// default routes, at most one per IP family. The controller gives them to a
	// kubelet that was started without --node-ip.
	// +kubebuilder:validation:MaxItems=2
	// +optional
	// +listType=atomic
	DefaultRouteAddresses []string `json:"defaultRouteAddresses,omitempty"`
	// Gateways are the next hops of the node's default routes, without zones. No Service
	// ever gets one.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +optional
	// +listType=set
	Gateways []string `json:"gateways,omitempty"`
	// Interfaces that can announce.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=map
	// +listMapKey=name
	Interfaces []NodeInterface `json:"interfaces,omitempty"`
	// AnnouncedAddresses counts the addresses that this node announces now.
	// +optional
	AnnouncedAddresses int32 `json:"announcedAddresses"`
	// Conflicts are addresses that a host outside the cluster claims too, ascending by
	// address: those that this node does not announce for that reason, and those that it
	// announces all the same because it had them first. They are kept for a minute after
	// the last sign of the host.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=address
	// +listMapKey=interface
	Conflicts []AddressConflict `json:"conflicts,omitempty"`
	// KernelSettings are settings of the kernel that the agent changed, with their former
	// values, which it restores when it leaves.
	// +kubebuilder:validation:MaxItems=512
	// +optional
	// +listType=map
	// +listMapKey=name
	KernelSettings []KernelSetting `json:"kernelSettings,omitempty"`
	// DataPlane is who forwards on this node, and what is programmed.
	// +optional
	DataPlane DataPlaneStatus `json:"dataPlane,omitempty"`
	// BGP sessions of this node, ascending by peer.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=peer
	BGP []BGPSessionStatus `json:"bgp,omitempty"`
	// Gossip is the agent's view of its peers.
	// +optional
	Gossip GossipStatus `json:"gossip,omitempty"`
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeInterface is one interface that can announce.
type NodeInterface struct {
	// +kubebuilder:validation:MaxLength=15
	Name string `json:"name"`
	// MAC address, lower case, colon separated.
	// +kubebuilder:validation:MaxLength=17
	// +optional
	MAC string `json:"mac,omitempty"`
	// Prefixes are the interface's addresses with prefix length, as 192.0.2.1/24.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	Prefixes []string `json:"prefixes,omitempty"`
}

// AddressConflict is one address that a host outside the cluster claims.
type AddressConflict struct {
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`
	// MAC address of the host, lower case, colon separated.
	// +kubebuilder:validation:MaxLength=17
	MAC string `json:"mac"`
	// Announced says that this node announces the address all the same.
	Announced bool `json:"announced"`
	// Since is when the conflict was first seen.
	Since metav1.Time `json:"since"`
}

// KernelSetting is one setting of the kernel that the agent changed.
type KernelSetting struct {
	// Name as in sysctl(8), with "/" for ".": net/ipv4/conf/eth0/arp_ignore.
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// Former value.
	// +kubebuilder:validation:MaxLength=32
	Former string `json:"former"`
	// Value that the agent set.
	// +kubebuilder:validation:MaxLength=32
	Value string `json:"value"`
}

// DataPlaneStatus says who forwards packets for Services on one node.
type DataPlaneStatus struct {
	// Forwarding that this node does: ipvs, or kube-proxy where ipvs cannot be.
	// +optional
	Forwarding Forwarding `json:"forwarding,omitempty"`
	// Reason why it is not ipvs, in one word.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message for people: what is wrong and what to set, also where it is ipvs.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
	// KubeProxyMode is what of kube-proxy was found on the node: iptables, nftables, ipvs.
	// +kubebuilder:validation:MaxLength=16
	// +optional
	KubeProxyMode string `json:"kubeProxyMode,omitempty"`
	// VirtualServers counts those that are programmed.
	// +optional
	VirtualServers int32 `json:"virtualServers,omitempty"`
	// Revision: all records up to this resourceVersion are programmed, but those waiting.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	Revision string `json:"revision,omitempty"`
	// Waiting are records that this node could not program, as namespace/name, with why.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=map
	// +listMapKey=name
	Waiting []WaitingRecord `json:"waiting,omitempty"`
}

// BGPSessionState is where a BGP session stands.
// +kubebuilder:validation:Enum=Idle;Connect;Active;OpenSent;OpenConfirm;Established;Refused
type BGPSessionState string

// The states of RFC 4271 §8.2.2, and Refused for a session that this node does not begin
// because of its configuration.
const (
	BGPIdle        BGPSessionState = "Idle"
	BGPConnect     BGPSessionState = "Connect"
	BGPActive      BGPSessionState = "Active"
	BGPOpenSent    BGPSessionState = "OpenSent"
	BGPOpenConfirm BGPSessionState = "OpenConfirm"
	BGPEstablished BGPSessionState = "Established"
	BGPRefused     BGPSessionState = "Refused"
)

// BGPSessionStatus is one BGP session of a node.
type BGPSessionStatus struct {
	// Peer is the BGPPeer's name.
	// +kubebuilder:validation:MaxLength=253
	Peer string `json:"peer"`
	// Address of the peer, or the interface.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Address string `json:"address,omitempty"`
	// ASN of the peer as it said in its OPEN, or as configured.
	// +optional
	ASN   int64           `json:"asn,omitempty"`
	State BGPSessionState `json:"state"`
	// Since is when the session came into or fell out of Established.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Reason why it is not Established, or not all that is configured, in one word.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message: what ended the session last, in words.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
	// Prefixes that the peer was told.
	// +optional
	Prefixes int32 `json:"prefixes"`
	// Draining says that routes ask for the least preference, and why, in one word.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Draining string `json:"draining,omitempty"`
	// BFD is the state of the peer's BFD session: AdminDown, Down, Init or Up; absent without.
	// +kubebuilder:validation:Enum=AdminDown;Down;Init;Up
	// +optional
	BFD string `json:"bfd,omitempty"`
}

// WaitingRecord is a LoadBalancer that a node could not program.
type WaitingRecord struct {
	// Name of the record as namespace/name.
	// +kubebuilder:validation:MaxLength=317
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// GossipStatus is one agent's view of the membership.
type GossipStatus struct {
	// Members counts the live members, this one included.
	// +optional
	Members int32 `json:"members"`
	// KeyIDs are short digests of the gossip keys in use, the primary first.
	// +kubebuilder:validation:MaxItems=8
	// +optional
	// +listType=atomic
	KeyIDs []string `json:"keyIDs,omitempty"`
}

// NodeAgentList is a list of node agents.
//
// +kubebuilder:object:root=true
type NodeAgentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeAgent `json:"items"`
}
