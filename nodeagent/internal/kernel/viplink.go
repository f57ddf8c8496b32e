// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// VIPLinkName is the dummy link that has the addresses which this node forwards, so that
// their packets are for the node itself and IPVS sees them. Network plugins and the kubelet
// leave links named dummy… out when they look for the node's own address.
const VIPLinkName = "dummy-fairlead"

const (
	kindDummy     = "dummy"
	kubeProxyLink = "kube-ipvs0" // of its mode ipvs
)

// VIPLink lists the addresses on our link in order; false if there is no such link.
func (k *Kernel) VIPLink() ([]netip.Addr, bool, error) {
	link, err := k.vipLink()
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	list, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, true, fmt.Errorf("list addresses of %s: %w", VIPLinkName, err)
	}
	var out []netip.Addr
	for i := range list {
		if p, ok := prefixOf(&list[i]); ok {
			out = append(out, p.Addr())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, true, nil
}

// EnsureVIPLink makes our link if there is none, without an address of its own, and sets it
// up: two or three requests. The kernel loads the module for it where it can.
func (k *Kernel) EnsureVIPLink() error {
	link, err := k.vipLink()
	if errors.Is(err, ErrNotFound) {
		err = k.h.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: VIPLinkName}})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make link %s: %w", VIPLinkName, err)
		}
		link, err = k.vipLink()
	}
	if err != nil {
		return err
	}
	if link.Type() != kindDummy {
		return fmt.Errorf("link %s is a %s, not ours", VIPLinkName, link.Type())
	}
	if link.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	// No link-local address: nobody is to be reached through this link. Without IPv6 there is
	// nothing to say so of.
	err = k.h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("keep %s without an address of its own: %w", VIPLinkName, err)
	}
	if err := k.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", VIPLinkName, err)
	}
	return nil
}

// DeleteVIPLink deletes our link with all of its addresses, if it is there.
func (k *Kernel) DeleteVIPLink() error {
	link, err := k.vipLink()
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if link.Type() != kindDummy {
		return fmt.Errorf("link %s is a %s, not ours", VIPLinkName, link.Type())
	}
	if err := k.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", VIPLinkName, err)
	}
	return nil
}

// AddVIP puts an address on our link, if it is not there. The node itself takes it as source
// only to talk to the address itself: it is of scope host, and of IPv6 it is deprecated from
// the start and without duplicate address detection, since every node has it. The error is
// [ErrNotFound] where there is no such link.
func (k *Kernel) AddVIP(addr netip.Addr) error {
	err := k.changeVIP(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addr)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s: %w", addr, VIPLinkName, err)
	}
	return nil
}

// RemoveVIP takes an address off our link, if both are there.
func (k *Kernel) RemoveVIP(addr netip.Addr) error {
	err := k.changeVIP(unix.RTM_DELADDR, 0, addr)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from %s: %w", addr, VIPLinkName, err)
	}
	return nil
}

// HasVIP says whether an address is on our link, by two requests however many there are.
func (k *Kernel) HasVIP(addr netip.Addr) (bool, error) {
	link, err := k.vipLink()
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// The kernel has no question for one IPv4 address, but a local route for each.
	routes, err := k.h.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s on %s: %w", addr, VIPLinkName, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Type == unix.RTN_LOCAL && r.LinkIndex == link.Attrs().Index
	}), nil
}

// LocalAddrs are the addresses of all links but ours and kube-proxy's own, sorted, without
// link-local ones and those that [Kernel.Keep] put there.
func (k *Kernel) LocalAddrs() ([]netip.Addr, error) {
	indices, err := k.indices()
	if err != nil {
		return nil, err
	}
	list, err := k.addrs(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	ours, theirs := indices[VIPLinkName], indices[kubeProxyLink] // 0 is no index
	var out []netip.Addr
	for i := range list {
		if p, ok := prefixOf(&list[i]); ok && list[i].LinkIndex != ours && list[i].LinkIndex != theirs {
			out = append(out, p.Addr())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func (k *Kernel) changeVIP(what, flags int, addr netip.Addr) error {
	link, err := k.vipLink()
	if err != nil {
		return err
	}
	msg := nl.NewIfAddrmsg(unix.AF_INET6)
	if addr.Is4() {
		msg = nl.NewIfAddrmsg(unix.AF_INET)
		msg.Scope = unix.RT_SCOPE_HOST
	}
	msg.Index = uint32(link.Attrs().Index) //nolint:gosec // an index
	msg.Prefixlen = uint8(addr.BitLen())   //nolint:gosec // 32 or 128
	req := nl.NewNetlinkRequest(what, flags|unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr.AsSlice()))
	if what == unix.RTM_NEWADDR {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)))
		life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: math.MaxUint32}} // preferred for 0 s
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	}
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.ENODEV) { // It went meanwhile.
		return ErrNotFound
	}
	return err //nolint:wrapcheck // the caller says what failed
}

func (k *Kernel) vipLink() (netlink.Link, error) {
	link, err := k.h.LinkByName(VIPLinkName)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil, fmt.Errorf("link %s: %w", VIPLinkName, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", VIPLinkName, err)
	}
	return link, nil
}
