// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const port = 80

// backends make nodes and the pod answer.
func (f *Field) backends(ctx context.Context) error {
	if err := f.pod(ctx); err != nil {
		return fmt.Errorf("make the pod: %w", err)
	}
	for _, n := range f.Nodes() {
		if err := f.Serve(n); err != nil {
			return err
		}
	}
	return nil
}

// pod answers HTTP at its Service's address, which it has itself: what nodes forward arrives
// as it was sent, and answers go to the client past them. So a connection lives as long as
// any node forwards it, which is what a data plane with one opinion of flows on all nodes
// gives; what is measured here is routes alone.
func (f *Field) pod(ctx context.Context) error {
	var l net.Listener
	err := f.Pod.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		a, err := netlink.ParseAddr(OnPod.String())
		if err != nil {
			return fmt.Errorf("read the address: %w", err)
		}
		behind, err := netlink.ParseIPNet(netip.PrefixFrom(f.Client.IPv4(), 24).Masked().String())
		if err != nil {
			return fmt.Errorf("read the client's network: %w", err)
		}
		if err := errors.Join(netlink.AddrAdd(lo, a), netlink.RouteAdd(&netlink.Route{Dst: behind, Gw: f.FRRHost.IPv4().AsSlice()})); err != nil {
			return fmt.Errorf("configure it: %w", err)
		}
		var lc net.ListenConfig
		l, err = lc.Listen(ctx, "tcp4", netip.AddrPortFrom(OnPod.Addr(), port).String())
		return err //nolint:wrapcheck // says what it is
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("Hostname: pod\n")) // the prober counts what is lost
	})}
	f.closers = append(f.closers, s)
	go func() { _ = s.Serve(l) }() // until Close
	return nil
}

// Serve makes a node forward to the pod, answer for the other Services and send answers to
// the client through FRR: at the start, and after its power came back.
func (f *Field) Serve(n *rig.Node) error {
	if err := f.FRRHost.Back(n); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	var conns []*net.UDPConn
	err := n.Do(func() error {
		for name, value := range map[string]string{"ip_forward": "1", "conf/all/send_redirects": "0", "conf/eth0/send_redirects": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600); err != nil {
				return fmt.Errorf("make a router: %w", err)
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		for _, p := range []netip.Prefix{OnNodes, Local, OnPod} {
			dst, err := netlink.ParseIPNet(p.String())
			if err != nil {
				return fmt.Errorf("read an address: %w", err)
			}
			if p == OnPod {
				if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: f.Pod.IPv4().AsSlice()}); err != nil {
					return fmt.Errorf("route %s: %w", p, err)
				}
				continue
			}
			// Not an address: nobody shall answer ARP for it.
			err = netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST})
			if err != nil {
				return fmt.Errorf("route %s: %w", p, err)
			}
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addr(), port)))
			if err != nil {
				return fmt.Errorf("listen at %s: %w", p, err)
			}
			conns = append(conns, c)
		}
		return nil
	})
	for _, c := range conns {
		f.closers = append(f.closers, c)
		go echo(c, n.Name())
	}
	if err != nil {
		return fmt.Errorf("serve on %s: %w", n.Name(), err)
	}
	return nil
}

// echo answers with the node's name.
func echo(c *net.UDPConn, name string) {
	buf := make([]byte, 64)
	for {
		_, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort([]byte(name), from) // the client counts what is lost
		}
	}
}
