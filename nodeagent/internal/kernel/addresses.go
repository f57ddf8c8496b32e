// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kept is an address that the kernel answers for by itself while the agent is away.
type Kept struct {
	Link string
	Addr netip.Addr
}

// An address of ours is known by its mark, so that no file is needed to find it again:
// the protocol number that `ip address` shows (kernels from 5.18 on; earlier ones ignore
// the attribute), and the metric of its prefix route (4.18). An address that fills its
// prefix has no such route, so that the metric means nothing to the kernel.
const (
	ifaProto   = 11 // IFA_PROTO of linux/if_addr.h
	markProto  = 0xfa
	markMetric = 0xfa171ead
)

// Keep makes the kernel answer for addresses on links, for a time in whole seconds, and
// then fall silent by itself, up to 1.25 s late (addrconf batches its timers). The node
// itself uses none of them as source: of IPv6 they are deprecated from the start, of IPv4
// they come last of their scope, behind the node's own. There is no duplicate address
// detection: the node has the address already. An address of ours that is there already gets the new lifetime; one that
// somebody else put there is an error. Where not all can be added, none is.
// It needs CAP_NET_ADMIN.
func (k *Kernel) Keep(list []Kept, lifetime time.Duration) error {
	ours, err := k.marked()
	if err != nil {
		return err
	}
	indices, err := k.indices()
	if err != nil {
		return err
	}
	var added []Kept
	for _, a := range list {
		index, ok := indices[a.Link]
		if !ok {
			err = fmt.Errorf("keep %s: no link %s", a.Addr, a.Link)
			break
		}
		flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
		if _, again := ours[key{index, a.Addr}]; again {
			flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
		}
		if err = request(unix.RTM_NEWADDR, flags, key{index, a.Addr}, lifetime); err != nil {
			err = fmt.Errorf("keep %s on %s: %w", a.Addr, a.Link, err)
			break
		}
		added = append(added, a)
	}
	if err != nil {
		return errors.Join(err, k.Drop(added))
	}
	return nil
}

// Kept lists the addresses of ours, by link and address.
func (k *Kernel) Kept() ([]Kept, error) {
	ours, err := k.marked()
	if err != nil || len(ours) == 0 {
		return nil, err
	}
	indices, err := k.indices()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(indices))
	for name, index := range indices {
		names[index] = name
	}
	out := make([]Kept, 0, len(ours))
	for a := range ours {
		out = append(out, Kept{Link: names[a.index], Addr: a.addr})
	}
	slices.SortFunc(out, func(a, b Kept) int {
		if c := strings.Compare(a.Link, b.Link); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	})
	return out, nil
}

// Drop takes addresses that [Kernel.Kept] listed off their links; those that have gone by
// themselves meanwhile are no error. It needs CAP_NET_ADMIN.
func (k *Kernel) Drop(list []Kept) error {
	if len(list) == 0 {
		return nil
	}
	indices, err := k.indices()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range list {
		index, ok := indices[a.Link]
		if !ok {
			continue // The link is gone, and the address with it.
		}
		err := request(unix.RTM_DELADDR, 0, key{index, a.Addr}, 0)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("drop %s from %s: %w", a.Addr, a.Link, err))
		}
	}
	return errors.Join(errs...)
}

// request adds or deletes one address.
func request(what, flags int, a key, lifetime time.Duration) error {
	msg := nl.NewIfAddrmsg(unix.AF_INET6)
	if a.addr.Is4() {
		msg = nl.NewIfAddrmsg(unix.AF_INET)
	}
	msg.Index = uint32(a.index)            //nolint:gosec // an index
	msg.Prefixlen = uint8(a.addr.BitLen()) //nolint:gosec // 32 or 128
	req := nl.NewNetlinkRequest(what, flags|unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.addr.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.addr.AsSlice()))
	if what == unix.RTM_NEWADDR {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)))
		req.AddData(nl.NewRtAttr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(markMetric)))
		req.AddData(nl.NewRtAttr(ifaProto, nl.Uint8Attr(markProto)))
		life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: uint32(max(lifetime/time.Second, 1))}} //nolint:gosec // minutes
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err //nolint:wrapcheck // the caller says what failed
}

// key is an address on a link.
type key struct {
	index int
	addr  netip.Addr
}

// marked are the addresses that carry our mark. The netlink library does not read it.
func (k *Kernel) marked() (map[key]struct{}, error) {
	msgs, err := retry(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[key]struct{})
	for _, m := range msgs {
		if a, ours := parseMarked(m); ours {
			out[a] = struct{}{}
		}
	}
	return out, nil
}

// parseMarked reads one address and says whether it carries our mark.
func parseMarked(m []byte) (key, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return key{}, false
	}
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return key{}, false
	}
	var local, address netip.Addr
	ours := false
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_RT_PRIORITY:
			ours = ours || len(a.Value) == 4 && binary.NativeEndian.Uint32(a.Value) == markMetric
		case ifaProto:
			ours = ours || len(a.Value) == 1 && a.Value[0] == markProto
		}
	}
	if !local.IsValid() {
		local = address // IPv6 tells one only.
	}
	msg := nl.DeserializeIfAddrmsg(m)
	return key{int(msg.Index), local.Unmap()}, ours && local.IsValid() && int(msg.Prefixlen) == local.BitLen()
}

// addrs lists the addresses of a link, nil for all, without ours.
func (k *Kernel) addrs(l netlink.Link, family int) ([]netlink.Addr, error) {
	list, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(l, family) })
	if err != nil {
		return nil, err
	}
	ours, err := k.marked()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(a netlink.Addr) bool {
		if a.IPNet == nil {
			return false
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		_, mine := ours[key{a.LinkIndex, ip.Unmap()}]
		return mine
	}), nil
}

// indices are the indices of all links by name.
func (k *Kernel) indices() (map[string]int, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make(map[string]int, len(links))
	for _, l := range links {
		out[l.Name] = l.Index
	}
	return out, nil
}
