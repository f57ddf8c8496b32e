// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer has room for some ten thousand frames.
	receiveBuffer = 16 << 20
	// wakeup is how often a reader looks whether it should end.
	wakeup = 50 * time.Millisecond
)

// socket is a packet socket on eth0 of a namespace for ARP and neighbour discovery.
// Frames are stamped by the kernel when they arrive, not when this process gets to them.
type socket struct{ fd int }

// wanted lets ARP and ICMPv6 types 135 and 136 through.
func wanted() ([]bpf.RawInstruction, error) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherARP, SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 58, SkipTrue: 4},
		bpf.LoadAbsolute{Off: etherLen + 40, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: solicitation, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: advertisement, SkipTrue: 1},
		bpf.RetConstant{Val: 512},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	return raw, nil
}

// openSocket opens one in a namespace. With hear false it only sends.
func openSocket(ns *namespace, hear bool) (*socket, error) {
	s := &socket{fd: -1}
	index := 0
	err := ns.links(func(h *netlink.Handle) error {
		l, err := h.LinkByName(eth0)
		if err == nil {
			index = l.Attrs().Index
		}
		return err
	})
	if err == nil {
		err = ns.do(func() (err error) {
			s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			return err
		})
	}
	if err == nil {
		err = s.prepare(index, hear)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a packet socket: %w", err), s.close())
	}
	return s, nil
}

func (s *socket) prepare(index int, hear bool) error {
	proto := uint16(0) // nothing is received
	if hear {
		proto = unix.ETH_P_ALL
		filter, err := wanted()
		if err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))} //nolint:gosec // the same layout
		timeout := unix.NsecToTimeval(wakeup.Nanoseconds())
		for _, err := range []error{
			unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog),
			unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		} {
			if err != nil {
				return fmt.Errorf("set an option: %w", err)
			}
		}
	}
	return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: index})
}

// send sends one frame, which may be malformed; a full queue is waited for.
func (s *socket) send(b []byte) error {
	for {
		_, err := unix.Write(s.fd, b)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			continue
		}
		return err
	}
}

// receive waits for a frame, at most for the wake-up time: n is 0 then.
func (s *socket) receive(b, oob []byte) (n int, at time.Time, err error) {
	n, control, _, _, err := unix.Recvmsg(s.fd, b, oob, 0)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
		return 0, at, nil
	case err != nil:
		return 0, at, fmt.Errorf("receive: %w", err)
	}
	// One control message is asked for: cmsghdr of 16 bytes, then a timespec of two words.
	if control >= 32 {
		return n, time.Unix(int64(binary.NativeEndian.Uint64(oob[16:])), int64(binary.NativeEndian.Uint64(oob[24:]))), nil //nolint:gosec // a time
	}
	return n, time.Now(), nil
}

// dropped returns how many frames the kernel dropped since the last call, for want of room.
func (s *socket) dropped() (int, error) {
	st, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read packet statistics: %w", err)
	}
	return int(st.Drops), nil
}

func (s *socket) close() error {
	if s.fd < 0 {
		return nil
	}
	return unix.Close(s.fd)
}
