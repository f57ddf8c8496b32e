// SPDX-License-Identifier: Apache-2.0

// Package bgp measures what BGP costs and how long it leaves a hole: routes told to FRR and
// BIRD until they are in their kernels, the cost of one change among many, and the blackout
// after a node's power cut, with real agents of a rig (package field). It owns the figures
// and the report; it must not judge them. test/bench calls it.
package bgp
