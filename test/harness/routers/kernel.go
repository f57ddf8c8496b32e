// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocolBIRD and protocolBGP mark the routes that BIRD and FRR put into the kernel
// (linux/rtnetlink.h).
const (
	protocolBIRD = 12
	protocolBGP  = 186
)

// NextHop of a route in a kernel.
type NextHop struct {
	Via netip.Addr
	// Weight is 1 unless next hops differ.
	Weight int
}

// Forward makes the kernel of a place forward packets and choose among next hops by the
// ports too.
func Forward(place Place) error {
	return place.Do(func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/fib_multipath_hash_policy", "ipv6/fib_multipath_hash_policy"} {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte("1"), 0o600); err != nil {
				return fmt.Errorf("make a router: %w", err)
			}
		}
		return nil
	})
}

// Kernel reads the routes that a router put into the kernel of its place, with the next
// hops of each by address.
func Kernel(place Place) (map[netip.Prefix][]NextHop, error) {
	out := map[netip.Prefix][]NextHop{}
	err := place.Do(func() error {
		return each(func(r *netlink.Route) error {
			ones, _ := r.Dst.Mask.Size()
			addr, ok := netip.AddrFromSlice(r.Dst.IP) //nolint:forbidigo // netlink gives it
			if !ok {
				return fmt.Errorf("read a route: destination %v", r.Dst)
			}
			p := netip.PrefixFrom(addr.Unmap(), ones)
			if r.Gw != nil || r.Via != nil {
				out[p] = append(out[p], NextHop{Via: gateway(r.Gw, r.Via), Weight: 1})
			}
			for _, h := range r.MultiPath {
				out[p] = append(out[p], NextHop{Via: gateway(h.Gw, h.Via), Weight: h.Hops + 1})
			}
			return nil
		})
	})
	for _, hops := range out {
		slices.SortFunc(hops, func(a, b NextHop) int { return a.Via.Compare(b.Via) })
	}
	return out, err
}

// gateway of the route's own family, or of another one (RTA_VIA, of IPv4 routes by IPv6).
func gateway(gw []byte, other netlink.Destination) netip.Addr {
	if via, ok := other.(*netlink.Via); ok && via != nil {
		gw = via.Addr
	}
	a, _ := netip.AddrFromSlice(gw)
	return a.Unmap()
}

// each calls f for every route of a router in the calling thread's namespace.
func each(f func(r *netlink.Route) error) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []netlink.RouteProtocol{protocolBIRD, protocolBGP} {
			list, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				return fmt.Errorf("list routes: %w", err)
			}
			for i := range list {
				if list[i].Dst == nil {
					continue
				}
				if err := f(&list[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// flush removes what a router that was killed left in the kernel.
func flush(place Place) error {
	return place.Do(func() error {
		return each(func(r *netlink.Route) error {
			// Without its next hops: FRR's are objects of their own, which a request cannot repeat.
			bare := &netlink.Route{Dst: r.Dst, Table: r.Table, Priority: r.Priority, Protocol: r.Protocol, Family: r.Family, Scope: r.Scope, Type: r.Type}
			if err := netlink.RouteDel(bare); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove a route: %w", err)
			}
			return nil
		})
	})
}
