// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TargetType says what a load balancer sends to.
// +kubebuilder:validation:Enum=pod;node-port
type TargetType string

const (
	// TargetPod sends straight to ready pods.
	TargetPod TargetType = "pod"
	// TargetNodePort sends to the node port of every node.
	TargetNodePort TargetType = "node-port"
)

// Forwarding says which data plane takes packets from the announcing node to the targets.
// +kubebuilder:validation:Enum=kube-proxy;ipvs
type Forwarding string

const (
	// ForwardingKubeProxy leaves forwarding to kube-proxy (ipMode VIP in the Service's status).
	ForwardingKubeProxy Forwarding = "kube-proxy"
	// ForwardingIPVS has every node agent program IPVS, where its kernel can; the others
	// leave it to kube-proxy. The Service's status says ipMode Proxy once all have.
	ForwardingIPVS Forwarding = "ipvs"
)

// TrafficPolicy is the Service's externalTrafficPolicy.
// +kubebuilder:validation:Enum=Cluster;Local
type TrafficPolicy string

const (
	// TrafficPolicyCluster lets any node announce and forwards to any ready pod.
	TrafficPolicyCluster TrafficPolicy = "Cluster"
	// TrafficPolicyLocal lets only nodes with ready pods announce and keeps the client's address.
	TrafficPolicyLocal TrafficPolicy = "Local"
)

// LoadBalancer is the record of one Service of type LoadBalancer, or with external IPs
// that lie in a pool: what it got, how it is forwarded and announced, and why not. It has the Service's name and namespace and
// is owned by it. It holds references only, never lists of nodes or pods, so that a
// node joining the cluster rewrites nothing.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=fairlead
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses[*].address`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.addresses[0].pool`
// +kubebuilder:printcolumn:name="Rule",type=string,priority=1,JSONPath=`.spec.addresses[*].rule`
// +kubebuilder:printcolumn:name="Targets",type=string,JSONPath=`.spec.targetType`
// +kubebuilder:printcolumn:name="Policy",type=string,JSONPath=`.spec.externalTrafficPolicy`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.owner.node`
// +kubebuilder:printcolumn:name="BGP",type=string,JSONPath=`.spec.advertisements[?(@.kind=="BGPAdvertisement")].name`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Announced",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Announced")].message`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LoadBalancer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec LoadBalancerSpec `json:"spec"`
	// +optional
	Status LoadBalancerStatus `json:"status,omitempty"`
}

// LoadBalancerSpec is what the controller decided.
type LoadBalancerSpec struct {
	// ServiceUID tells the Service from a namesake.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	ServiceUID types.UID `json:"serviceUID"`
	// Addresses that the Service holds: as many per IP family as it asks for, in the order
	// of its ipFamilies, then those of its spec.externalIPs that lie in a pool.
	// +kubebuilder:validation:MaxItems=32
	// +optional
	// +listType=map
	// +listMapKey=address
	Addresses []LoadBalancerAddress `json:"addresses,omitempty"`
	// Ports of the Service.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=atomic
	Ports []Port `json:"ports,omitempty"`
	// TargetType says what the load balancer sends to.
	TargetType TargetType `json:"targetType"`
	// ExternalTrafficPolicy of the Service.
	ExternalTrafficPolicy TrafficPolicy `json:"externalTrafficPolicy"`
	// Forwarding says which data plane serves the addresses.
	Forwarding Forwarding `json:"forwarding"`
	// Scheduler of the virtual servers by its name in the kernel; absent: rr, or wrr where
	// weights are given or targets are node ports.
	// +kubebuilder:validation:Enum=rr;wrr;lc;wlc;lblc;lblcr;dh;sh;sed;nq;fo;ovf;mh
	// +optional
	Scheduler string `json:"scheduler,omitempty"`
	// SchedulerFlags of sh and mh.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=fallback;port
	// +optional
	// +listType=set
	SchedulerFlags []string `json:"schedulerFlags,omitempty"`
	// SessionAffinitySeconds is how long a client stays with its pod; absent: not at all.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	SessionAffinitySeconds int32 `json:"sessionAffinitySeconds,omitempty"`
	// SourceRanges that may connect, as CIDRs; absent: everybody.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=49
	// +optional
	// +listType=set
	SourceRanges []string `json:"sourceRanges,omitempty"`
	// NodeAddresses are granted addresses of the Service's spec.externalIPs that are nodes'
	// own: each is served by the node that has it, and never announced.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=45
	// +optional
	// +listType=set
	NodeAddresses []string `json:"nodeAddresses,omitempty"`
	// Advertisements that announce the addresses.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	Advertisements []AdvertisementReference `json:"advertisements,omitempty"`
	// BGP is what the Service says itself of its routes.
	// +optional
	BGP *BGPOverrides `json:"bgp,omitempty"`
}

// BGPOverrides are a Service's own words on its BGP routes. They count where its
// BGPAdvertisement leaves them to it.
type BGPOverrides struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	LocalPref *int64 `json:"localPref,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	MED *int64 `json:"med,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	// +optional
	ASPathPrepend *int32 `json:"asPathPrepend,omitempty"`
	// Communities in addition to the advertisement's.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=set
	Communities []string `json:"communities,omitempty"`
}

// Origin says in words which pool an address came from.
func Origin(pool string) string {
	if pool == "" {
		return "from outside every pool"
	}
	return "from pool " + strconv.Quote(pool)
}

// LoadBalancerAddress is one address and where it came from.
type LoadBalancerAddress struct {
	// Address in canonical form.
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// Pool is the IPAddressPool that the address came from; empty for an address of
	// spec.externalIPs that lies in none.
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool"`
	// Claim is the name of the IPClaim that holds the address.
	// +kubebuilder:validation:MaxLength=45
	Claim string `json:"claim"`
	// Rule is why this address: the rule that chose it when the Service got it.
	// +optional
	Rule AllocationRule `json:"rule,omitempty"`
}

// AllocationRule is the answer to "why this address?": the rule that chose it. The
// rules and their order are those of docs/reference/allocation.md.
// +kubebuilder:validation:Enum=Requested;Shown;Retained;Shared;Pool;ServiceAllocation;AutoAssign;ExternalIP
type AllocationRule string

const (
	// RuleRequested means: the Service asks for this very address.
	RuleRequested AllocationRule = "Requested"
	// RuleShown means: the Service's status showed it already and it was free: it comes from
	// another load balancer or from a backup.
	RuleShown AllocationRule = "Shown"
	// RuleRetained means: it was kept for a Service of this namespace and name.
	RuleRetained AllocationRule = "Retained"
	// RuleShared means: a Service with the same sharing key has it.
	RuleShared AllocationRule = "Shared"
	// RulePool means: lowest free address of the pool asked for.
	RulePool AllocationRule = "Pool"
	// RuleServiceAllocation means: lowest free address of a pool whose serviceAllocation
	// matches the Service.
	RuleServiceAllocation AllocationRule = "ServiceAllocation"
	// RuleAutoAssign means: lowest free address of a pool for everybody.
	RuleAutoAssign AllocationRule = "AutoAssign"
	// RuleExternalIP means: spec.externalIPs names it and a grant allows it. Such addresses do
	// not appear in the Service's status.
	RuleExternalIP AllocationRule = "ExternalIP"
)

// Kinds of advertisements.
const (
	KindL2Advertisement  = "L2Advertisement"
	KindBGPAdvertisement = "BGPAdvertisement"
)

// AdvertisementReference names one advertisement.
type AdvertisementReference struct {
	// Kind of the advertisement.
	// +kubebuilder:validation:Enum=L2Advertisement;BGPAdvertisement
	Kind string `json:"kind"`
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Addresses that it announces, ascending; absent: all of the record's. On layer 2 it is
	// always all, because they have one owner.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=45
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
}

// LoadBalancerStatus is written by the controller.
type LoadBalancerStatus struct {
	// Owner is a copy of the claims' owner, for people.
	// +optional
	Owner *Owner `json:"owner,omitempty"`
	// Conditions: Allocated, Announced, Ready, Forwarded, and Conflict while a host outside
	// the cluster has an address too.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LoadBalancerList is a list of records.
//
// +kubebuilder:object:root=true
type LoadBalancerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LoadBalancer `json:"items"`
}
