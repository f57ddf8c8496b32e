// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxNDPFrame is an Ethernet frame: solicitations may carry options of any length.
const maxNDPFrame = 1518

// NDPConn sends and receives whole Ethernet frames with Neighbor, or Router, Solicitations
// and Advertisements on one link. Only one goroutine may call Listen and Close.
type NDPConn struct {
	*frames
	groups memberships
}

// OpenNDP opens a packet socket on a link. The kernel hands over only solicitations and
// advertisements that no router has passed on (hop limit 255) and that are addressed to
// this host or to a group that it is in, and none that this host sent itself. It fails
// where IPv6 is disabled.
func (k *Kernel) OpenNDP(l Link) (*NDPConn, error) {
	// A group of no address that is announced: the proof that groups can be joined.
	return openNDP(l, neighborSolicitation, SolicitedNode(netip.IPv6Unspecified()))
}

// OpenRouters is [Kernel.OpenNDP] for Router Solicitations and Advertisements: of all that
// routers and who looks for them say to everybody.
func (k *Kernel) OpenRouters(l Link) (*NDPConn, error) {
	return openNDP(l, routerSolicitation, netip.IPv6LinkLocalAllRouters())
}

func openNDP(l Link, solicitation uint32, group netip.Addr) (*NDPConn, error) {
	f, err := openFrames(l, unix.ETH_P_IPV6, ndpFilter(l.Index, solicitation))
	if err != nil {
		return nil, err
	}
	c := &NDPConn{frames: f, groups: memberships{link: l, in: make(map[netip.Addr]int)}}
	if err := c.groups.set([]netip.Addr{group}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Listen joins the groups in which neighbours ask for addresses, and leaves all others.
// The kernel reports them to switches and routers (MLD), and lets their frames in.
func (c *NDPConn) Listen(addrs []netip.Addr) error {
	groups := []netip.Addr{SolicitedNode(netip.IPv6Unspecified())}
	for _, a := range addrs {
		groups = append(groups, SolicitedNode(a))
	}
	return c.groups.set(groups)
}

// Close leaves all groups and ends a pending ReadFrame.
func (c *NDPConn) Close() error { return errors.Join(c.groups.close(), c.frames.Close()) }

// SolicitedNode is the group in which neighbours ask for an address (RFC 4291 §2.7.1).
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// memberships of multicast groups on one link. A socket can be in a limited number, by
// the memory of its options (net.core.optmem_max): when one is full the next is opened.
type memberships struct {
	link    Link
	sockets []int
	in      map[netip.Addr]int // the socket by group
}

// set makes the memberships those of groups, which may be named twice.
func (m *memberships) set(groups []netip.Addr) error {
	want := make(map[netip.Addr]struct{}, len(groups))
	for _, g := range groups {
		want[g] = struct{}{}
	}
	for g, fd := range m.in {
		if _, ok := want[g]; ok {
			continue
		}
		if err := m.option(fd, unix.IPV6_LEAVE_GROUP, g); err != nil {
			return fmt.Errorf("leave group %s on %s: %w", g, m.link.Name, err)
		}
		delete(m.in, g)
	}
	for g := range want {
		if _, ok := m.in[g]; ok {
			continue
		}
		fd, err := m.join(g)
		if err != nil {
			return fmt.Errorf("join group %s on %s: %w", g, m.link.Name, err)
		}
		m.in[g] = fd
	}
	return nil
}

// join joins a group by the first socket that has room, the newest first.
func (m *memberships) join(g netip.Addr) (int, error) {
	for _, fd := range slices.Backward(m.sockets) {
		err := m.option(fd, unix.IPV6_JOIN_GROUP, g)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
			return 0, err
		}
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	if err := m.option(fd, unix.IPV6_JOIN_GROUP, g); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	m.sockets = append(m.sockets, fd)
	return fd, nil
}

func (m *memberships) option(fd, option int, g netip.Addr) error {
	r := &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: uint32(m.link.Index)} //nolint:gosec // an index
	err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, option, r)
	if option == unix.IPV6_LEAVE_GROUP && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		return nil // The link is gone, and the membership with it.
	}
	return err //nolint:wrapcheck // the caller says what failed
}

func (m *memberships) close() error {
	var errs []error
	for _, fd := range m.sockets {
		errs = append(errs, unix.Close(fd))
	}
	m.sockets, m.in = nil, nil
	return errors.Join(errs...)
}

// Types of ICMPv6 (RFC 4861 §4). The advertisement is the next number each.
const (
	routerSolicitation   = 133
	neighborSolicitation = 135
)

// ndpFilter accepts ICMPv6 right behind the IPv6 header, with hop limit 255, the type of a
// solicitation or its advertisement and code 0, on the link of an index, except outgoing
// packets and packets for other hosts.
func ndpFilter(index int, solicitation uint32) []bpf.Instruction {
	const reject = 13
	return []bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: skipTo(reject, 1)},
		/* 2 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: skipTo(reject, 2)},
		/* 3 */ bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		/* 4 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ifindex(index), SkipTrue: skipTo(reject, 4)},
		/* 5 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/* 6 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: skipTo(reject, 6)},
		/* 7 */ bpf.LoadAbsolute{Off: 20, Size: 2},
		/* 8 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 58<<8 | 255, SkipTrue: skipTo(reject, 8)},
		/* 9 */ bpf.LoadAbsolute{Off: 54, Size: 2},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: solicitation << 8, SkipTrue: 1},
		/* 11 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: (solicitation + 1) << 8, SkipTrue: skipTo(reject, 11)},
		/* 12 */ bpf.RetConstant{Val: maxNDPFrame},
		/* 13 */ bpf.RetConstant{Val: 0},
	}
}
