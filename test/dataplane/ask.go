// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

const (
	// askTimeout of one question. Under emulation an answer takes some milliseconds.
	askTimeout = 2 * time.Second
	// udpTries divide it: a packet may be the one that makes the kernel ask for a neighbour.
	udpTries = 2
)

// Errors of a question that nobody answered.
var (
	ErrRefused = errors.New("refused")
	ErrSilence = errors.New("no answer")
)

// Answer is what a pod said.
type Answer struct {
	Pod    string
	Source netip.Addr
}

// Protocol of a question.
type Protocol string

// The protocols that pods answer by.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// Ask asks once, on a connection of its own.
func Ask(ctx context.Context, from Place, proto Protocol, to netip.AddrPort) (Answer, error) {
	return askWithin(ctx, from, proto, to, askTimeout)
}

func askWithin(ctx context.Context, from Place, proto Protocol, to netip.AddrPort, timeout time.Duration) (Answer, error) {
	var conn *Conn
	err := from.Do(func() error {
		var c net.Conn
		var err error
		if proto == SCTP {
			c, err = dialSCTP(ctx, to, timeout)
		} else {
			d := net.Dialer{Timeout: timeout}
			c, err = d.DialContext(ctx, strings.ToLower(string(proto)), to.String())
		}
		if err == nil {
			conn = newConn(c, proto, timeout)
		}
		return err
	})
	if err != nil {
		return Answer{}, classify(to, err)
	}
	defer conn.Close()
	return conn.Ask()
}

// Conn is a connection on which one asks several times.
type Conn struct {
	net.Conn

	proto   Protocol
	lines   *bufio.Reader
	timeout time.Duration
}

func newConn(c net.Conn, proto Protocol, timeout time.Duration) *Conn {
	return &Conn{Conn: c, proto: proto, lines: bufio.NewReader(c), timeout: timeout}
}

// Ask asks on this connection.
func (c *Conn) Ask() (Answer, error) {
	tries := 1
	if c.proto == UDP {
		tries = udpTries
	}
	var err error
	for range tries {
		var line string
		if err = c.SetDeadline(time.Now().Add(c.timeout / time.Duration(tries))); err != nil {
			break
		}
		if _, err = c.Write([]byte("?\n")); err != nil {
			continue
		}
		if line, err = c.lines.ReadString('\n'); err != nil {
			continue
		}
		pod, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		source, err := netip.ParseAddr(text)
		if err != nil {
			return Answer{}, fmt.Errorf("read %q: %w", line, err)
		}
		return Answer{Pod: pod, Source: source}, nil
	}
	to, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return Answer{}, classify(to, err)
}

func classify(to netip.AddrPort, err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%s: %w: %w", to, ErrRefused, err)
	}
	return fmt.Errorf("%s: %w: %w", to, ErrSilence, err)
}
