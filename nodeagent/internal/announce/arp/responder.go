// SPDX-License-Identifier: Apache-2.0

package arp

import (
	"context"
	"net/netip"
	"sync"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// responder answers on one link.
type responder struct {
	a    *Announcer
	link kernel.Link
	conn Conn
	done chan struct{}
	once sync.Once
}

// stop ends run; it may be called more than once.
func (c *responder) stop() {
	c.once.Do(func() {
		close(c.done)
		// The connection is given up: there is nothing to do about an error.
		_ = c.conn.Close()
	})
}

// run reads and answers until the connection fails or is stopped.
func (c *responder) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	buf := make([]byte, 128)
	for {
		n, err := c.conn.ReadFrame(buf)
		if err != nil {
			select {
			case <-c.done:
			default:
				logger.V(2).Info("ARP connection failed", "interface", c.link.Name, "cause", err.Error())
			}
			return
		}
		p, err := parse(buf[:n])
		if err != nil || p.sender == c.link.MAC {
			continue
		}
		c.handle(ctx, p)
	}
}

func (c *responder) handle(ctx context.Context, p packet) {
	if c.a.announces(c.link.Name, p.senderIP) {
		c.a.count.Conflict()
		klog.FromContext(ctx).V(2).Info("Another host claims an address that this node announces",
			"address", p.senderIP, "mac", p.sender.String(), "interface", c.link.Name)
	}
	if !p.request || !c.a.announces(c.link.Name, p.targetIP) || p.senderIP == p.targetIP {
		return
	}
	c.a.count.Request()
	if err := c.send(reply(p, c.link.MAC)); err != nil {
		klog.FromContext(ctx).V(2).Info("Cannot answer ARP", "address", p.targetIP, "cause", err.Error())
		return
	}
	c.a.count.Reply()
}

// announce sends both gratuitous forms for an address.
func (c *responder) announce(ctx context.Context, addr netip.Addr) {
	for _, p := range gratuitous(addr, c.link.MAC) {
		if err := c.send(p); err != nil {
			klog.FromContext(ctx).V(2).Info("Cannot send gratuitous ARP", "address", addr, "cause", err.Error())
			return
		}
		c.a.count.Gratuitous()
	}
}

func (c *responder) send(p packet) error {
	b, err := marshal(p)
	if err != nil {
		return err
	}
	return c.conn.WriteFrame(b, p.frameDest)
}
