// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SCTP is spoken by sockets of type stream, which the standard library reads and writes as
// TCP's once they are connected. Not every kernel has it; see [HasSCTP].
const SCTP Protocol = "SCTP"

// sctpBacklog is how many connections may wait to be accepted.
const sctpBacklog = 64

// HasSCTP returns nil if the kernel speaks SCTP.
func HasSCTP() error {
	fd, err := sctpSocket(netip.IPv4Unspecified())
	if err != nil {
		return err
	}
	return unix.Close(fd) //nolint:wrapcheck // was never used
}

func sctpSocket(like netip.Addr) (int, error) {
	family := unix.AF_INET
	if like.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, fmt.Errorf("open a socket of SCTP: %w", err)
	}
	return fd, nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
	}
	return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
}

// dialSCTP connects from the calling thread's network. The socket is bound to the one
// address that a packet to there has as its source: a client with several offers them all,
// and nothing that translates addresses knows of the others.
func dialSCTP(ctx context.Context, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	probe, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String())
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	source, err := netip.ParseAddrPort(probe.LocalAddr().String())
	if err := errors.Join(err, probe.Close()); err != nil {
		return nil, fmt.Errorf("find the way to %s: %w", to, err)
	}
	fd, err := sctpSocket(to.Addr())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close() // the connection has a descriptor of its own
	limit := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("limit the time to connect: %w", err)
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source.Addr(), 0))); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", source.Addr(), err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return c, nil
}

// ServeSCTP answers by SCTP as [Pod.Serve] does by TCP. A pod that does already goes on.
func (p *Pod) ServeSCTP() error {
	if p.sctp {
		return nil
	}
	p.sctp = true
	return p.Do(func() error {
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			l, err := listenSCTP(netip.AddrPortFrom(a, podPort))
			if err != nil {
				return fmt.Errorf("listen in pod %s: %w", p.Name, err)
			}
			p.mu.Lock()
			p.closers = append(p.closers, l)
			p.mu.Unlock()
			p.wg.Go(func() { p.accept(l) })
		}
		return nil
	})
}

// listenSCTP is called on a thread in the network where to listen.
func listenSCTP(at netip.AddrPort) (net.Listener, error) {
	fd, err := sctpSocket(at.Addr())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close() // the listener has a descriptor of its own
	if err := errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, sctpBacklog)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, err)
	}
	return net.FileListener(f) //nolint:wrapcheck // says what it is
}
