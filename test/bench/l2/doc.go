// SPDX-License-Identifier: Apache-2.0

// Package l2 measures layer 2 on a rig (test/harness/rig): how long addresses are silent
// when their node dies, how quickly a thousand Services are announced, how quickly an
// agent answers ARP and NDP, and what the gossip costs and notices. It owns those
// measurements and how they are shown. It judges nothing: limits belong to its callers,
// test/bench and test/soak.
package l2
