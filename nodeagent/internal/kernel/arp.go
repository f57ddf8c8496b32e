// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxARPFrame is an Ethernet header, an ARP packet for IPv4 (RFC 826) and padding.
const maxARPFrame = 64

// ARPConn sends and receives whole Ethernet frames with ARP packets on one link.
type ARPConn struct{ *frames }

// OpenARP opens a packet socket on a link. The kernel hands over only requests and
// replies of ARP for IPv4 over Ethernet that are addressed to this host or to all,
// and none that this host sent itself.
func (k *Kernel) OpenARP(l Link) (*ARPConn, error) {
	f, err := openFrames(l, unix.ETH_P_ARP, arpFilter(l.Index))
	if err != nil {
		return nil, err
	}
	return &ARPConn{f}, nil
}

// Listen has nothing to do: who asks by ARP asks everybody.
func (c *ARPConn) Listen([]netip.Addr) error { return nil }

// arpFilter accepts ARP (hardware type 1, protocol 0x0800, lengths 6 and 4) requests
// and replies on the link of an index, except outgoing packets and packets for other
// hosts, which a socket sees while the link is promiscuous.
func arpFilter(index int) []bpf.Instruction {
	const reject = 15
	return []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: skipTo(reject, 1)},
		/* 2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: skipTo(reject, 2)},
		/* 3 */ bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		/* 4 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ifindex(index), SkipTrue: skipTo(reject, 4)},
		/* 5 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/* 6 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: skipTo(reject, 6)},
		/* 7 */ bpf.LoadAbsolute{Off: 14, Size: 4},
		/* 8 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x00010800, SkipTrue: skipTo(reject, 8)},
		/* 9 */ bpf.LoadAbsolute{Off: 18, Size: 2},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0604, SkipTrue: skipTo(reject, 10)},
		/* 11 */ bpf.LoadAbsolute{Off: 20, Size: 2},
		/* 12 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 1},
		/* 13 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: skipTo(reject, 13)},
		/* 14 */ bpf.RetConstant{Val: maxARPFrame},
		/* 15 */ bpf.RetConstant{Val: 0},
	}
}
