// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Must ends the test if a step failed on which all that follows depends.
func Must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// digits of the number that [Serve] begins with.
const digits = 5

// Serve tells everybody who connects by TCP a number of at most five digits, by which
// [Dial] knows who answered, and then what they say, until the end of the test.
func Serve(tb testing.TB, at netip.AddrPort, number int) {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", at.String())
	Must(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = fmt.Fprintf(c, "%0*d", digits, number) // the client sees what is missing
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// Dial connects to an address behind which servers of [Serve] are, and returns the number of
// the one that answered; the test ends when none does within 10 s. The zero value of from
// is any port of any address; one port can have connections to several addresses. Packets
// have the mark. The connection is good for a minute, and closed at the end of the test.
func Dial(tb testing.TB, from, to netip.AddrPort, mark int) (net.Conn, int) {
	tb.Helper()
	d := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var reuse, marked error
		err := c.Control(func(fd uintptr) {
			reuse = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			marked = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		})
		return errors.Join(err, reuse, marked)
	}}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	c, err := d.DialContext(tb.Context(), "tcp", to.String())
	if err != nil {
		tb.Fatalf("connect from %s: %v", from, err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	Must(tb, c.SetDeadline(time.Now().Add(time.Minute)))
	b := make([]byte, digits)
	_, err = io.ReadFull(c, b)
	Must(tb, err)
	number, err := strconv.Atoi(string(b))
	Must(tb, err)
	return c, number
}

// Echo says something to a server of [Serve] and fails the test if it does not say the same.
func Echo(tb testing.TB, c net.Conn, text string) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		tb.Errorf("say %s: %v", text, err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		tb.Errorf("hear %q: %v", b, err)
	}
}
