// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// String renders the state as text, one line per group, one per virtual server and whatever
// else is forwarded, and one per BGP session and route, in a stable order: what tests compare
// and what the agent serves at /debug/state. Passwords are not in it.
func (s NodeState) String() string {
	var b strings.Builder
	for _, g := range slices.SortedFunc(maps.Keys(s.Groups), compareGroups) {
		st := s.Groups[g]
		owner := "nobody"
		if st.Owner.Node != "" {
			owner = fmt.Sprintf("%s@%d", st.Owner.Node, st.Owner.Epoch)
		}
		fmt.Fprintf(&b, "group %s owner %s", g, owner)
		if st.Heir != "" {
			fmt.Fprintf(&b, " then %s", st.Heir)
		}
		fmt.Fprintf(&b, ": %s", st.Action)
		if st.Reason != "" {
			fmt.Fprintf(&b, " (%s)", st.Reason)
		}
		for _, a := range st.Announce {
			fmt.Fprintf(&b, " %s%%%s", a.Addr, a.Interface)
		}
		for _, a := range st.Claims {
			if why := st.Silent[a]; why != "" {
				fmt.Fprintf(&b, " %s!%s", a, why)
			}
		}
		if len(st.Orphans) > 0 {
			fmt.Fprintf(&b, " until taken: %v", st.Orphans)
		}
		b.WriteByte('\n')
	}
	dumpForwarding(&b, s.Forwarding)
	dumpBGP(&b, s.BGP)
	return b.String()
}

func dumpForwarding(b *strings.Builder, f loadbalancer.Forwarding) {
	for _, a := range f.VIPs {
		fmt.Fprintf(b, "vip %s\n", a)
	}
	for _, v := range f.VirtualServers {
		b.WriteString("server ")
		if v.Mark != 0 {
			fmt.Fprintf(b, "mark 0x%08x %s", v.Mark, v.Addr)
		} else {
			fmt.Fprintf(b, "%s %s", v.Protocol, netip.AddrPortFrom(v.Addr, v.Port))
		}
		fmt.Fprintf(b, " %s %s", v.Service, v.Scheduler)
		if v.Flags != 0 {
			fmt.Fprintf(b, " flags 0x%x", uint32(v.Flags))
		}
		if v.Affinity > 0 {
			fmt.Fprintf(b, " affinity %s", v.Affinity)
		}
		b.WriteByte(':')
		for _, r := range v.Reals {
			fmt.Fprintf(b, " %s=%d", netip.AddrPortFrom(r.Addr, r.Port), r.Weight)
		}
		b.WriteByte('\n')
	}
	for _, s := range f.Served {
		fmt.Fprintf(b, "served %s %s mark 0x%08x", s.Protocol, netip.AddrPortFrom(s.Addr, s.Port), s.Mark)
		if s.Masquerade {
			b.WriteString(" masquerade")
		}
		if s.Foreign {
			b.WriteString(" foreign")
		}
		if len(s.Sources) > 0 {
			fmt.Fprintf(b, " sources %v", s.Sources)
		}
		b.WriteByte('\n')
	}
	if len(f.InCluster) > 0 {
		fmt.Fprintf(b, "in-cluster %v\n", f.InCluster)
	}
	if len(f.LocalReals) > 0 {
		fmt.Fprintf(b, "local %v\n", f.LocalReals)
	}
}

func dumpBGP(b *strings.Builder, p loadbalancer.BGPPlan) {
	if p.Reason != "" {
		fmt.Fprintf(b, "bgp tells nothing (%s)\n", p.Reason)
	}
	for i := range p.Sessions {
		s := &p.Sessions[i]
		fmt.Fprintf(b, "bgp peer %s %s as %s\n", s.Peer, peerAddress(s), peerASN(s))
	}
	for _, peer := range slices.Sorted(maps.Keys(p.Routes)) {
		for i := range p.Routes[peer] {
			dumpRoute(b, peer, &p.Routes[peer][i])
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(p.Silent), netip.Addr.Compare) {
		fmt.Fprintf(b, "bgp silent %s (%s)\n", a, p.Silent[a])
	}
	for _, f := range p.Faults {
		kind, name := "advertisement", f.Advertisement
		if f.Peer != "" {
			kind, name = "peer", f.Peer
		}
		fmt.Fprintf(b, "bgp fault %s %s %s: %s\n", kind, name, f.Reason, f.Message)
	}
}

func peerAddress(s *loadbalancer.BGPSession) string {
	if s.Interface != "" {
		return "on " + s.Interface
	}
	return netip.AddrPortFrom(s.Addr, s.Port).String()
}

func peerASN(s *loadbalancer.BGPSession) string {
	switch s.Dynamic {
	case loadbalancer.InternalASN:
		return "internal"
	case loadbalancer.ExternalASN:
		return "external"
	case loadbalancer.FixedASN:
	}
	return strconv.FormatUint(uint64(s.PeerASN), 10)
}

func dumpRoute(b *strings.Builder, peer string, r *loadbalancer.BGPRoute) {
	fmt.Fprintf(b, "bgp route %s %s", peer, r.Prefix)
	if !r.Prefix.IsSingleIP() {
		fmt.Fprintf(b, " for %v", r.Addrs)
	}
	if r.HasLocalPref {
		fmt.Fprintf(b, " local-pref %d", r.LocalPref)
	}
	if r.HasMED {
		fmt.Fprintf(b, " med %d", r.MED)
	}
	if r.Prepend > 0 {
		fmt.Fprintf(b, " prepend %d", r.Prepend)
	}
	if len(r.Communities) > 0 {
		fmt.Fprintf(b, " communities %v", r.Communities)
	}
	if r.LinkBandwidth > 0 {
		fmt.Fprintf(b, " bandwidth %d", r.LinkBandwidth)
	}
	b.WriteByte('\n')
}

// compareGroups orders by length first, which puts IPv4 names before IPv6 ones and
// addresses of one /24 in numerical order.
func compareGroups(a, b loadbalancer.Group) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}
