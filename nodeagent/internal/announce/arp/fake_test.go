// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package arp

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// wire is a fake link: tests put frames in and read what was sent.
type wire struct {
	mu     sync.Mutex
	sent   []sent
	in     chan []byte
	closed chan struct{}
	once   sync.Once
}

type sent struct {
	at time.Time
	p  packet
	to kernel.MAC
}

var (
	errClosed = errors.New("closed")
	errNoARP  = errors.New("no ARP packet")
)

func newWire() *wire { return &wire{in: make(chan []byte), closed: make(chan struct{})} }

func (w *wire) ReadFrame(b []byte) (int, error) {
	select {
	case f := <-w.in:
		return copy(b, f), nil
	case <-w.closed:
		return 0, errClosed
	}
}

func (w *wire) WriteFrame(b []byte, to kernel.MAC) error {
	p, ok := parse(b)
	if !ok {
		return errNoARP
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, sent{time.Now(), p, to})
	return nil
}

func (w *wire) Listen([]netip.Addr) error { return nil }

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

func (w *wire) frames() []sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.sent
	w.sent = nil
	return out
}
