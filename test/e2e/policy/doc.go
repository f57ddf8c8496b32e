// SPDX-License-Identifier: Apache-2.0

// Package policy shows what the API server refuses because of deploy/kustomize/base: every
// clause of every admission policy and of every CRD's rules, allowed and refused, and that
// the roles there are enough and no more. It starts an etcd and a kube-apiserver of its own
// on loopback ports, applies the base, and acts as other users by impersonation; no node
// and no controller runs. It must not look at how the product behaves once an object is
// accepted: that is what package e2e does on a whole cluster.
//
// The tests carry the build tag e2e: `make test-e2e` calls them. They need no root.
package policy
