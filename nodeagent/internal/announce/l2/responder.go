// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// responder answers on one link.
type responder struct {
	a    *Announcer
	link kernel.Link
	conn Conn
	// listens is what the connection was told of last; only the runner writes it.
	listens atomic.Pointer[listening]
	// outbox is what to tell the neighbours; only the runner looks at it.
	outbox *outbox
	// questions are for speak to send.
	questions chan Frame
	done      chan struct{}
	once      sync.Once
	// reply is where answers are written; only run uses it.
	reply [maxReply]byte
}

// maxReply is the longest answer: an advertisement.
const maxReply = 128

// stop ends run; it may be called more than once.
func (c *responder) stop() {
	c.once.Do(func() {
		close(c.done)
		// The connection is given up: there is nothing to do about an error.
		_ = c.conn.Close()
	})
}

// maxFrame is the longest Ethernet frame that is read; longer ones are cut off.
const maxFrame = 1518

// run reads and answers until the connection fails or is stopped.
func (c *responder) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	buf := make([]byte, maxFrame)
	for {
		n, err := c.conn.ReadFrame(buf)
		if err != nil {
			select {
			case <-c.done:
			default:
				logger.V(2).Info("Connection failed", "interface", c.link.Name, "protocol", c.a.protocol.Name(), "cause", err.Error())
			}
			return
		}
		p, ok := c.a.protocol.Parse(buf[:n])
		if ok && p.From != c.link.MAC {
			c.handle(ctx, p)
		}
	}
}

func (c *responder) handle(ctx context.Context, p Packet) {
	if p.Claims.IsValid() {
		c.a.heard(c.link.Name, p.Claims, p.From)
	}
	if p.Wants.IsValid() {
		c.a.probed(c.link.Name, p.Wants, p.From)
	}
	if k, ok := c.a.claimed(c.link.Name, p.Claims); ok {
		c.a.count.Conflict()
		c.a.noteClaim(ctx, time.Now(), k, p.From)
	}
	if !c.a.announces(c.link.Name, p.Asks) {
		return
	}
	c.a.count.Request()
	reply := c.a.protocol.Reply(c.reply[:0], p, c.link.MAC)
	if err := c.conn.WriteFrame(reply.Bytes, reply.To); err != nil {
		klog.FromContext(ctx).V(2).Info("Cannot answer", "address", p.Asks, "protocol", c.a.protocol.Name(), "cause", err.Error())
		return
	}
	c.a.count.Reply()
}

// announce tells the neighbours of an address and returns the number of frames.
func (c *responder) announce(ctx context.Context, addr netip.Addr, step int) int {
	var err error
	frames := c.a.protocol.Announcement(addr, c.link.MAC, step)
	for _, f := range frames {
		if err == nil {
			err = c.conn.WriteFrame(f.Bytes, f.To)
		}
		if err == nil {
			c.a.count.Gratuitous()
		}
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Cannot tell the neighbours", "address", addr, "protocol", c.a.protocol.Name(), "cause", err.Error())
	}
	return max(len(frames), 1)
}
