// SPDX-License-Identifier: Apache-2.0

// Package bgp tells routers routes. It owns this node's BGP sessions (RFC 4271), one BGP
// server per session, and nothing else: what is told to whom is the plan's decision, the
// kernel's routes are nobody's business here, and nothing that a peer tells is kept. Sessions
// begin here; a port is listened on for passive ones only, and only if that is allowed. The
// node agent calls it.
package bgp
