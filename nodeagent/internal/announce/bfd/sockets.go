// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	portSingle, portMulti = 3784, 4784 // RFC 5881 §4, RFC 5883 §5
	// Source ports (RFC 5881 §4).
	portLow, ports = 49152, 65536 - 49152
	// maxTTL is sent always, and must come over one hop (RFC 5881 §5).
	maxTTL = 255
	// control is the traffic class of routing protocols, CS6 (RFC 4594 §3.1).
	control = 0xc0
	// batch bounds what one look into a socket takes from it: a default receive buffer has
	// room for about 280 packets.
	batch = 1024
)

// kind is one of the four sockets that packets come to.
type kind struct{ six, multi bool }

func (k kind) port() int {
	if k.multi {
		return portMulti
	}
	return portSingle
}

// arrival is a packet as it came.
type arrival struct {
	from, to netip.Addr // without zone
	ifindex  int
	ttl      int // 0 if the kernel did not tell
	payload  []byte
}

// listener is a socket that packets come to. Two goroutines may read it: its own, which
// waits, and whoever must know that nothing lies in it.
type listener struct {
	kind kind
	conn *net.UDPConn
	raw  syscall.RawConn
	done chan struct{}
	// broken is what ended the reader, if it was not close.
	broken error // guarded by Detector.mu
}

func listen(ctx context.Context, k kind) (*listener, error) {
	network := "udp4"
	if k.six {
		network = "udp6"
	}
	// Without SO_REUSEADDR: two programs with one port take each other's packets.
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, network, ":"+strconv.Itoa(k.port()))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("UDP port %d is taken by another program of this node, such as the BFD daemon of FRR, BIRD or Calico: %w", k.port(), err)
	case err != nil:
		return nil, fmt.Errorf("open UDP port %d: %w", k.port(), err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("UDP port %d: got a %T", k.port(), pc), pc.Close())
	}
	if k.six {
		err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst|ipv6.FlagInterface, true)
	} else {
		err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	raw, rawErr := conn.SyscallConn()
	if err := errors.Join(err, rawErr); err != nil {
		return nil, errors.Join(fmt.Errorf("UDP port %d: %w", k.port(), err), conn.Close())
	}
	return &listener{kind: k, conn: conn, raw: raw, done: make(chan struct{})}, nil
}

// drain takes what lies in the socket, without waiting for more; empty says that it was
// all. It may run beside the listener's own goroutine.
func (l *listener) drain(fd uintptr, take func(arrival)) (empty bool, err error) {
	var buf [maxLength]byte
	var oob [128]byte
	for range batch {
		n, oobn, _, from, err := syscall.Recvmsg(int(fd), buf[:], oob[:], syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return true, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("read UDP port %d: %w", l.kind.port(), err)
		}
		a := arrival{payload: buf[:n]}
		a.read(from, oob[:oobn])
		take(a)
	}
	return false, nil
}

func (a *arrival) read(from syscall.Sockaddr, oob []byte) {
	switch sa := from.(type) {
	case *syscall.SockaddrInet4:
		a.from = netip.AddrFrom4(sa.Addr)
		var cm ipv4.ControlMessage
		if cm.Parse(oob) == nil {
			a.to, _ = netip.AddrFromSlice(cm.Dst)
			a.ifindex, a.ttl = cm.IfIndex, cm.TTL
		}
	case *syscall.SockaddrInet6:
		a.from = netip.AddrFrom16(sa.Addr)
		var cm ipv6.ControlMessage
		if cm.Parse(oob) == nil {
			a.to, _ = netip.AddrFromSlice(cm.Dst)
			a.ifindex, a.ttl = cm.IfIndex, cm.HopLimit
		}
	}
	a.to = a.to.Unmap()
}

// sender is a session's own socket: it has the source port that RFC 5881 §4 wants, and,
// as it is connected, tells what the peer's kernel thinks of port 3784.
type sender struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	// ifindex of a link-local peer, else 0.
	ifindex int
	// local address, without zone.
	local netip.Addr
}

// openSender makes one with source port, if that is free, else with any of the range.
func openSender(peer, source netip.Addr, to int, port uint16) (*sender, uint16, error) {
	s := &sender{}
	if zone := peer.Zone(); zone != "" {
		// By number: net keeps names for a minute, in which a link may have been made anew.
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, 0, fmt.Errorf("interface %s: %w", zone, err)
		}
		s.ifindex = link.Index
		peer = peer.WithZone(strconv.Itoa(link.Index))
		if source.IsLinkLocalUnicast() {
			source = source.WithZone(peer.Zone())
		}
	}
	network := "udp4"
	if peer.Is6() {
		network = "udp6"
	}
	remote := net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, uint16(to))) //nolint:gosec // 3784 or 4784
	for range 64 {
		if port == 0 {
			port = uint16(portLow + rand.IntN(ports)) //nolint:gosec // a port need not be secret
		}
		local := &net.UDPAddr{Port: int(port)}
		if source.IsValid() {
			local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, port))
		}
		conn, err := net.DialUDP(network, local, remote)
		if errors.Is(err, syscall.EADDRINUSE) {
			port = 0
			continue
		}
		if err != nil {
			return nil, port, fmt.Errorf("no way to the peer: %w", err)
		}
		s.conn = conn
		if addr, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			s.local = addr.AddrPort().Addr().Unmap().WithZone("")
		}
		return s, port, s.set(network == "udp6")
	}
	return nil, 0, errors.New("no source port is free")
}

func (s *sender) set(six bool) error {
	var err, classErr error
	if six {
		c := ipv6.NewConn(s.conn)
		err, classErr = c.SetHopLimit(maxTTL), c.SetTrafficClass(control)
	} else {
		c := ipv4.NewConn(s.conn)
		err, classErr = c.SetTTL(maxTTL), c.SetTOS(control)
	}
	raw, rawErr := s.conn.SyscallConn()
	s.raw = raw
	// Nobody reads this socket: let nothing pile up in it.
	if err := errors.Join(err, classErr, rawErr, s.conn.SetReadBuffer(0)); err != nil {
		return errors.Join(fmt.Errorf("set up a socket: %w", err), s.conn.Close())
	}
	return nil
}

// send does not wait: a packet for which there is no room is late anyway. refused says that
// the packet before found no program at the peer.
func (s *sender) send(b []byte) (refused bool, err error) {
	for range 2 {
		if controlErr := s.raw.Control(func(fd uintptr) {
			_, err = syscall.Write(int(fd), b)
		}); controlErr != nil {
			return refused, fmt.Errorf("send: %w", controlErr)
		}
		if err == nil {
			return refused, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		refused = true // and this one was not sent: once more
	}
	return refused, fmt.Errorf("send: %w", err)
}
