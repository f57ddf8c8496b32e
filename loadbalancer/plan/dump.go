// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// String renders the state as text, one line per group, in a stable order: what tests
// compare and what the agent serves at /debug/state.
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
	return b.String()
}

// compareGroups orders by length first, which puts IPv4 names before IPv6 ones and
// addresses of one /24 in numerical order.
func compareGroups(a, b loadbalancer.Group) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}
