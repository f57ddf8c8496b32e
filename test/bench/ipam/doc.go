// SPDX-License-Identifier: Apache-2.0

// Package ipam measures address allocation: the pure allocator and the store's start by
// their own Go benchmarks, and Services from apply to status on a control plane without
// nodes, with the controller as the shipped manifests run it.
//
// It owns the load, the counting and the comparison with what was promised. It measures
// from outside only: the API server's audit log, a watch of the Services, and the
// processor time and memory that the kernel shows of the controller's process.
// test/bench calls it and writes the result file.
package ipam
