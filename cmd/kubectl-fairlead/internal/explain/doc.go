// SPDX-License-Identifier: Apache-2.0

// Package explain answers "why this address?" and "why none?". It is pure: a state of
// the cluster in, a report out, the same for the same state. It chooses no address
// itself: it fills the allocator's own book (loadbalancer/pool) from claims as the
// controller does, and asks the allocator. The plugin's command `explain` calls it.
package explain
