// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"sync"
	"testing/synctest"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// simWire is one link of one node.
type simWire struct {
	six     bool // it speaks NDP
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
}

func (w *simWire) ReadFrame(b []byte) (int, error) {
	select {
	case f := <-w.in:
		return copy(b, f), nil
	case <-w.closed:
		return 0, context.Canceled
	}
}

func (w *simWire) WriteFrame(b []byte, _ kernel.MAC) error {
	select {
	case w.out <- b:
	default:
	}
	return nil
}

func (w *simWire) Listen([]netip.Addr) error { return nil }

func (w *simWire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// ask asks for addr and says whether an answer came.
func (w *simWire) ask(addr netip.Addr) bool {
	if w.six != addr.Is6() {
		return false
	}
	for len(w.out) > 0 {
		<-w.out
	}
	f, answer := request(addr)
	select {
	case w.in <- f:
	case <-w.closed:
		return false
	}
	synctest.Wait()
	for len(w.out) > 0 {
		if answer(<-w.out) {
			return true
		}
	}
	return false
}

// request is an ARP request, or a solicitation by unicast (ff for the asker's MAC), and
// what tells an answer from what is sent unasked.
func request(addr netip.Addr) (frame []byte, answer func(f []byte) bool) {
	if addr.Is4() {
		a := addr.As4()
		frame = []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 255, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 255, 10, 0, 0, 99, 0, 0, 0, 0, 0, 0}
		frame = append(append(frame, a[:]...), make([]byte, 18)...)
		return frame, func(f []byte) bool { return f[21] == 2 && f[0] == 2 }
	}
	a := addr.As16()
	frame = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 255, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255, 0xfe, 0x80, 37: 99}
	frame = append(append(frame, a[:]...), 135, 0, 0, 0, 0, 0, 0, 0)
	frame = append(frame, a[:]...)
	sum := uint32(24 + 58)
	for i := 22; i < len(frame); i += 2 {
		sum += uint32(frame[i])<<8 + uint32(frame[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	frame[56], frame[57] = byte(sum>>8), byte(sum)
	return frame, func(f []byte) bool { return f[54] == 136 && f[0] == 2 }
}
