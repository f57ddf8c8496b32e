// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DefaultRoutes is what the default routes of the main table say.
type DefaultRoutes struct {
	// Addrs are the node's own addresses on the link of its default route, at most one
	// per family, IPv4 first: the route's preferred source, else the link's first global
	// address.
	Addrs []netip.Addr
	// Gateways are the next hops of all default routes, without zones, ascending.
	Gateways []netip.Addr
}

// DefaultRoutes reads the default routes of both families.
func (k *Kernel) DefaultRoutes() (DefaultRoutes, error) {
	var out DefaultRoutes
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retry(func() ([]netlink.Route, error) { return k.h.RouteList(nil, family) })
		if err != nil {
			return DefaultRoutes{}, fmt.Errorf("list routes: %w", err)
		}
		routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(&r) })
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		found := false
		for i := range routes {
			out.Gateways = append(out.Gateways, nextHops(&routes[i])...)
			if a, ok := k.sourceOf(&routes[i], family); ok && !found {
				out.Addrs, found = append(out.Addrs, a), true
			}
		}
	}
	slices.SortFunc(out.Gateways, netip.Addr.Compare)
	out.Gateways = slices.Compact(out.Gateways)
	return out, nil
}

// nextHops are the gateways of a route, which may have several, and of the other family.
func nextHops(r *netlink.Route) []netip.Addr {
	hops := []netlink.NexthopInfo{{Gw: r.Gw, Via: r.Via}}
	for _, h := range r.MultiPath {
		hops = append(hops, *h)
	}
	var out []netip.Addr
	for _, h := range hops {
		if a, ok := netip.AddrFromSlice(h.Gw); ok {
			out = append(out, a.Unmap())
		}
		if via, isVia := h.Via.(*netlink.Via); isVia {
			if a, ok := netip.AddrFromSlice(via.Addr); ok {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}

func (k *Kernel) sourceOf(r *netlink.Route, family int) (netip.Addr, bool) {
	if a, ok := netip.AddrFromSlice(r.Src); ok {
		return a.Unmap(), true
	}
	index := r.LinkIndex
	if len(r.MultiPath) > 0 {
		index = r.MultiPath[0].LinkIndex
	}
	link, err := k.h.LinkByIndex(index)
	if err != nil {
		return netip.Addr{}, false
	}
	addrs, err := k.addrs(link, family)
	if err != nil {
		return netip.Addr{}, false
	}
	for i := range addrs {
		if p, ok := prefixOf(&addrs[i]); ok && addrs[i].Scope == unix.RT_SCOPE_UNIVERSE {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func isDefault(r *netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}
