// SPDX-License-Identifier: Apache-2.0

// Package plane runs a Kubernetes control plane alone: etcd, kube-apiserver and
// kube-controller-manager from the lab's cache of binaries, on loopback ports of this
// machine, without a node and without root. Fairlead's custom resources, permissions and
// admission policies are installed; its controllers run as processes that a caller
// starts with the arguments of the shipped manifests, one or several at a time.
//
// It owns the start, the disturbance (restart of etcd, pause of the API server) and the
// end of those processes. It must hold no expectation about behaviour: those belong to
// its callers, the soak and the benchmark of address allocation. Whatever needs nodes,
// packets or announcement belongs to the lab instead.
package plane
