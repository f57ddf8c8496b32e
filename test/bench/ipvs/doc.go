// SPDX-License-Identifier: Apache-2.0

// Package ipvs measures the data plane on a kernel with ip_vs, here or in the project's
// small virtual machine: what it costs to program many virtual servers and to change one
// endpoint, against kube-proxy in its mode ipvs, and what clients get through a Service's
// address, against kube-proxy's node ports in its modes iptables and nftables; everything
// in the same kernel and run. It owns the scenarios and the report; the world of the second
// part is package dataplane's. The command bench calls it, outside and inside the machine.
package ipvs
