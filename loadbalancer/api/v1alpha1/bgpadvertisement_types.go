// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPAdvertisement makes nodes tell BGP peers the addresses of some pools. Field names are
// those of MetalLB's kind of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:printcolumn:name="IPAddressPools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="IPAddressPool Selectors",type=string,JSONPath=`.spec.ipAddressPoolSelectors`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Node Selectors",type=string,priority=1,JSONPath=`.spec.nodeSelectors`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Source",type=string,priority=1,JSONPath=`.metadata.labels.fairlead\.dev/source`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementSpec selects pools, Services, nodes and peers, and says what routes say.
// No pool named and no pool selector means every pool.
//
// +kubebuilder:validation:XValidation:rule="!has(self.serviceSelectors) || size(self.serviceSelectors) == 0 || ((!has(self.aggregationLength) || self.aggregationLength == 32) && (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))",message="serviceSelectors do not go with an aggregation length"
type BGPAdvertisementSpec struct {
	// AggregationLength is the prefix length of IPv4 routes, 32 unless given. A shorter one
	// tells one route for all VIPs in it.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	// +kubebuilder:default=32
	// +optional
	AggregationLength *int32 `json:"aggregationLength,omitempty"`
	// AggregationLengthV6 is the prefix length of IPv6 routes, 128 unless given.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	// +kubebuilder:default=128
	// +optional
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`
	// LocalPref is told to internal peers.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	LocalPref int64 `json:"localPref,omitempty"`
	// MED is told to all peers.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +optional
	MED *int64 `json:"med,omitempty"`
	// ASPathPrepend is how often the nodes' AS number comes once more, towards external peers.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	// +optional
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`
	// Communities: "65000:1", "large:65000:1:2", "target:65000:1", "origin:65000:1", a
	// well-known name such as no-export, or an alias of a Community.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=set
	Communities []string `json:"communities,omitempty"`
	// IPAddressPools by name.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=set
	IPAddressPools []string `json:"ipAddressPools,omitempty"`
	// IPAddressPoolSelectors by label; one that matches is enough.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	// NodeSelectors limit the nodes; one that matches is enough, none means every node.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// Peers by name of BGPPeer; none means all.
	// +kubebuilder:validation:MaxItems=256
	// +optional
	// +listType=set
	Peers []string `json:"peers,omitempty"`
	// ServiceSelectors limit the Services; one that matches is enough, none means every Service.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	// ServiceOverrides are what a Service may say itself by annotations
	// (fairlead.dev/bgp-local-pref, -med, -as-path-prepend, -communities); none by default.
	// Communities that a Service names come in addition.
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:Enum=localPref;med;asPathPrepend;communities
	// +optional
	// +listType=set
	ServiceOverrides []string `json:"serviceOverrides,omitempty"`
}

// BGPAdvertisementStatus says whether the advertisement is in use.
type BGPAdvertisementStatus struct {
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPAdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}
