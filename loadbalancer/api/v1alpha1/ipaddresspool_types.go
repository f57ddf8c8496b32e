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
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.assignedIPv4`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.availableIPv4`
// +kubebuilder:printcolumn:name="Used6",type=integer,priority=1,JSONPath=`.status.assignedIPv6`
// +kubebuilder:printcolumn:name="Free6",type=integer,priority=1,JSONPath=`.status.availableIPv6`
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
	// ServiceAllocation restricts the pool to some Services and ranks it among pools.
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
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
	// +optional
	AssignedIPv4 int64 `json:"assignedIPv4"`
	// +optional
	AssignedIPv6 int64 `json:"assignedIPv6"`
	// +optional
	AvailableIPv4 int64 `json:"availableIPv4"`
	// +optional
	AvailableIPv6 int64 `json:"availableIPv6"`
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// IPAddressPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}
