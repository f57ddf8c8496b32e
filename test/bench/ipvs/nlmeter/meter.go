// SPDX-License-Identifier: Apache-2.0

// Package nlmeter counts what passes between programs and the kernel by netlink, in the
// network namespace of the thread that opens a meter: whoever the programs are. It counts in
// the kernel, by a monitor link and filters on it, so that what is measured is not slowed
// down by somebody who reads along. Benchmarks use it.
package nlmeter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Counts of datagrams from programs to the kernel. One holds one request, but for nftables
// and what is built on it, where one holds a transaction of any size.
type Counts struct {
	// Requests are all.
	Requests uint64
	// Generic are those of generic netlink, which has IPVS; Netfilter those of nftables, sets
	// and connection tracking. The rest is links, addresses and routes.
	Generic, Netfilter uint64
	// Bytes of all datagrams in both directions.
	Bytes uint64
}

// Sub returns what was counted since before.
func (c Counts) Sub(before Counts) Counts {
	return Counts{c.Requests - before.Requests, c.Generic - before.Generic, c.Netfilter - before.Netfilter, c.Bytes - before.Bytes}
}

const linkName = "nlmon-bench"

// Meter counts from its opening to its closing.
type Meter struct {
	link                    netlink.Link
	all, generic, netfilter int
	so                      Counts
}

// Open needs CAP_NET_ADMIN and CAP_NET_RAW, and a kernel with nlmon.
func Open() (*Meter, error) {
	m := &Meter{all: -1, generic: -1, netfilter: -1}
	if err := m.open(); err != nil {
		return nil, fmt.Errorf("count netlink messages: %w", errors.Join(err, m.Close()))
	}
	return m, nil
}

func (m *Meter) open() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName
	err := netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: attrs, LinkType: "nlmon"})
	if err != nil {
		return fmt.Errorf("make a monitor link: %w", err)
	}
	if m.link, err = netlink.LinkByName(linkName); err != nil {
		return fmt.Errorf("make a monitor link: %w", err)
	}
	if err := netlink.LinkSetUp(m.link); err != nil {
		return fmt.Errorf("set the monitor link up: %w", err)
	}
	if m.all, err = m.counter(-1); err != nil {
		return err
	}
	if m.generic, err = m.counter(unix.NETLINK_GENERIC); err != nil {
		return err
	}
	m.netfilter, err = m.counter(unix.NETLINK_NETFILTER)
	return err
}

// counter is a socket that is told of requests of one family, or with -1 of all. Nobody
// reads it: the kernel counts what it would have got.
func (m *Meter) counter(family int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	request := uint32(6) // the byte of nlmsg_flags that has NLM_F_REQUEST
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		request++
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: request},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.NLM_F_REQUEST, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	if family >= 0 {
		const skbProtocol = 0xfffff000 // SKF_AD_OFF + SKF_AD_PROTOCOL
		filter = []unix.SockFilter{
			filter[0],
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.NLM_F_REQUEST, Jf: 3},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skbProtocol},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(family), Jf: 1}, //nolint:gosec // a small number
			filter[2], filter[3],
		}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} //nolint:gosec // a few
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: m.link.Attrs().Index}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("count on the monitor link: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// Read returns what was counted since the meter was opened. Reading sends nothing that it
// counts.
func (m *Meter) Read() (Counts, error) {
	for fd, to := range map[int]*uint64{m.all: &m.so.Requests, m.generic: &m.so.Generic, m.netfilter: &m.so.Netfilter} {
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // which sets them to 0
		if err != nil {
			return m.so, fmt.Errorf("count netlink messages: %w", err)
		}
		*to += uint64(stats.Packets) // those that found no room included
	}
	b, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return m.so, fmt.Errorf("count netlink messages: %w", err)
	}
	if m.so.Bytes, err = bytesOf(string(b)); err != nil {
		return m.so, err
	}
	return m.so, nil
}

// Close stops counting.
func (m *Meter) Close() error {
	var errs []error
	for _, fd := range []int{m.all, m.generic, m.netfilter} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if m.link != nil {
		errs = append(errs, netlink.LinkDel(m.link))
	}
	return errors.Join(errs...)
}
