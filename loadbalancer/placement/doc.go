// SPDX-License-Identifier: Apache-2.0

// Package placement decides which node announces an address group. It has two users:
// node agents elect the owner of a group ([Owner]), and the controller proposes the
// order of its successors. Both are pure functions of per-group inputs: no clocks, no
// load figures, no other groups in the fast path, so that every agent with the same
// view of one group comes to the same answer, however much else it has not heard yet.
//
// It must not read clocks, clients or kernels, and it keeps no state.
package placement
