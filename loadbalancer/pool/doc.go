// SPDX-License-Identifier: Apache-2.0

// Package pool decides which addresses a Service gets. It owns pools as values
// ([Set]), the book of what is taken ([Ledger]) and the decision ([Allocate]).
// It knows no client, no clock and no Kubernetes object: convert makes its inputs,
// the controller's store calls it under its lock and then writes the claims.
//
// # Order of choice
//
// A Service needs Count addresses of each family of its ipFamilies. Per family, in
// their order, the rules below add addresses until there are enough; nothing in them
// depends on history, time or map order:
//
//  1. Addresses asked for: those or an error, never others ([RuleRequested]).
//  2. What the Service holds already, in the order of its record, unless it asks for
//     another pool or does not fit beside other tenants any more ([Fits]). Surplus is
//     given up from the end. A held address keeps the rule that it came by.
//  3. Addresses retained for a Service of its namespace and name, and those of a
//     namesake that is gone, alone or beside others that the Service goes with as well,
//     lowest first ([RuleRetained]).
//  4. Addresses that its status shows and that are free or can be joined: it had them
//     from another load balancer, or its claims were lost ([RuleShown]).
//  5. With a sharing key, addresses that it can join: the lowest first, in the pools
//     that rules 6 to 8 would use, in their order ([RuleShared]).
//  6. A pool asked for: its lowest free addresses, whatever autoAssign says ([RulePool]).
//  7. Pools with autoAssign whose serviceAllocation matches: by priority (lower first,
//     0 last), then by name; the lowest free ([RuleServiceAllocation]).
//  8. Pools with autoAssign and without serviceAllocation, by name ([RuleAutoAssign]).
//
// serviceAllocation restricts: asking by pool or address does not get a Service into a
// pool for others. A disabled pool is none of rules 5 to 8 and cannot be asked for;
// what is held, retained or shown (rules 2 to 4) stays possible. Excluded and avoided
// addresses, machines' own and those in younger ranges of pods and Services are never
// handed out; held ones stay.
//
// RequireDualStack needs both families; PreferDualStack takes what there is, one family
// in full at least. The families of one Service may come from different pools.
//
// # Cost
//
// Every pool has an index of its free addresses and counters ([Ledger]): allocating,
// holding and releasing take the same time whatever the size and the fill of a pool and
// however many pools are full, and no memory per free address.
package pool
