// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// String renders the state as text, one line per group and one per virtual server and
// whatever else is forwarded, in a stable order: what tests compare and what the agent
// serves at /debug/state.
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

// compareGroups orders by length first, which puts IPv4 names before IPv6 ones and
// addresses of one /24 in numerical order.
func compareGroups(a, b loadbalancer.Group) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}
