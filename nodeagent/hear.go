// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// hear is told of every frame on a link that says that addr is at from, by the goroutine
// that answers on the link: it must be quick and must not block.
func (a *Agent) hear(_ string, _ netip.Addr, _ kernel.MAC) {}
