// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Owner says which node announces an address.
type Owner struct {
	// Node is the Node's name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Epoch counts take-overs of the address group. The higher epoch wins; a tie
	// goes to the lower node name.
	// +kubebuilder:validation:Minimum=1
	Epoch int64 `json:"epoch"`
	// Since is when this node took the address over.
	Since metav1.Time `json:"since"`
}

// Port is one port of a Service as far as a load balancer cares.
type Port struct {
	// Name is the Service port's name, empty for a single unnamed port.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// Protocol is the IP protocol.
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	Protocol string `json:"protocol"`
	// Port is what clients connect to.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// NodePort is the Service's node port, 0 when none is allocated.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort,omitempty"`
}

// ServiceReference names one Service; the UID tells it from a namesake.
type ServiceReference struct {
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	UID types.UID `json:"uid"`
	// Ports are the ports that the Service holds on the address.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	Ports []Port `json:"ports,omitempty"`
	// Backends tells what traffic of this Service may reach on the announcing node, for
	// sharing: empty under externalTrafficPolicy Cluster (any node reaches any pod), a
	// digest of the Service's selector under Local. Sharers must agree on it, or one
	// node could not serve them all.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Backends string `json:"backends,omitempty"`
}

// Condition types.
const (
	// ConditionReady is the summary that `kubectl wait --for=condition=Ready` reads.
	ConditionReady = "Ready"
	// ConditionAllocated says whether a LoadBalancer has every address it asked for.
	ConditionAllocated = "Allocated"
	// ConditionAnnounced says whether a node announces the LoadBalancer's addresses.
	ConditionAnnounced = "Announced"
	// ConditionForwarded says whether IPVS forwards a LoadBalancer's addresses on every node that
	// runs a node agent: then, and only then, the status of its Service has ipMode Proxy.
	ConditionForwarded = "Forwarded"
	// ConditionConflict says that a pool has addresses that it never hands out, because a
	// node, a pod range or a Service range has them, or that an address of a LoadBalancer
	// is announced by a host outside the cluster too.
	ConditionConflict = "Conflict"
)
