// SPDX-License-Identifier: Apache-2.0

// Package kernel is the only place of the node agent that touches netlink and raw
// sockets: it lists links and default routes, tells when they change, and opens packet
// sockets for ARP and NDP. Everything it opens belongs to the network namespace of the thread
// that calls [New]; it changes nothing in the kernel, but for membership in the multicast
// groups by which neighbours ask for IPv6 addresses, and decides nothing.
// The owner loop lists and watches; the announcers open connections.
package kernel
