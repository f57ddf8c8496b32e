// SPDX-License-Identifier: Apache-2.0

// Package announcement keeps up, beside each claim and record, what nodes need in order
// to announce and what people need in order to understand: the ordered successors of a
// claim, the advertisements of a record, the record's conditions and its copy of the
// owner, events on the Service, the condition of each L2Advertisement and
// BGPAdvertisement, and the status of each BGPPeer.
//
// It owns the field manager "fairlead-announcement": IPClaim.spec.successors,
// LoadBalancer.spec.advertisements and .status, the status of L2Advertisements,
// BGPAdvertisements and BGPPeers, all written by server-side apply and on change only. It never allocates, never creates or deletes an
// object, and never decides who announces: it proposes, agents decide.
//
// All claims of a group have one list: the nodes that can announce each of its addresses
// as each Service that has it wants it, by the rule that agents follow (loadbalancer/plan).
// BGP has no owner and no successors: every node that may tells its peers, and a record
// that only BGP announces is Announced as soon as one of them has somebody to tell.
//
// The provider constructs one [Controller] per process; the leader runs it. Allocation
// calls [Controller.Propose], [Controller.AllocationFailed] and
// [Controller.AllocationSucceeded] from any goroutine.
package announcement
