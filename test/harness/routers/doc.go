// SPDX-License-Identifier: Apache-2.0

// Package routers runs real BGP routers, BIRD and FRR, in network namespaces that others
// made, and reads what they know: their sessions, the paths of a prefix and what they put
// into their kernel. Tests of the BGP speaker assert on that, never on our own view.
//
// It owns the routers' processes and files: they die with the process that started them.
// It must hold no expectation about Fairlead; those belong to its callers, test/e2e/bgp,
// test/bench, test/soak and test/demo.
package routers
