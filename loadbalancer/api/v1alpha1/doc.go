// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the fairlead.dev/v1alpha1 API: the kinds that users write
// (IPAddressPool, L2Advertisement), the kinds that Fairlead writes (IPClaim,
// LoadBalancer, NodeAgent), and the Service annotations.
//
// It owns field names, validation markers and printer columns, nothing else: no
// clients, no defaults computed in code, no logic. CRDs in deploy/crds and the
// deepcopy functions are generated from it (make generate manifests). Fields are
// added and never changed: records are the contract between a controller and
// node agents of another minor version.
//
// +kubebuilder:object:generate=true
// +groupName=fairlead.dev
package v1alpha1
