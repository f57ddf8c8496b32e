// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cable connects a node to a host by a link of their own, besides the bridge, on which they
// have link-local addresses only, known to be free. The node names it at, the host far. It is
// gone when the node or the host is, or by [Node.Disconnect].
func (r *Rig) Cable(n *Node, at string, h *Host, far string) error {
	err := n.ns.links(func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = at
		if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(int(h.ns.file.Fd()))}); err != nil {
			return fmt.Errorf("add link %s: %w", at, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("connect %s: %w", n.name, err)
	}
	for _, end := range []struct {
		ns   *namespace
		name string
	}{{n.ns, at}, {h.ns, far}} {
		// Before the link is up the kernel has not begun to look whether the address is free.
		err := end.ns.do(func() error {
			return os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", end.name, "accept_dad"), []byte("0"), 0o600)
		})
		if err := errors.Join(err, end.ns.links(func(nl *netlink.Handle) error { return up(nl, end.name) })); err != nil {
			return fmt.Errorf("connect %s: %w", n.name, err)
		}
	}
	return nil
}

// Disconnect removes a cable of the node's.
func (n *Node) Disconnect(at string) error {
	return n.ns.links(func(nl *netlink.Handle) error {
		l, err := nl.LinkByName(at)
		if err == nil {
			err = nl.LinkDel(l)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("remove link %s of %s: %w", at, n.name, err)
		}
		return nil
	})
}

// LinkLocal is the node's address on a link that nobody gave it.
func (n *Node) LinkLocal(link string) (netip.Addr, error) {
	var out netip.Addr
	err := n.ns.links(func(nl *netlink.Handle) error {
		l, err := nl.LinkByName(link)
		if err != nil {
			return fmt.Errorf("find %s of %s: %w", link, n.name, err)
		}
		list, err := nl.AddrList(l, unix.AF_INET6)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", n.name, err)
		}
		for i := range list {
			if a, ok := netip.AddrFromSlice(list[i].IPNet.IP); ok && a.IsLinkLocalUnicast() { //nolint:forbidigo // netlink gives it
				out = a
				return nil
			}
		}
		return fmt.Errorf("%s has no link-local address on %s", n.name, link)
	})
	return out, err
}
