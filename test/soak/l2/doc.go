// SPDX-License-Identifier: Apache-2.0

// Package l2 disturbs a cluster that announces addresses by layer 2 and says what clients
// and the claims saw of it: power cuts, pulled cables, killed, frozen and starved agents,
// rolling updates, drains, partitions. It owns the disturbances and their measurement.
//
// It judges nothing: limits belong to its callers, test/soak with full counts and
// test/e2e with each disturbance once. It must leave the cluster as it found it.
package l2
