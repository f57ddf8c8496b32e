// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"maps"
	"net/netip"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// maxQuestions is how many questions may wait for a link's writer. They are one frame
// each; a link that does not take this many has a full queue of its own.
const maxQuestions = 256

// Heard is told of every frame that says that an address is at a link-layer address: the
// sender of an ARP request or reply, the source of a solicitation, the target of an
// advertisement. Frames that this link sent itself are left out. It is called from the
// goroutine that answers on the link: it must be quick and must not block.
type Heard func(link string, addr netip.Addr, from kernel.MAC)

// Ask asks once who has target, and does not wait for the answer, which comes to heard.
// A valid and specified source is the address that asks; without one the question is a
// probe: of RFC 5227 §2.1.1 (sender 0.0.0.0) or of duplicate address detection (RFC 4862
// §5.4.2, source ::). to is the host to ask; the zero MAC asks all: by broadcast, or in the
// target's solicited-node group. Questions do not count against the bound on unsolicited
// frames: who asks has to bound them. Ask never blocks and may be called from any
// goroutine; it says whether the question is on its way, which it is not where the link
// has no connection, the target is of another family, or the link does not keep up.
func (a *Announcer) Ask(link string, target, source netip.Addr, to kernel.MAC) bool {
	if !a.protocol.Serves(target) {
		return false
	}
	c := a.connection(link)
	if c == nil {
		return false
	}
	select {
	case c.questions <- a.protocol.Question(target, source, c.link.MAC, to):
		return true
	default:
		return false
	}
}

// probing is a set of addresses by link.
type probing map[plan.Announcement]struct{}

// Probe says which addresses are being probed, instead of those before, so that the probes
// of others are heard too (RFC 4862 §5.4.2 has the groups joined first). It asks nothing.
func (a *Announcer) Probe(addrs map[plan.Announcement]struct{}) {
	p := make(probing, len(addrs))
	for k := range addrs {
		if a.protocol.Serves(k.Addr) {
			p[k] = struct{}{}
		}
	}
	if maps.Equal(p, *a.probing.Load()) {
		return
	}
	a.probing.Store(&p)
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// HearProbes has f told of every frame by which a host asks for an address that it means
// to take; see [Heard]. It must be called before Run.
func (a *Announcer) HearProbes(f Heard) { a.probed = f }

// Answers says whether a request for an address that arrives on a link now is answered:
// it is announced there, and there is a connection that listens for it.
func (a *Announcer) Answers(link string, addr netip.Addr) bool {
	if !a.announces(link, addr) {
		return false
	}
	c := a.connection(link)
	if c == nil {
		return false
	}
	l := c.listens.Load()
	if l == nil {
		return false
	}
	_, ok := (*l.table)[plan.Announcement{Interface: link, Addr: addr}]
	return ok
}

// connection is that of a link, nil if there is none.
func (a *Announcer) connection(link string) *responder {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open[link]
}

// speak sends questions until the connection is stopped. It is a goroutine of its own,
// because a write waits while the link's queue is full.
func (c *responder) speak(ctx context.Context) {
	for {
		select {
		case <-c.done:
			return
		case f := <-c.questions:
			if err := c.conn.WriteFrame(f.Bytes, f.To); err != nil {
				klog.FromContext(ctx).V(2).Info("Cannot ask", "interface", c.link.Name, "protocol", c.a.protocol.Name(), "cause", err.Error())
			}
		}
	}
}
