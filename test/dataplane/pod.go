// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// podPort is where every pod answers, by TCP and by UDP, and healthPort where only some do.
const podPort = 8080

// Place is somewhere from which one can ask: a network namespace.
type Place interface {
	Do(f func() error) error
}

// Pod is a network namespace behind a node, connected as the CNI plugin ptp does it: a
// routed pair of links, whose end at the node has the first address of the node's range.
type Pod struct {
	Name string
	Node *rig.Node
	// IPv4 and IPv6 of the pod.
	IPv4, IPv6 netip.Addr

	file *os.File
	link string
	sctp bool // it serves by SCTP
	wg   sync.WaitGroup

	mu      sync.Mutex
	closers []io.Closer // guarded by mu
	conns   map[net.Conn]struct{}
}

// NewPod makes the pod number i of a node, 0 to 200. It answers nothing yet.
func NewPod(name string, node *rig.Node, i int) (*Pod, error) {
	p := &Pod{Name: name, Node: node, link: "veth-" + name, conns: map[net.Conn]struct{}{}}
	r4, r6 := node.PodRanges()
	p.IPv4, p.IPv6 = nth(r4, i+2), nth(r6, i+2)
	err := node.Do(func() error {
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return fmt.Errorf("open the node's namespace: %w", err)
		}
		defer here.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a namespace: %w", err)
		}
		if p.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("open the pod's namespace: %w", err)
		}
		if err := inherit("0"); err != nil {
			return err
		}
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("return to the node's namespace: %w", err)
		}
		return p.connect(nth(r4, 1), nth(r6, 1))
	})
	if err != nil {
		return nil, fmt.Errorf("make pod %s: %w", name, err)
	}
	return p, nil
}

func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// connect is called on a thread in the node's namespace.
func (p *Pod) connect(gate4, gate6 netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.link
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(p.file.Fd()))})
	if err != nil {
		return fmt.Errorf("connect the pod: %w", err)
	}
	l, err := netlink.LinkByName(p.link)
	if err != nil {
		return fmt.Errorf("connect the pod: %w", err)
	}
	h := &netlink.Handle{}
	if err := address(h, p.link, gate4, gate6); err != nil {
		return err
	}
	for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(a), Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to the pod: %w", err)
		}
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(p.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer inside.Close()
	if err := errors.Join(address(inside, "lo"), address(inside, "eth0", p.IPv4, p.IPv6)); err != nil {
		return err
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	for _, gate := range []netip.Addr{gate4, gate6} {
		i := eth0.Attrs().Index
		for _, r := range []*netlink.Route{
			{LinkIndex: i, Dst: single(gate), Scope: netlink.SCOPE_LINK},
			{LinkIndex: i, Gw: gate.AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
		} {
			if err := inside.RouteAdd(r); err != nil {
				return fmt.Errorf("route in the pod: %w", err)
			}
		}
	}
	return nil
}

//nolint:forbidigo // netlink takes it
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// address gives single addresses to a link and sets it up. A handle without sockets acts in
// the calling thread's namespace.
func address(h *netlink.Handle, link string, addrs ...netip.Addr) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: single(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, link, err)
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

// inherit sets what a new namespace may have from the machine's own: whether it forwards,
// and that IPv6 is on and asks nobody for an address that is known to be free.
func inherit(forward string) error {
	for _, s := range [][2]string{
		{"ipv4/ip_forward", forward},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/default/disable_ipv6", "0"},
		{"ipv6/conf/all/forwarding", forward},
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		// A redirect by one node would change what the next question shows.
		{"ipv4/conf/all/accept_redirects", "0"},
		{"ipv4/conf/default/accept_redirects", "0"},
		{"ipv4/conf/eth0/accept_redirects", "0"},
		{"ipv6/conf/all/accept_redirects", "0"},
		{"ipv6/conf/default/accept_redirects", "0"},
		{"ipv6/conf/eth0/accept_redirects", "0"},
	} {
		err := os.WriteFile(filepath.Join("/proc/sys/net", s[0]), []byte(s[1]), 0o600)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(s[0], "/eth0/") {
			continue // not plugged in yet: it will be as the default is
		}
		if err != nil {
			return fmt.Errorf("set %s: %w", s[0], err)
		}
	}
	return nil
}

// Do calls f on a thread that is in the pod's network. Sockets that f opens stay there.
func (p *Pod) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter pod %s: %w", p.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Serve answers on [podPort] of both families until the pod is closed: a line with the
// pod's name and with the address that it sees, for each line that comes by TCP and for
// each packet that comes by UDP.
func (p *Pod) Serve(ctx context.Context) error {
	return p.Do(func() error {
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			at := netip.AddrPortFrom(a, podPort).String()
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
			if err != nil {
				return fmt.Errorf("listen in pod %s: %w", p.Name, err)
			}
			u, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", at)
			if err != nil {
				return errors.Join(fmt.Errorf("listen in pod %s: %w", p.Name, err), l.Close())
			}
			p.mu.Lock()
			p.closers = append(p.closers, l, u)
			p.mu.Unlock()
			p.wg.Go(func() { p.accept(l) })
			p.wg.Go(func() { p.packets(u) })
		}
		return nil
	})
}

func (p *Pod) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() {
			defer func() {
				p.mu.Lock()
				delete(p.conns, c)
				p.mu.Unlock()
				_ = c.Close() // everything is sent or lost
			}()
			b := make([]byte, 64)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				for range strings.Count(string(b[:n]), "\n") {
					if _, err := io.WriteString(c, p.answer(c.RemoteAddr())); err != nil {
						return
					}
				}
			}
		})
	}
}

func (p *Pod) packets(u net.PacketConn) {
	b := make([]byte, 64)
	for {
		_, from, err := u.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = u.WriteTo([]byte(p.answer(from)), from) // who asks will ask again
		}
	}
}

func (p *Pod) answer(from net.Addr) string {
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return err.Error() + "\n"
	}
	return p.Name + " " + ap.Addr().Unmap().String() + "\n"
}

// Refuse takes no new connections any more; those that are, go on.
func (p *Pod) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.closers {
		_ = c.Close() // sockets that listen hold nothing
	}
	p.closers = nil
}

// Close ends the pod and removes its link.
func (p *Pod) Close() error {
	p.Refuse()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close() // the other side is told
	}
	p.mu.Unlock()
	p.wg.Wait()
	err := p.Node.Do(func() error {
		l, err := netlink.LinkByName(p.link)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.link, err)
		}
		return netlink.LinkDel(l)
	})
	return errors.Join(err, p.file.Close())
}
