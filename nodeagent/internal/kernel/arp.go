// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxARPFrame is an Ethernet header, an ARP packet for IPv4 (RFC 826) and padding.
const maxARPFrame = 64

// ARPConn sends and receives whole Ethernet frames with ARP packets on one link.
type ARPConn struct {
	conn *packet.Conn
}

// OpenARP opens a packet socket on a link. The kernel hands over only requests and
// replies of ARP for IPv4 over Ethernet that are addressed to this host or to all,
// and none that this host sent itself.
func (k *Kernel) OpenARP(l Link) (*ARPConn, error) {
	filter, err := bpf.Assemble(arpFilter())
	if err != nil {
		return nil, fmt.Errorf("assemble ARP filter: %w", err)
	}
	ifi := &net.Interface{Index: l.Index, Name: l.Name, HardwareAddr: l.MAC[:]}
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", l.Name, err)
	}
	return &ARPConn{conn: conn}, nil
}

// arpFilter accepts ARP (hardware type 1, protocol 0x0800, lengths 6 and 4) requests
// and replies, except outgoing packets and packets for other hosts, which a socket
// sees while the link is promiscuous.
func arpFilter() []bpf.Instruction {
	const reject = 13
	skip := func(at int) uint8 { return uint8(reject - at - 1) } //nolint:gosec // at is below reject
	return []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: skip(1)},
		/* 2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: skip(2)},
		/* 3 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/* 4 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: skip(4)},
		/* 5 */ bpf.LoadAbsolute{Off: 14, Size: 4},
		/* 6 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x00010800, SkipTrue: skip(6)},
		/* 7 */ bpf.LoadAbsolute{Off: 18, Size: 2},
		/* 8 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0604, SkipTrue: skip(8)},
		/* 9 */ bpf.LoadAbsolute{Off: 20, Size: 2},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 1},
		/* 11 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: skip(11)},
		/* 12 */ bpf.RetConstant{Val: maxARPFrame},
		/* 13 */ bpf.RetConstant{Val: 0},
	}
}

// ReadFrame reads one frame. It fails when the connection is closed or the link gone.
func (c *ARPConn) ReadFrame(b []byte) (int, error) {
	for {
		n, _, err := c.conn.ReadFrom(b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read ARP frame: %w", err)
		}
		return n, nil
	}
}

// WriteFrame sends one frame as it is.
func (c *ARPConn) WriteFrame(b []byte, to MAC) error {
	if _, err := c.conn.WriteTo(b, &packet.Addr{HardwareAddr: to[:]}); err != nil {
		return fmt.Errorf("write ARP frame: %w", err)
	}
	return nil
}

// Listen has nothing to do: who asks by ARP asks everybody.
func (c *ARPConn) Listen([]netip.Addr) error { return nil }

// Close ends the connection and a pending [ARPConn.ReadFrame].
func (c *ARPConn) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close packet socket: %w", err)
	}
	return nil
}
