// SPDX-License-Identifier: Apache-2.0

// Package forwarding tests, on a real API server with the shipped permissions and
// policies and a real controller, who is said to forward for a Service: record, Forwarded
// condition and ipMode, while node agents, which the tests play, say what they say. It owns
// its own control plane; no packet is sent. It must not look into the controller.
package forwarding
