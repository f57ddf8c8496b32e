// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer is the domain: comparable values that the controller and the
// node agents share, and the errors they tell apart. It imports nothing of ours, no
// clients and no kernel. Its sub-packages decide (pool, placement, plan) or convert
// (convert, api); they are pure, so that every decision can be replayed in a test.
package loadbalancer
