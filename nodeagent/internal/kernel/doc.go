// SPDX-License-Identifier: Apache-2.0

// Package kernel is the only place of the node agent that touches netlink and raw
// sockets: it lists links and default routes, tells when they change, and opens packet
// sockets for ARP. Everything it opens belongs to the network namespace of the thread
// that calls [New]; it changes nothing in the kernel and decides nothing.
// The owner loop lists and watches; the ARP announcer opens connections.
package kernel
