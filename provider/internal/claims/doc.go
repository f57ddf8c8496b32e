// SPDX-License-Identifier: Apache-2.0

// Package claims ends the life of IPClaims: it takes Services off them that are gone,
// that Fairlead no longer serves or that no longer use the address; it retains, where
// that was asked for, or releases those that no Service is left on; it releases retained
// ones at their deadline; and it deletes those being released once no node can still
// answer for the address.
//
// It owns the steps from Bound to Retained and Releasing for orphans, from Retained to
// Releasing, and every deletion of a claim that was in use. It never creates a claim,
// never moves one back to Bound, and writes by compare-and-swap only, so that it can
// never take an address from a Service that got it a moment ago. Allocation ends claims
// of Services that leave in the orderly way by itself.
//
// The provider constructs one [Controller] per process; the leader runs it.
package claims
