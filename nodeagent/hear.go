// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// hear is told of every frame on a link that says that addr is at from, by the goroutine
// that answers on the link: it must be quick and must not block.
func (a *Agent) hear(link string, addr netip.Addr, from kernel.MAC) {
	a.pulse.Heard(link, addr)
	a.probes.heard(time.Now(), plan.Announcement{Interface: link, Addr: addr}, from)
}

// hearProbe is told of every frame on a link by which a host asks whether addr is free; it
// is called as hear is.
func (a *Agent) hearProbe(link string, addr netip.Addr, from kernel.MAC) {
	a.probes.heard(time.Now(), plan.Announcement{Interface: link, Addr: addr}, from)
}
