// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeer is a router that nodes tell routes to. Field names are those of MetalLB's kind of
// the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.peerAddress`
// +kubebuilder:printcolumn:name="ASN",type=integer,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="Established",type=integer,JSONPath=`.status.established`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="BFD Profile",type=string,priority=1,JSONPath=`.spec.bfdProfile`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Source",type=string,priority=1,JSONPath=`.metadata.labels.fairlead\.dev/source`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BGPPeerSpec `json:"spec"`
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerSpec is how nodes speak with the router. A value that differs from node to node
// (per rack, say) is taken from each Node by one of the fields whose names end in From.
//
// +kubebuilder:validation:XValidation:rule="[has(self.peerAddress), has(self.peerAddressFrom), has(self.interface)].exists_one(x, x)",message="exactly one of peerAddress, peerAddressFrom and interface"
// +kubebuilder:validation:XValidation:rule="[has(self.peerASN) && self.peerASN != 0, has(self.peerASNFrom), has(self.dynamicASN)].exists_one(x, x)",message="exactly one of peerASN, peerASNFrom and dynamicASN"
// +kubebuilder:validation:XValidation:rule="[has(self.myASN), has(self.myASNFrom)].exists_one(x, x)",message="exactly one of myASN and myASNFrom"
// +kubebuilder:validation:XValidation:rule="!has(self.password) || !has(self.passwordSecret)",message="password or passwordSecret, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.ttlSecurityHops) || !has(self.ebgpMultiHop) || !self.ebgpMultiHop",message="ttlSecurityHops and ebgpMultiHop contradict each other"
// +kubebuilder:validation:XValidation:rule="!has(self.passive) || !self.passive || !has(self.interface)",message="passive needs the peer's address, not an interface"
// +kubebuilder:validation:XValidation:rule="!has(self.passive) || !self.passive || !has(self.peerPort) || self.peerPort == 179",message="passive and peerPort do not go together; nodes do not connect to such a peer"
// +kubebuilder:validation:XValidation:rule="!has(self.passive) || !self.passive || !has(self.connectTime)",message="passive and connectTime do not go together; nodes do not connect to such a peer"
type BGPPeerSpec struct {
	// MyASN is the nodes' AS number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	MyASN int64 `json:"myASN,omitempty"`
	// MyASNFrom takes it from each Node.
	// +optional
	MyASNFrom *NodeValue `json:"myASNFrom,omitempty"`
	// LocalASN is told to this peer instead of myASN, which it sees behind it in the AS path.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	LocalASN int64 `json:"localASN,omitempty"`
	// PeerASN is the router's AS number.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	PeerASN int64 `json:"peerASN,omitempty"`
	// PeerASNFrom takes it from each Node.
	// +optional
	PeerASNFrom *NodeValue `json:"peerASNFrom,omitempty"`
	// DynamicASN accepts any AS number that is (internal) or is not (external) the nodes' own.
	// +kubebuilder:validation:Enum=internal;external
	// +optional
	DynamicASN string `json:"dynamicASN,omitempty"`
	// PeerAddress is the router's address.
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=64
	// +optional
	PeerAddress string `json:"peerAddress,omitempty"`
	// PeerAddressFrom takes it from each Node.
	// +optional
	PeerAddressFrom *NodeValue `json:"peerAddressFrom,omitempty"`
	// Interface on which the router is found without an address (unnumbered).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +optional
	Interface string `json:"interface,omitempty"`
	// SourceAddress of the session; nodes that do not have it have no session.
	// +kubebuilder:validation:MaxLength=45
	// +optional
	SourceAddress string `json:"sourceAddress,omitempty"`
	// PeerPort is the router's TCP port.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +kubebuilder:default=179
	// +optional
	PeerPort int32 `json:"peerPort,omitempty"`
	// Passive has nodes wait for the router to connect, from peerAddress, and never connect
	// themselves. The agents must be allowed to listen (overlay bgp-listen); without that the
	// peer is refused with a reason.
	// +optional
	Passive bool `json:"passive,omitempty"`
	// HoldTime offered, 90s unless given; 0 or at least 3s (RFC 4271 §4.2).
	// +kubebuilder:validation:XValidation:rule="duration(self).getSeconds() == 0 || duration(self).getSeconds() >= 3",message="0 or at least 3s"
	// +optional
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`
	// KeepaliveTime, a third of the hold time unless given.
	// +optional
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`
	// ConnectTime is how long to wait between attempts, 10s unless given.
	// +kubebuilder:validation:XValidation:rule="duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",message="1s to 65535s"
	// +optional
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`
	// IdleHoldTime is how long to wait after the session was reset, 1s unless given.
	// +kubebuilder:validation:XValidation:rule="duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 600",message="1s to 600s"
	// +optional
	IdleHoldTime *metav1.Duration `json:"idleHoldTime,omitempty"`
	// RouterID in the form of an IPv4 address; unless given the node's IPv4 address, or else
	// one made of its name.
	// +kubebuilder:validation:MaxLength=15
	// +optional
	RouterID string `json:"routerID,omitempty"`
	// NodeSelectors limit the nodes that have the session; one that matches is enough, none
	// means every node.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// Password of TCP-MD5. Prefer passwordSecret.
	// +kubebuilder:validation:MaxLength=80
	// +optional
	Password string `json:"password,omitempty"`
	// PasswordSecret holds the password under the key "password". It lies in Fairlead's own
	// namespace and has the type kubernetes.io/basic-auth; another namespace is an error.
	// +optional
	PasswordSecret *corev1.SecretReference `json:"passwordSecret,omitempty"`
	// BFDProfile by name; none means no BFD.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	BFDProfile string `json:"bfdProfile,omitempty"`
	// EnableGracefulRestart keeps routes over a restart of the agent.
	// +optional
	EnableGracefulRestart bool `json:"enableGracefulRestart,omitempty"`
	// EBGPMultiHop allows an external router that is not on a connected network.
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`
	// TTLSecurityHops within which the router must be (RFC 5082); 1 is a connected network.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	// +optional
	TTLSecurityHops int32 `json:"ttlSecurityHops,omitempty"`
	// VRF of the session. Not served: a peer that has one is refused with a reason.
	// +kubebuilder:validation:MaxLength=15
	// +optional
	VRF string `json:"vrf,omitempty"`
	// DisableMP is read and has no effect, as in MetalLB.
	// +optional
	DisableMP bool `json:"disableMP,omitempty"`
	// DualStackAddressFamily carries both families over the session, not only its own.
	// +optional
	DualStackAddressFamily bool `json:"dualStackAddressFamily,omitempty"`
}

// NodeValue names where on a Node a value is.
//
// +kubebuilder:validation:XValidation:rule="has(self.label) != has(self.annotation)",message="label or annotation, not both"
type NodeValue struct {
	// Label of the Node.
	// +kubebuilder:validation:MaxLength=317
	// +optional
	Label string `json:"label,omitempty"`
	// Annotation of the Node; it must begin with "fairlead.dev/" or "bgp.".
	// +kubebuilder:validation:Pattern=`^(fairlead\.dev/|bgp\.).+`
	// +kubebuilder:validation:MaxLength=317
	// +optional
	Annotation string `json:"annotation,omitempty"`
}

// BGPPeerStatus says whether the peer is in use.
type BGPPeerStatus struct {
	// Nodes that are to have a session.
	// +optional
	Nodes int32 `json:"nodes"`
	// Established sessions.
	// +optional
	Established int32 `json:"established"`
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
