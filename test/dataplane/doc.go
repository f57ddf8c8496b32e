// SPDX-License-Identifier: Apache-2.0

// Package dataplane shows on a real kernel what the node agent's data plane does to
// packets: who answers, and whose address a pod sees, beside a real kube-proxy in each of
// its modes. A control plane, Fairlead's controller, and nodes as network namespaces, each
// with kube-proxy and the real agent, come from package rig; pods are namespaces in which
// this process answers itself, and clients are hosts on the nodes' network.
//
// It owns that world, the rows of the matrix and what each must show ([Row], a pure model
// of the design's words, not of its code). It must not use the product's internals. Its
// tests carry the build tag ipvs, see package vm; the soak runs them with higher counts.
package dataplane
