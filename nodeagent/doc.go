// SPDX-License-Identifier: Apache-2.0

// Package nodeagent is the Fairlead process on every node: it watches claims, records
// and nodes (intake), plans what this node announces (loadbalancer/plan), and applies
// the difference (announce/l2), while it gossips with its peers (member) and tells the
// API what it does (status).
//
// [Agent.Run] owns all goroutines. One of them, the owner loop, owns all state: others
// only mark it dirty or read immutable snapshots. The API server is needed to start and
// to learn of changes, never to go on: what is announced stays announced, and failover
// works without it. The package must not allocate addresses, write the specs of
// objects, or touch sockets and netlink outside internal/kernel and memberlist.
// cmd/fairlead-node-agent calls it.
package nodeagent
