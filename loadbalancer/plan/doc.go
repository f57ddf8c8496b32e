// SPDX-License-Identifier: Apache-2.0

// Package plan turns what a node agent knows ([Snapshot]) into what its node should do
// ([NodeState]). It is pure: no clock, no logger, no goroutine, no client; the same
// snapshot gives the same state on every run and, as far as owners go and but for what is
// local, what is forwarded, on every node. A [Memory] only makes it cheaper, most of all where the
// snapshot says what changed. The node agent's owner loop calls it after every change and
// applies the difference.
package plan
