// SPDX-License-Identifier: Apache-2.0

// Package bgp repeats with full counts what the e2e tests of BGP show once: power cuts, BFD
// that expires again and again, agents that restart and crash, drains, routers that restart,
// passwords that change, weights. It owns the counts, the limits and the report; the rig with
// its routers and the traffic are package test/bench/bgp/field. test/soak calls it.
package bgp
