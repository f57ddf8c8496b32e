// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ExternalIPPolicyName is the one name that an ExternalIPPolicy may have.
const ExternalIPPolicyName = "default"

// ExternalIPPolicy says which namespaces may use which addresses in spec.externalIPs of
// their Services. There is one, named "default". What no grant allows is refused: by
// the admission policy fairlead-external-ips when an address is added, and by the
// controller, which neither claims nor announces it. Addresses that a Service had
// before the policy came stay in its spec.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="the only ExternalIPPolicy is the one named default"
// +kubebuilder:printcolumn:name="Namespaces",type=string,JSONPath=`.spec.grants[*].namespaces`
// +kubebuilder:printcolumn:name="Ranges",type=string,JSONPath=`.spec.grants[*].ranges`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ExternalIPPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ExternalIPPolicySpec `json:"spec"`
}

// ExternalIPPolicySpec lists what is allowed; nothing else is.
type ExternalIPPolicySpec struct {
	// Grants; one that allows an address is enough.
	// +kubebuilder:validation:MaxItems=64
	// +optional
	// +listType=atomic
	Grants []ExternalIPGrant `json:"grants,omitempty"`
}

// ExternalIPGrant allows the Services of some namespaces some addresses.
//
// +kubebuilder:validation:XValidation:rule="has(self.namespaces) != has(self.namespaceSelector)",message="give either namespaces or namespaceSelector"
type ExternalIPGrant struct {
	// Namespaces by name.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +optional
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelector by label; one with empty matchLabels is every namespace.
	// +optional
	NamespaceSelector *NamespaceSelector `json:"namespaceSelector,omitempty"`
	// Ranges are CIDR prefixes; a single address is one of full length (192.0.2.7/32).
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a CIDR prefix (192.0.2.0/24, or 192.0.2.7/32 for one address)"
	// +listType=set
	Ranges []string `json:"ranges"`
	// Ports that Services may serve on these addresses; none given: all. A node's own
	// address should be granted for the ports that are meant, or a Service could take
	// the API server's or the SSH daemon's.
	// +kubebuilder:validation:MaxItems=32
	// +optional
	// +listType=atomic
	Ports []GrantPort `json:"ports,omitempty"`
}

// NamespaceSelector is the part of a label selector that the admission policy can check:
// every label must be there with its value.
type NamespaceSelector struct {
	// MatchLabels is required, because the API server drops what is no field here: without
	// it a selector of matchExpressions alone would be stored as one of every namespace.
	// +kubebuilder:validation:MaxProperties=16
	// +required
	MatchLabels map[string]string `json:"matchLabels"`
}

// GrantPort is a port, or a range of ports, of one protocol.
//
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || self.endPort >= self.port",message="endPort must not be below port"
type GrantPort struct {
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	// +kubebuilder:default=TCP
	// +optional
	Protocol string `json:"protocol,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// EndPort makes it a range, both ends included.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	EndPort int32 `json:"endPort,omitempty"`
}

// ExternalIPPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type ExternalIPPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ExternalIPPolicy `json:"items"`
}
