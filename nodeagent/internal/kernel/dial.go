// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCPDial is a connection to be made for a routing protocol. It is comparable.
type TCPDial struct {
	To netip.AddrPort
	// Source address, the kernel's choice if it is not valid.
	Source netip.Addr
	// Password of TCP-MD5 (RFC 2385), of at most 80 octets; "" for none.
	Password string
	// TTL of what is sent, 0 for the kernel's own; MinTTL of what is received (RFC 5082),
	// lower ones are dropped by the kernel.
	TTL, MinTTL uint8
}

// DialTCP makes a connection. Every option is set before the first packet is sent: a peer
// with a password, or one that checks TTLs, would not answer otherwise.
func DialTCP(ctx context.Context, d TCPDial) (net.Conn, error) {
	six := d.To.Addr().Is6() && !d.To.Addr().Is4In6()
	if zone := d.To.Addr().Zone(); zone != "" {
		// By number: net keeps names for a minute, in which a link may have been made anew.
		index, err := zoneIndex(zone)
		if err != nil {
			return nil, err
		}
		zone = strconv.FormatUint(uint64(index), 10)
		d.To = netip.AddrPortFrom(d.To.Addr().WithZone(zone), d.To.Port())
		if d.Source.IsLinkLocalUnicast() {
			d.Source = d.Source.WithZone(zone)
		}
	}
	network := "tcp4"
	if six {
		network = "tcp6"
	}
	dialer := net.Dialer{KeepAlive: -1, ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
		return control(raw, d.setter(six))
	}}
	if d.Source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Source, 0))
	}
	dialer.SetMultipathTCP(false) // it knows no MD5
	c, err := dialer.DialContext(ctx, network, d.To.String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (d *TCPDial) set(fd int, six bool) error {
	level, ttl, minimum := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
	if six {
		level, ttl, minimum = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	}
	if d.TTL != 0 {
		if err := unix.SetsockoptInt(fd, level, ttl, int(d.TTL)); err != nil {
			return fmt.Errorf("set the TTL: %w", err)
		}
	}
	if d.MinTTL != 0 {
		if err := unix.SetsockoptInt(fd, level, minimum, int(d.MinTTL)); err != nil {
			return fmt.Errorf("set the minimum TTL: %w", err)
		}
	}
	if d.Password == "" {
		return nil
	}
	sig, err := d.md5(six)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig); err != nil {
		return fmt.Errorf("set the password: %w", err)
	}
	return nil
}

// md5 fills in struct tcp_md5sig, whose address is a sockaddr_in or a sockaddr_in6.
func (d *TCPDial) md5(six bool) (*unix.TCPMD5Sig, error) {
	sig := &unix.TCPMD5Sig{Keylen: uint16(len(d.Password))} //nolint:gosec // checked below
	if len(d.Password) > len(sig.Key) {
		return nil, fmt.Errorf("password of %d octets: at most %d", len(d.Password), len(sig.Key))
	}
	copy(sig.Key[:], d.Password)
	a := d.To.Addr()
	if !six {
		sig.Addr.Family = unix.AF_INET
		b := a.Unmap().As4()
		copy(sig.Addr.Data[2:], b[:])
		return sig, nil
	}
	sig.Addr.Family = unix.AF_INET6
	b := a.As16()
	copy(sig.Addr.Data[6:], b[:])
	if zone := a.Zone(); zone != "" {
		index, err := zoneIndex(zone)
		if err != nil {
			return nil, err
		}
		binary.NativeEndian.PutUint32(sig.Addr.Data[22:], index)
	}
	return sig, nil
}

func zoneIndex(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", zone, err)
	}
	return uint32(link.Index), nil //nolint:gosec // an index
}
