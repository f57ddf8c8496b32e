// SPDX-License-Identifier: Apache-2.0

// Package vip keeps the addresses that this node forwards on the node's own dummy link, so
// that their packets are taken in locally, where IPVS sees them. It owns that link and what is
// on it, adopts what an earlier run left there, and binds no address that another link of the
// node has. It does not announce, and programs no virtual server. The node agent's data plane
// calls it, from one goroutine.
package vip
