// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Advertisement makes nodes answer ARP for the addresses of some pools.
// Field names are those of MetalLB's kind of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:printcolumn:name="IPAddressPools",type=string,JSONPath=`.spec.ipAddressPools`
// +kubebuilder:printcolumn:name="IPAddressPool Selectors",type=string,JSONPath=`.spec.ipAddressPoolSelectors`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Node Selectors",type=string,priority=1,JSONPath=`.spec.nodeSelectors`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Source",type=string,priority=1,JSONPath=`.metadata.labels.fairlead\.dev/source`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// L2AdvertisementSpec selects pools, Services, nodes and interfaces. No pool named
// and no pool selector means every pool.
type L2AdvertisementSpec struct {
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
	// NodeSelectors limit the announcing nodes; one that matches is enough, none
	// means every node.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	// PreferredNodeSelectors order the nodes that may announce: the weights of all that
	// match a node add up, over all advertisements that apply to the Service. The heaviest
	// nodes are proposed first, before load is looked at. They move nothing that has an
	// owner, and keep no node from announcing.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	PreferredNodeSelectors []PreferredNodeSelector `json:"preferredNodeSelectors,omitempty"`
	// ServiceSelectors limit the Services; one that matches is enough, none means
	// every Service.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	// Interfaces to announce on, by name. None means every interface whose subnet
	// holds the address; with names, those interfaces announce whatever their subnet.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=15
	// +optional
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`
}

// PreferredNodeSelector gives nodes a weight.
type PreferredNodeSelector struct {
	// Weight of the nodes that match.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// Preference selects nodes by label; an empty one selects every node.
	Preference metav1.LabelSelector `json:"preference"`
}

// L2AdvertisementStatus says whether the advertisement is in use.
type L2AdvertisementStatus struct {
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// L2AdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}
