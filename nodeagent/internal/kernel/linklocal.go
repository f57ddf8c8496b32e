// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkLocal returns a link by its name, with its IPv6 link-local address, whose zone is that
// name; of several the least. Of the link, name, index and Ethernet address are set. The
// error says in words what the link lacks for a session with a router that is found on it: it
// is not there, is down, is no Ethernet, or has no such address that is known to be its own
// (RFC 4862 §5.4).
func (k *Kernel) LinkLocal(name string) (Link, netip.Addr, error) {
	l, err := k.h.LinkByName(name)
	if err != nil {
		if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
			return Link{}, netip.Addr{}, fmt.Errorf("this node has no link %s", name)
		}
		return Link{}, netip.Addr{}, fmt.Errorf("look for link %s: %w", name, err)
	}
	a := l.Attrs()
	switch {
	case !usable(a.RawFlags):
		return Link{}, netip.Addr{}, fmt.Errorf("link %s is down", name)
	case len(a.HardwareAddr) != len(MAC{}) || a.RawFlags&unix.IFF_LOOPBACK != 0:
		return Link{}, netip.Addr{}, fmt.Errorf("link %s is no Ethernet", name)
	}
	addrs, err := k.addrs(l, netlink.FAMILY_V6)
	if err != nil {
		return Link{}, netip.Addr{}, fmt.Errorf("list the addresses of link %s: %w", name, err)
	}
	var own netip.Addr
	for i := range addrs {
		if at, ok := linkLocal(&addrs[i]); ok && (!own.IsValid() || at.Less(own)) {
			own = at
		}
	}
	if !own.IsValid() {
		return Link{}, netip.Addr{}, fmt.Errorf("link %s has no IPv6 link-local address", name)
	}
	return Link{Name: a.Name, Index: a.Index, MAC: MAC(a.HardwareAddr)}, own.WithZone(a.Name), nil
}

// linkLocal address, if it is one that may be used.
func linkLocal(a *netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	return addr, ok && addr.Is6() && addr.IsLinkLocalUnicast()
}
