// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// leftOut is what a session cannot carry of its plan, and why. The zero value is nothing.
type leftOut struct {
	count  int
	reason reason.Reason
	why    string
}

// leaves says what of want, which ascends, the peer is not told, where told is what its
// server has.
func leaves(want []loadbalancer.BGPRoute, told *rib, at hops, g greeting) (out leftOut) {
	// IPv4 comes first.
	six, _ := slices.BinarySearchFunc(want, netip.Addr{}, func(r loadbalancer.BGPRoute, _ netip.Addr) int {
		if r.Prefix.Addr().Is4() {
			return -1
		}
		return 1
	})
	for _, f := range []struct {
		name    string
		routes  []loadbalancer.BGPRoute
		told    int
		taken   bool
		hop     netip.Addr
		without string
	}{
		{"IPv4", want[:six], told.four, g.v4, at.four, noIPv4(g)},
		{"IPv6", want[six:], told.six, g.v6, at.six, "this node has no IPv6 address on the link of the session that a router can use"},
	} {
		n, why := len(f.routes)-f.told, reason.NoNextHop
		words := f.without
		switch {
		case !f.taken:
			n, why = len(f.routes), reason.FamilyNotAgreed
			words = "the peer does not take " + f.name + " on this session"
		case f.hop.IsValid():
			why, words = reason.InvalidPeer, "they cannot be told"
		}
		if n <= 0 {
			continue
		}
		words = fmt.Sprintf("%d %s routes are left out: %s", n, f.name, words)
		if out.count > 0 {
			words = out.why + "; " + words
			why = out.reason
		}
		out = leftOut{out.count + n, why, words}
	}
	return out
}

func noIPv4(g greeting) string {
	words := "this node has no IPv4 address on the link of the session"
	if !g.extended {
		words += ", and the peer does not take IPv6 next hops for them (RFC 8950)"
	}
	return words
}
