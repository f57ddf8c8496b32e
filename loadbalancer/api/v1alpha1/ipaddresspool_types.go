// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAddressPool is a set of addresses that Services of type LoadBalancer may get.
// Field names are those of MetalLB's kind of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:printcolumn:name="Auto Assign",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Avoid Buggy IPs",type=boolean,JSONPath=`.spec.avoidBuggyIPs`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Total",type=integer,priority=1,JSONPath=`.status.totalIPv4`
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.assignedIPv4`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.availableIPv4`
// +kubebuilder:printcolumn:name="Total6",type=integer,priority=1,JSONPath=`.status.totalIPv6`
// +kubebuilder:printcolumn:name="Used6",type=integer,JSONPath=`.status.assignedIPv6`
// +kubebuilder:printcolumn:name="Free6",type=integer,JSONPath=`.status.availableIPv6`
// +kubebuilder:printcolumn:name="Largest Tenant",type=string,priority=1,JSONPath=`.status.largestTenants[0].namespace`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Source",type=string,priority=1,JSONPath=`.metadata.labels.fairlead\.dev/source`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPAddressPoolSpec `json:"spec"`
	// +optional
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// IPAddressPoolSpec is what the administrator offers.
type IPAddressPoolSpec struct {
	// Addresses are CIDR prefixes ("192.0.2.0/24") or inclusive ranges
	// ("192.0.2.10-192.0.2.20"), IPv4 or IPv6. No two pools may overlap.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=91
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) || (self.split('-').size() == 2 && self.split('-').all(a, isIP(a.trim())) && ip(self.split('-')[0].trim()).family() == ip(self.split('-')[1].trim()).family())",message="must be a CIDR prefix (192.0.2.0/24) or a range of two addresses of one family (192.0.2.10-192.0.2.20)"
	// +listType=atomic
	Addresses []string `json:"addresses"`
	// AutoAssign false keeps the pool for Services that ask for it by name or address.
	// +kubebuilder:default=true
	// +optional
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// AvoidBuggyIPs skips every address that ends in .0 or .255, which some old
	// equipment drops.
	// +kubebuilder:default=false
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`
	// ExcludedAddresses are never handed out: prefixes and ranges in the spelling of
	// Addresses. What a Service holds when its address becomes excluded, it keeps.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=91
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) || (self.split('-').size() == 2 && self.split('-').all(a, isIP(a.trim())) && ip(self.split('-')[0].trim()).family() == ip(self.split('-')[1].trim()).family())",message="must be a CIDR prefix (192.0.2.0/24) or a range of two addresses of one family (192.0.2.10-192.0.2.20)"
	// +optional
	// +listType=atomic
	ExcludedAddresses []string `json:"excludedAddresses,omitempty"`
	// Disabled pools give no more addresses, not even to Services that ask for one;
	// Services keep what they hold. So a pool is drained before it is deleted.
	// +kubebuilder:default=false
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// ServiceAllocation restricts the pool to some Services and ranks it among pools.
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
	// Defaults for Services that do not say otherwise by an annotation.
	// +optional
	Defaults *PoolDefaults `json:"defaults,omitempty"`
	// ReclaimPolicy says what becomes of an address when its last Service ends.
	// +kubebuilder:default=Delete
	// +optional
	ReclaimPolicy ReclaimPolicy `json:"reclaimPolicy,omitempty"`
	// RetainFor is how long a retained address waits for a Service of the same
	// namespace and name, as a duration (24h). Default 24h. It counts from the end of
	// the last Service. Under reclaimPolicy Delete it serves those Services that ask for
	// Retain by annotation.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8760h')",message="must be between 1s and 8760h"
	// +optional
	RetainFor *metav1.Duration `json:"retainFor,omitempty"`
}

// ReclaimPolicy says what becomes of an address when its last Service ends.
// +kubebuilder:validation:Enum=Delete;Retain
type ReclaimPolicy string

const (
	// ReclaimDelete frees the address as soon as no node answers for it.
	ReclaimDelete ReclaimPolicy = "Delete"
	// ReclaimRetain keeps the address for a Service of the same namespace and name,
	// up to a deadline.
	ReclaimRetain ReclaimPolicy = "Retain"
)

// PoolDefaults apply to Services with an address of the pool that do not say otherwise.
// A Service with addresses of several pools follows the pool of its first address.
type PoolDefaults struct {
	// TargetType is the default of the annotation fairlead.dev/target-type.
	// +optional
	TargetType TargetType `json:"targetType,omitempty"`
	// Advertisements is the default of the annotation fairlead.dev/advertisements: of
	// the advertisements that select pool and Service only these, by name. None means all.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=set
	Advertisements []string `json:"advertisements,omitempty"`
}

// ServiceAllocation selects the Services that a pool serves without being asked for.
// A Service matches when its namespace matches (by name or label; both lists empty
// match every namespace) and its labels match a service selector (none: every one).
type ServiceAllocation struct {
	// Priority ranks matching pools: lower first, 0 (unset) last.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Priority int `json:"priority,omitempty"`
	// Namespaces by name.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelectors by label; one that matches is enough.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`
	// ServiceSelectors by label; one that matches is enough.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus counts addresses; counters above 2^63-1 are capped.
type IPAddressPoolStatus struct {
	// TotalIPv4 counts the addresses that the pool can ever hand out: without excluded,
	// avoided and nodes' own ones.
	// +optional
	TotalIPv4 int64 `json:"totalIPv4"`
	// +optional
	TotalIPv6 int64 `json:"totalIPv6"`
	// +optional
	AssignedIPv4 int64 `json:"assignedIPv4"`
	// +optional
	AssignedIPv6 int64 `json:"assignedIPv6"`
	// +optional
	AvailableIPv4 int64 `json:"availableIPv4"`
	// +optional
	AvailableIPv6 int64 `json:"availableIPv6"`
	// LargestTenants are the namespaces with most addresses of the pool, at most five,
	// the largest first, then by name. A shared address counts for each of its namespaces.
	// +kubebuilder:validation:MaxItems=5
	// +optional
	// +listType=atomic
	LargestTenants []PoolTenant `json:"largestTenants,omitempty"`
	// Conditions: Ready; Conflict while some addresses of the pool are not handed out
	// because a node, a pod range or a Service range has them.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PoolTenant is one namespace and how many addresses of a pool it holds.
type PoolTenant struct {
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:Minimum=1
	Addresses int64 `json:"addresses"`
}

// IPAddressPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}
