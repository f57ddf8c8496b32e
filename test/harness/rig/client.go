// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// burstInterval is how finely a rate of requests is spread.
const burstInterval = time.Millisecond

// quietTimeout bounds the wait for the end of all announcements.
const quietTimeout = 3 * time.Minute

// Client is a host on the bridge that asks, hears and counts by its own packet socket. Its
// kernel takes no part. Its methods may be called concurrently.
type Client struct {
	host host
	ns   *namespace
	sock *socket

	mu       sync.RWMutex
	hearers  map[int]func(Frame) // guarded by mu
	lastID   int                 // guarded by mu
	stopping atomic.Bool
	failed   error
	done     chan struct{}
}

func newClient(b *bridge) (*Client, error) {
	c := &Client{
		host:    host{mac: MAC{2, 0xfa, 0xff, 0, 0, 2}, ip4: client4.Addr(), ip6: client6.Addr()},
		hearers: map[int]func(Frame){}, done: make(chan struct{}),
	}
	var err error
	if c.ns, err = newNamespace(); err != nil {
		return nil, err
	}
	if err := b.plug(c.ns, "client", c.host.mac, client4, client6); err != nil {
		return nil, errors.Join(err, c.ns.close())
	}
	if c.sock, err = openSocket(c.ns, true); err != nil {
		return nil, errors.Join(err, c.ns.close())
	}
	go c.read()
	return c, nil
}

func (c *Client) read() {
	defer close(c.done)
	b, oob := make([]byte, 2048), make([]byte, 128)
	for !c.stopping.Load() {
		n, at, err := c.sock.receive(b, oob)
		if err != nil {
			c.failed = err
			return
		}
		f, ok := parseFrame(b[:n], at)
		if !ok {
			continue
		}
		c.mu.RLock()
		for _, hear := range c.hearers {
			hear(f)
		}
		c.mu.RUnlock()
	}
}

func (c *Client) close() error {
	c.stopping.Store(true)
	<-c.done
	return errors.Join(c.failed, c.sock.close(), c.ns.close())
}

// Hear calls f for every frame from the network that speaks of an address, one after the
// other, until the function that it returns is called. f must be fast and must not call
// Hear.
func (c *Client) Hear(f func(Frame)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	id := c.lastID
	c.hearers[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.hearers, id)
	}
}

// Dropped returns how many frames were lost since the last call because this process was
// too slow. A measurement in which there were some is worth little.
func (c *Client) Dropped() (int, error) { return c.sock.dropped() }

// MAC of the client.
func (c *Client) MAC() MAC { return c.host.mac }

// Ask sends one request for an address: to all, or to one host when to is not zero.
func (c *Client) Ask(addr netip.Addr, to MAC) error {
	if err := c.sock.send(c.host.ask(addr, to)); err != nil {
		return fmt.Errorf("ask for %s: %w", addr, err)
	}
	return nil
}

// Inject sends a frame as it is.
func (c *Client) Inject(frame []byte) error {
	if err := c.sock.send(frame); err != nil {
		return fmt.Errorf("send a frame: %w", err)
	}
	return nil
}

// Flood sends frames as they are, again and again, so many in a second, until ctx ends. It
// returns how many it sent.
func (c *Client) Flood(ctx context.Context, perSecond int, frames [][]byte) (sent int, err error) {
	err = c.pace(ctx, perSecond, time.Second, func(int) (bool, error) {
		err := c.Inject(frames[sent%len(frames)])
		sent++
		return true, err
	})
	return sent, err
}

// AskUntil asks for every address by broadcast, each every interval and evenly spread, until
// each was answered in a way that accept likes (nil: any), and returns the first such answer
// by address. At the end of ctx it returns what there is, without an error.
func (c *Client) AskUntil(ctx context.Context, addrs []netip.Addr, interval time.Duration, accept func(Frame) bool) (map[netip.Addr]Frame, error) {
	var mu sync.Mutex
	open := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		open[a] = struct{}{}
	}
	first := make(map[netip.Addr]Frame, len(addrs))
	defer c.Hear(func(f Frame) {
		if f.Kind != Answer || accept != nil && !accept(f) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if _, ok := open[f.Addr]; ok {
			delete(open, f.Addr)
			first[f.Addr] = f
		}
	})()
	err := c.pace(ctx, len(addrs), interval, func(i int) (bool, error) {
		mu.Lock()
		_, wanted := open[addrs[i]]
		left := len(open)
		mu.Unlock()
		if left == 0 || !wanted {
			return left > 0, nil
		}
		return true, c.Ask(addrs[i], MAC{})
	})
	mu.Lock()
	defer mu.Unlock()
	return first, err
}

// pace calls f for 0..n-1 once per interval, evenly spread, again and again until it says
// no or ctx ends. What comes late is made up for, at most one interval.
func (c *Client) pace(ctx context.Context, n int, interval time.Duration, f func(i int) (bool, error)) error {
	ticker := time.NewTicker(burstInterval)
	defer ticker.Stop()
	start := time.Now()
	for sent := 0; ; {
		due := int(time.Since(start)*time.Duration(n)/interval) + 1
		sent = max(sent, due-n)
		for ; sent < due; sent++ {
			if more, err := f(sent % n); err != nil || !more {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Scan asks for every address a few times and returns who answered, by address: more than
// one MAC means that two nodes answer for it. It takes a second, and longer for many.
func (c *Client) Scan(ctx context.Context, addrs []netip.Addr) (map[netip.Addr][]MAC, error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	var mu sync.Mutex
	out := make(map[netip.Addr][]MAC, len(addrs))
	defer c.Hear(func(f Frame) {
		mu.Lock()
		defer mu.Unlock()
		if f.Kind == Answer && !slices.Contains(out[f.Addr], f.MAC) {
			out[f.Addr] = append(out[f.Addr], f.MAC)
		}
	})()
	// Three rounds of at most ten thousand requests a second, and time for the last answer.
	interval := max(300*time.Millisecond, time.Duration(len(addrs))*100*time.Microsecond)
	asking, stop := context.WithTimeout(ctx, 3*interval)
	defer stop()
	if err := c.pace(asking, len(addrs), interval, func(i int) (bool, error) { return true, c.Ask(addrs[i], MAC{}) }); err != nil {
		return nil, err
	}
	if err := harness.Pause(ctx, 200*time.Millisecond); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	result := make(map[netip.Addr][]MAC, len(addrs))
	for _, a := range addrs {
		result[a] = slices.Clone(out[a])
	}
	return result, nil
}

// Announcements counts announcements.
type Announcements struct {
	mu sync.Mutex
	// by address and hardware address
	seen map[netip.Addr]map[MAC]Announced
	stop func()
}

// Announced is what one host announced of one address.
type Announced struct {
	First, Last time.Time
	Count       int
}

// CountAnnouncements begins to count.
func (c *Client) CountAnnouncements() *Announcements {
	a := &Announcements{seen: map[netip.Addr]map[MAC]Announced{}}
	a.stop = c.Hear(func(f Frame) {
		if f.Kind != Announcement {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		by := a.seen[f.Addr]
		if by == nil {
			by = map[MAC]Announced{}
			a.seen[f.Addr] = by
		}
		s := by[f.MAC]
		if s.Count == 0 {
			s.First = f.At
		}
		s.Last = f.At
		s.Count++
		by[f.MAC] = s
	})
	return a
}

// Stop ends the counting and returns what was counted.
func (a *Announcements) Stop() map[netip.Addr]map[MAC]Announced {
	a.stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// WaitQuiet waits until nobody has announced anything for so long. Agents that tell again
// every minute are never quiet with many addresses; --announce-interval=0 stops that.
func (c *Client) WaitQuiet(ctx context.Context, quiet time.Duration) error {
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	defer c.Hear(func(f Frame) {
		if f.Kind == Announcement {
			last.Store(f.At.UnixNano())
		}
	})()
	_, err := harness.Eventually(ctx, quietTimeout, func(context.Context) error {
		if since := time.Since(time.Unix(0, last.Load())); since < quiet {
			return fmt.Errorf("something was announced %s ago", since.Round(time.Millisecond))
		}
		return nil
	})
	return err
}

// Run runs a program in the client's namespace (ndisc6, ping, arping) and returns what it
// prints to both outputs.
func (c *Client) Run(ctx context.Context, program string, args ...string) (string, error) {
	var out bytes.Buffer
	err := c.ns.do(func() error {
		cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // a test's own command
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd.Run()
	})
	if err != nil {
		return out.String(), fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return out.String(), nil
}
