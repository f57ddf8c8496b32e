// SPDX-License-Identifier: Apache-2.0

// Package unnumbered finds the router on a link that no address is configured for, and lets
// itself be found: both sides send router advertisements (RFC 4861), from whose source, a
// link-local address, the other learns whom to speak BGP with. Ours make this node nobody's
// default router. It owns the packet sockets of those links; it must not touch addresses and
// routes, and knows nothing of BGP. The BGP speaker asks it.
package unnumbered
