// SPDX-License-Identifier: Apache-2.0

// Package claims ends the life of IPClaims: it collects those whose Service is gone or
// that no record uses, and deletes those being released once no node can still answer
// for the address.
//
// It owns the step from Bound to Releasing for orphans and every deletion of a claim
// that was in use. It never creates a claim, never moves one back to Bound, and writes
// by compare-and-swap only, so that it can never take an address from a Service that
// got it a moment ago. Allocation releases claims of Services deleted in the orderly
// way by itself.
//
// The provider constructs one [Controller] per process; the leader runs it.
package claims
