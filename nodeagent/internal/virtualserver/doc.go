// SPDX-License-Identifier: Apache-2.0

// Package virtualserver makes the kernel's table of virtual servers what a plan says, and
// keeps it so. It owns the virtual servers whose address is on our link, whose mark is one of
// ours, or which the table of package guard lists; it adopts those that an earlier run left,
// lets real servers that go drain, and touches no virtual server of anybody else. It binds no
// address, announces nothing and decides nothing about who serves whom: that is
// loadbalancer/plan. The node agent's data plane calls it, from one goroutine.
package virtualserver
