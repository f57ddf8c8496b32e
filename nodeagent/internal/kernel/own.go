// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Own returns the node's own addresses by link, also of links that cannot announce: those
// that are down, dummies, and the loopback link, on which nodes that speak BGP often have
// one. Left out are link-local and loopback addresses, those that are not usable yet
// (tentative), and what is ours or, on kube-ipvs0, kube-proxy's. On each link the addresses that the kernel itself prefers
// as a source come first, then they ascend. Links without any are left out; the others
// ascend by name, and nothing but name, index and prefixes is set.
func (k *Kernel) Own() ([]Link, error) {
	links, err := retry(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := k.addrs(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := make(map[int][]ranked)
	for i := range addrs {
		if r, ok := rank(&addrs[i]); ok {
			byLink[addrs[i].LinkIndex] = append(byLink[addrs[i].LinkIndex], r)
		}
	}
	var out []Link
	for _, l := range links {
		a := l.Attrs()
		list := byLink[a.Index]
		if a.Name == VIPLinkName || a.Name == kubeProxyLink || len(list) == 0 {
			continue
		}
		slices.SortFunc(list, func(a, b ranked) int { return cmp.Or(a.rank-b.rank, comparePrefixes(a.Prefix, b.Prefix)) })
		link := Link{Name: a.Name, Index: a.Index}
		for _, r := range list {
			link.Prefixes = append(link.Prefixes, r.Prefix)
		}
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ranked is an address with how little the kernel likes it, 0 for the best.
type ranked struct {
	netip.Prefix
	rank int
}

// rank of an address (rtnetlink(7), IFA_F_*): deprecated ones come last, before them
// temporary (IPv6) and secondary (IPv4) ones, which share a flag.
func rank(a *netlink.Addr) (ranked, bool) {
	p, ok := prefixOf(a)
	if !ok || p.Addr().IsLoopback() || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
		return ranked{}, false
	}
	switch {
	case a.Flags&unix.IFA_F_DEPRECATED != 0:
		return ranked{p, 2}, true
	case a.Flags&unix.IFA_F_SECONDARY != 0:
		return ranked{p, 1}, true
	default:
		return ranked{p, 0}, true
	}
}
