// SPDX-License-Identifier: Apache-2.0

// Package convert turns Kubernetes and fairlead.dev objects into domain values, once,
// at the edge. It validates and reports what it cannot understand; it never changes
// its input, asks no server and decides nothing. The controller and the node agents
// call it from their informers' side.
package convert
