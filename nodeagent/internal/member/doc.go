// SPDX-License-Identifier: Apache-2.0

// Package member is the node agents' view of each other: who is alive, and what each
// says of itself (intent, interfaces, claims with their epochs). It wraps
// hashicorp/memberlist, always encrypted, tuned to notice a silent death in about a
// second. It detects and carries; it must not decide who owns anything, because
// gossip has no quorum: both sides of a partition hold the other for dead.
//
// The owner loop publishes this node's state and reads immutable [View]s.
package member
