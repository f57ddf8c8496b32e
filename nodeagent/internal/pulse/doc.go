// SPDX-License-Identifier: Apache-2.0

// Package pulse tells by direct questions whether another node's kernel is alive: it asks
// by unicast ARP or Neighbor Solicitation for the node's own address, and a kernel answers
// in a fraction of a millisecond, however starved, stopped or absent the node's agent is.
// A few answers in a row that stay away, while another host on the same link answers, are
// a death, noticed several times sooner than by gossip and without taking a busy node for
// a dead one.
//
// [Machine] is the pure state machine, [Watcher] runs it on one goroutine and one timer. It
// sends nothing itself and decides nothing: whom to watch, and what follows from a death,
// is the owner loop's business, which calls it. Nothing runs while nobody is watched.
package pulse
