// SPDX-License-Identifier: Apache-2.0

// Package rig runs many real node agents on one machine without a lab: a control plane
// (package plane) with Fairlead's controller, and agents as processes, each in a network
// namespace of its own with an eth0 on one bridge. Nodes are objects made by hand; there
// is no kubelet, no container and no kube-proxy, so that fifty nodes fit where a lab has
// four. A client on the same bridge speaks ARP and NDP by raw sockets of its own.
//
// It owns the network, the processes and their end: namespaces have no name and live as
// long as this process holds them, so that nothing of them is left after a crash either.
// The machine's own network namespace is not touched. It must hold no expectation about
// behaviour: those belong to its callers, test/bench, test/soak and test/e2e.
package rig
