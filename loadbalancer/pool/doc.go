// SPDX-License-Identifier: Apache-2.0

// Package pool decides which addresses a Service gets. It owns pools as values
// ([Set]), the book of what is taken ([Ledger]) and the decision ([Allocate]).
// It knows no client, no clock and no Kubernetes object: convert makes its inputs,
// the controller's store calls it under its lock and then writes the claims.
//
// # Order of choice
//
// Per IP family that the Service needs, in the order of its ipFamilies, the first
// rule that applies decides; nothing in it depends on history or chance:
//
//  1. An address asked for: that one or an error, never another.
//  2. An address that the Service holds already, unless it asks for another pool.
//  3. An address that the Service's status names, if a pool has it and it is free
//     (a cluster that comes from another load balancer, or from a backup).
//  4. A pool asked for: its lowest free address, whatever autoAssign says.
//  5. Pools with autoAssign whose serviceAllocation matches the Service: by priority
//     (lower first, 0 last), then by name; the lowest free address of the first
//     pool that has one.
//  6. Pools with autoAssign and without serviceAllocation, by name; the same.
//
// RequireDualStack needs both families, PreferDualStack takes what there is, one at
// least. The families of one Service may come from different pools.
package pool
