// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace: a client, another node, a router or a pod.
type host struct {
	t    *testing.T
	name string
	ns   *os.File
}

// thisHost is the node of the test itself.
func thisHost(t *testing.T) *host {
	t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	return &host{t: t, name: "node", ns: ns}
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, name: name}
	onThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		h.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { _ = h.ns.Close() })
	h.ip("link set lo up")
	return h
}

// onThread calls f on a thread that ends afterwards, whatever namespace it is in then.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	if err := thread(f); err != nil {
		t.Fatal(err)
	}
}

func thread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// do calls f inside. Sockets stay there.
func (h *host) do(f func() error) error {
	return thread(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// ip runs commands of the program ip, one per line, without its name.
func (h *host) ip(script string) {
	h.t.Helper()
	if err := h.do(func() error { return command(h.context(), script, "ip", "-batch", "-") }); err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
}

// context lasts through the cleanup of a test.
func (h *host) context() context.Context { return context.WithoutCancel(h.t.Context()) }

func command(ctx context.Context, stdin, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s\n%s", program, args, err, out, stdin)
	}
	return nil
}

// route has the host pass packets on.
func (h *host) route() {
	h.t.Helper()
	must(h.t, h.do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}))
}

// path by which ip moves a link there.
func (h *host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd()) }

// serve answers on a TCP and a UDP port with the host's name and the client's address; to
// UDP also with the length of what came.
func (h *host) serve(port int, name string) {
	h.t.Helper()
	err := h.do(func() error {
		l, err := (&net.ListenConfig{}).Listen(h.context(), "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		u, err := (&net.ListenConfig{}).ListenPacket(h.context(), "udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { _, _ = l.Close(), u.Close() })
		go answerTCP(l, name)
		go answerUDP(u, name)
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func answerTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 1<<16)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if buf[0] == 'B' { // bulk
					if _, err := conn.Write(make([]byte, bulk)); err != nil {
						return
					}
					continue
				}
				if string(buf[:n]) == late {
					<-time.After(lateness)
				}
				fmt.Fprintf(conn, "%s %s %d\n", name, addrOf(conn.RemoteAddr()), n)
			}
		}()
	}
}

func answerUDP(u net.PacketConn, name string) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo(fmt.Appendf(nil, "%s %s %d", name, addrOf(from), n), from)
	}
}

func addrOf(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

const bulk = 200_000

// late is what to say for an answer after lateness.
const (
	late     = "late"
	lateness = 300 * time.Millisecond
)

// What a client may meet instead of an answer.
const (
	refused = "refused"
	silence = "silence"
)

// ask connects, says size bytes and returns the answer, or why there was none.
func (h *host) ask(network string, to netip.AddrPort, size int, wait time.Duration) string {
	conn, err := h.dial(network, to, wait)
	if err != nil {
		return whyNot(err)
	}
	defer conn.Close()
	return exchange(conn, size, wait)
}

func (h *host) dial(network string, to netip.AddrPort, wait time.Duration) (conn net.Conn, err error) {
	err = h.do(func() error {
		conn, err = (&net.Dialer{Timeout: wait}).DialContext(h.context(), network, to.String())
		return err
	})
	return conn, err
}

func exchange(conn net.Conn, size int, wait time.Duration) string {
	return exchangeText(conn, strings.Repeat("x", size), wait)
}

func exchangeText(conn net.Conn, text string, wait time.Duration) string {
	_ = conn.SetDeadline(time.Now().Add(wait))
	if _, err := conn.Write([]byte(text)); err != nil {
		return whyNot(err)
	}
	buf := make([]byte, 1<<10)
	n, err := conn.Read(buf)
	if err != nil {
		return whyNot(err)
	}
	return strings.TrimSpace(string(buf[:n]))
}

// download asks for much and returns how much came.
func (h *host) download(to netip.AddrPort, wait time.Duration) (int64, error) {
	conn, err := h.dial("tcp", to, wait)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	if _, err := conn.Write([]byte("B")); err != nil {
		return 0, err
	}
	return io.CopyN(io.Discard, conn, bulk)
}

func whyNot(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return refused
	case errors.Is(err, unix.EPERM), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return silence
	default:
		return err.Error()
	}
}

func joined(lines []string) string {
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}
