// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ClaimPhase is the life of a claim: Bound, then Retained where that was asked for (and
// Bound again when a Service of the same name comes back), then Releasing, then gone.
// +kubebuilder:validation:Enum=Bound;Releasing;Retained
type ClaimPhase string

const (
	// ClaimBound means that the Services named hold the address.
	ClaimBound ClaimPhase = "Bound"
	// ClaimReleasing means that nobody holds the address any more but a node may
	// still answer for it, so that it is not allocatable yet.
	ClaimReleasing ClaimPhase = "Releasing"
	// ClaimRetained means that nobody holds the address, that no node may answer for it,
	// and that it is kept for a Service of the namespace and name of one in services.
	ClaimRetained ClaimPhase = "Retained"
)

// IPClaim is the allocation of one address: creating it is the transaction, because
// its name is the address (IPv4 as it is; IPv6 as eight four-digit groups joined by
// "-"). Node agents act on an address only if its claim is Bound and names the
// Service's UID. The controller writes the spec, the owning agent the status.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=fairlead
// +kubebuilder:validation:XValidation:rule="ip(self.spec.address).family() == 4 ? self.metadata.name == self.spec.address : (self.metadata.name.matches('^([0-9a-f]{4}-){7}[0-9a-f]{4}$') && ip(self.metadata.name.replace('-', ':')) == ip(self.spec.address))",message="the name of an IPClaim is its address; IPv6 as eight four-digit groups joined by '-'"
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.services[0].namespace`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.services[*].name`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.spec.phase`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.owner.node`
// +kubebuilder:printcolumn:name="Epoch",type=integer,priority=1,JSONPath=`.status.owner.epoch`
// +kubebuilder:printcolumn:name="Sharing Key",type=string,priority=1,JSONPath=`.spec.sharingKey`
// +kubebuilder:printcolumn:name="Retained Until",type=string,priority=1,JSONPath=`.spec.retainUntil`
// +kubebuilder:printcolumn:name="Successors",type=string,priority=1,JSONPath=`.spec.successors`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPClaimSpec `json:"spec"`
	// +optional
	Status IPClaimStatus `json:"status,omitempty"`
}

// IPClaimSpec says who holds the address.
//
// +kubebuilder:validation:XValidation:rule="self.address == oldSelf.address",message="address is immutable"
// +kubebuilder:validation:XValidation:rule="self.phase != 'Retained' || has(self.retainUntil)",message="a Retained claim needs retainUntil: an address is not kept for ever"
type IPClaimSpec struct {
	// Address in canonical form (RFC 5952 for IPv6).
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip.isCanonical(self)",message="must be an IP address in canonical form"
	Address string `json:"address"`
	// Pool is the IPAddressPool that the address came from; absent for an address of
	// spec.externalIPs that lies in none.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pool string `json:"pool,omitempty"`
	// Group joins the claims that one node announces together (both families of a
	// Service, all Services that share an address): the lowest claim name among them.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=45
	Group string `json:"group"`
	// SharingKey is what Services must say to join this address; empty: nobody may.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SharingKey string `json:"sharingKey,omitempty"`
	// Services that hold the address; while Releasing or Retained, those that held it last.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=uid
	Services []ServiceReference `json:"services"`
	// Successors are the nodes that should announce the group, best first: the first
	// live and eligible one takes over when the owner is gone. All claims of a group
	// carry the same list. Written by the controller, a proposal, not an order.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=253
	// +optional
	// +listType=atomic
	Successors []string `json:"successors,omitempty"`
	// Phase of the claim.
	// +kubebuilder:default=Bound
	Phase ClaimPhase `json:"phase"`
	// ReleasingSince is when the claim became Releasing.
	// +optional
	ReleasingSince *metav1.Time `json:"releasingSince,omitempty"`
	// RetainFor is how long the address is kept for a namesake of its last Service once
	// that one has ended; absent: not at all. Written while Bound, so that it holds too
	// when the Service is gone before anybody could ask it.
	// +optional
	RetainFor *metav1.Duration `json:"retainFor,omitempty"`
	// RetainUntil is the deadline of a Retained claim.
	// +optional
	RetainUntil *metav1.Time `json:"retainUntil,omitempty"`
}

// IPClaimStatus is written by the owning node agent only.
type IPClaimStatus struct {
	// Owner is the node that announces the address, absent when none does.
	// +optional
	Owner *Owner `json:"owner,omitempty"`
}

// IPClaimList is a list of claims.
//
// +kubebuilder:object:root=true
type IPClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPClaim `json:"items"`
}
