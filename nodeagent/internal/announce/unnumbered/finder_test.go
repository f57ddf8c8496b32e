// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package unnumbered

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// wire is a link with one router on it, which answers when it is asked. It is Links, Open's
// answer, and steered by tests.
type wire struct {
	mu     sync.Mutex
	link   kernel.Link
	down   error
	refuse error
	router netip.Addr // not valid: there is none
	opens  int
	frames chan []byte
	closed chan struct{}
}

func newWire() *wire {
	return &wire{link: kernel.Link{Name: "eth1", Index: 7, MAC: kernel.MAC{2, 0, 0, 0, 0, 7}}, router: netip.MustParseAddr("fe80::1")}
}

func (w *wire) LinkLocal(string) (kernel.Link, netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.link, netip.MustParseAddr("fe80::7%eth1"), w.down
}

func (w *wire) open(kernel.Link) (Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return nil, w.refuse
	}
	w.opens++
	w.frames, w.closed = make(chan []byte, 16), make(chan struct{})
	return &wireConn{w, w.frames, w.closed}, nil
}

type wireConn struct {
	w      *wire
	frames chan []byte
	closed chan struct{}
}

func (c *wireConn) ReadFrame(b []byte) (int, error) {
	select {
	case f := <-c.frames:
		return copy(b, f), nil
	case <-c.closed:
		return 0, errors.New("closed")
	}
}

func (c *wireConn) WriteFrame(b []byte, _ kernel.MAC) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if m, ok := ndp.ParseRouter(b); ok && !m.Advertisement && c.w.router.IsValid() {
		c.frames <- routerSays(c.w.router)
	}
	return nil
}

func (c *wireConn) Close() error {
	close(c.closed)
	return nil
}

// routerSays is an advertisement with lifetime 0, as ours are.
func routerSays(from netip.Addr) []byte {
	return ndp.AdvertiseRouter(kernel.MAC{2, 0, 0, 0, 0, 1}, from)
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func TestFinder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		f := New(Options{Links: w, Open: w.open})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		after := func(d time.Duration, router, why string) {
			t.Helper()
			time.Sleep(d) //nolint:forbidigo // a bubble's clock
			synctest.Wait()
			r, own, several, is := f.Found("eth1")
			got := ""
			if r.IsValid() {
				got = r.String()
				if own.String() != "fe80::7%eth1" {
					t.Errorf("we are %s", own)
				}
			}
			if got != router || is != why || several {
				t.Errorf("found %q, %t, %q; want %q, %q", got, several, is, router, why)
			}
		}
		after(0, "", "looks for a router on eth1")
		w.set(func() { w.refuse = errors.New("not permitted") })
		f.Seek([]string{"eth1"})
		after(look/2, "", "look for a router on eth1: not permitted")
		w.set(func() { w.refuse = nil })
		drain(f.Changed())
		after(look, "fe80::1%eth1", "")
		if !drain(f.Changed()) {
			t.Error("nobody is told")
		}
		f.Seek([]string{"eth1"}) // as each plan does
		after(time.Hour, "fe80::1%eth1", "")
		w.set(func() { w.down = errors.New("link eth1 is down") })
		after(look, "", "link eth1 is down")
		w.set(func() { w.down = nil })
		after(look, "fe80::1%eth1", "")
		// The link was made anew.
		w.set(func() { w.link.Index++ })
		after(look, "", "link eth1 has changed")
		after(look, "fe80::1%eth1", "")
		if w.opens != 3 {
			t.Errorf("opened %d times", w.opens)
		}
		w.set(func() { w.router = netip.Addr{} })
		after(keepZero, "", "router fe80::1 on eth1 is gone: it has not advertised itself for 1m30s")
		f.Seek(nil)
		after(0, "", "looks for a router on eth1")
		f.Seek([]string{"eth1"})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func drain(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
