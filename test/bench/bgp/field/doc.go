// SPDX-License-Identifier: Apache-2.0

// Package field is what benchmark and soak of BGP have in common: real node agents of a rig
// that speak with a real FRR and a real BIRD, a client behind FRR, and a pod that all nodes
// forward to. It owns the network around the agents, the traffic, and the waits; what is
// done to them and what is expected belongs to test/bench/bgp and test/soak/bgp. It must not
// look into the product's packages beyond the API types.
package field
