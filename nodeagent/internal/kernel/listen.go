// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCPListener is a socket that peers of a routing protocol connect to.
type TCPListener struct {
	listener *net.TCPListener
	six      bool
}

// ListenTCP listens on one address, and knows the password of a first peer before anybody
// can connect. Another program that listens there, or on that port of all addresses, is
// EADDRINUSE: SO_REUSEPORT, which would give each some of the connections, is not set.
// Connections are accepted with TTL 255, which peers that check TTLs want of the first
// answer already (RFC 5082 §3).
func ListenTCP(ctx context.Context, at netip.AddrPort, first TCPDial) (*TCPListener, error) {
	six := at.Addr().Is6()
	network := "tcp4"
	if six {
		network = "tcp6"
	}
	first.TTL, first.MinTTL = 255, 0
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error { return control(raw, first.setter(six)) }}
	lc.SetMultipathTCP(false) // it knows no MD5
	l, err := lc.Listen(ctx, network, at.String())
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: got a %T", at, l), l.Close())
	}
	return &TCPListener{listener: tcp, six: six}, nil
}

// SetPassword has the kernel drop what a peer sends without the password (RFC 2385). The
// empty one has it drop nothing, and is no error where there was none.
func (l *TCPListener) SetPassword(peer netip.Addr, password string) error {
	d := TCPDial{To: netip.AddrPortFrom(peer, 0), Password: password}
	raw, err := l.listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	return control(raw, func(fd int) error {
		sig, err := d.md5(l.six)
		if err != nil {
			return err
		}
		err = unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
		if err != nil && (password != "" || !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("set the password: %w", err)
		}
		return nil
	})
}

// SetMinTTL has the kernel drop what comes with a lower TTL (RFC 5082), 0 for none.
func (l *TCPListener) SetMinTTL(ttl uint8) error {
	level, minimum := unix.IPPROTO_IP, unix.IP_MINTTL
	if l.six {
		level, minimum = unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
	}
	raw, err := l.listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	return control(raw, func(fd int) error {
		if err := unix.SetsockoptInt(fd, level, minimum, int(ttl)); err != nil {
			return fmt.Errorf("set the minimum TTL: %w", err)
		}
		return nil
	})
}

// Accept waits for a connection and says whose it is; the address has the zone of the link
// if it is link-local. After Close the error is net.ErrClosed.
func (l *TCPListener) Accept() (*net.TCPConn, netip.Addr, error) {
	c, err := l.listener.AcceptTCP()
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("accept: %w", err)
	}
	from, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, netip.Addr{}, errors.Join(fmt.Errorf("accept: from a %T", c.RemoteAddr()), c.Close())
	}
	return c, from.AddrPort().Addr().Unmap(), nil
}

// Close ends it. Connections that were accepted stay.
func (l *TCPListener) Close() error {
	if err := l.listener.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// Adopt has a connection that was accepted be as one that was made by [DialTCP].
func (d TCPDial) Adopt(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	return control(raw, d.setter(d.To.Addr().Is6()))
}

func (d TCPDial) setter(six bool) func(int) error {
	return func(fd int) error { return d.set(fd, six) }
}

// SourceFor says which address of this node the kernel would speak with a peer from, with
// the zone of the link if it is link-local. Nothing is sent.
func SourceFor(ctx context.Context, peer netip.Addr) (netip.Addr, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(peer, 9).String()) // any port: connecting sends nothing
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no way to the peer: %w", err)
	}
	local, ok := c.LocalAddr().(*net.UDPAddr)
	if err := c.Close(); err != nil || !ok {
		return netip.Addr{}, fmt.Errorf("find the address towards the peer: %w", err)
	}
	return local.AddrPort().Addr().Unmap(), nil
}

// control calls f with a socket.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	return failed
}
