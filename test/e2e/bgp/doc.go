// SPDX-License-Identifier: Apache-2.0

// Package bgp shows each behaviour of Fairlead's BGP once: real node agents of a rig speak
// with a real FRR (external) and real BIRDs (internal, and one that is configured by
// metallb.io's kinds), and every row asserts on what the routers say, on what they put into
// their kernel and on packets that a client behind FRR sends. Full counts belong to
// test/soak. It must not look into the product's packages beyond the API types.
package bgp
