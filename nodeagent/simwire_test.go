// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing/synctest"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// simWire is one link of one node.
type simWire struct {
	s       *sim
	from    loadbalancer.NodeName
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
	if addr, ok := probeFor(b); ok {
		w.s.mu.Lock()
		mac, has := w.s.foreign[addr]
		w.s.mu.Unlock()
		if has {
			w.put(claimFrame(addr, mac))
		}
	}
	if reply := w.s.kernelReply(w.from, b); reply != nil {
		w.put(reply)
		return nil
	}
	select {
	case w.out <- slices.Clone(b):
	default:
	}
	return nil
}

// put lets a frame arrive.
func (w *simWire) put(f []byte) {
	select {
	case w.in <- f:
	case <-w.closed:
	}
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
	sign(frame)
	return frame, func(f []byte) bool { return f[54] == 136 && f[0] == 2 }
}

// sign sets the checksum of an ICMPv6 frame.
func sign(frame []byte) {
	frame[56], frame[57] = 0, 0
	sum := uint32(len(frame)-54) + 58
	for i := 22; i < len(frame); i += 2 {
		sum += uint32(frame[i])<<8 + uint32(frame[i+1])
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	frame[56], frame[57] = byte(^sum>>8), byte(^sum)
}

// probeFor is the address that a frame asks for from no address.
func probeFor(f []byte) (netip.Addr, bool) {
	if f[12] == 8 && f[21] == 1 && [4]byte(f[28:32]) == [4]byte{} {
		return netip.AddrFrom4([4]byte(f[38:42])), true
	}
	if f[12] == 0x86 && f[54] == 135 && [16]byte(f[22:38]) == [16]byte{} {
		return netip.AddrFrom16([16]byte(f[62:78])), true
	}
	return netip.Addr{}, false
}

// claimFrame says that an address is at mac: an ARP reply, or an advertisement to all.
func claimFrame(addr netip.Addr, mac kernel.MAC) []byte {
	if addr.Is4() {
		a := addr.As4()
		f := append([]byte{255, 255, 255, 255, 255, 255}, mac[:]...)
		f = append(append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2), mac[:]...)
		f = append(append(append(f, a[:]...), mac[:]...), a[:]...)
		return append(f, make([]byte, 18)...)
	}
	a := addr.As16()
	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	f = append(append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255), a[:]...)
	f = append(f, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 136, 0, 0, 0, 0x20, 0, 0, 0)
	f = append(append(append(f, a[:]...), 2, 1), mac[:]...)
	sign(f)
	return f
}

// probeFrame is a host's question whether addr is free: an ARP probe, or a solicitation of
// duplicate address detection.
func probeFrame(addr netip.Addr, mac kernel.MAC) []byte {
	if addr.Is4() {
		f := claimFrame(addr, mac)
		f[21] = 1
		clear(f[28:38])
		return f
	}
	a := addr.As16()
	f := append([]byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}, mac[:]...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255)
	f = append(f, make([]byte, 16)...)
	f = append(f, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15], 135, 0, 0, 0, 0, 0, 0, 0)
	f = append(f, a[:]...)
	sign(f)
	return f
}

// hears lets a frame arrive on all of a node's links that speak its family.
func (n *simNode) hears(f []byte) {
	n.mu.Lock()
	wires := n.wires
	n.mu.Unlock()
	for _, w := range wires {
		if w.six == (f[12] == 0x86) {
			w.put(f)
		}
	}
	synctest.Wait()
}
