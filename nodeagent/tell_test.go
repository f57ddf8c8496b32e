// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"slices"
	"testing"
)

// The API server refuses all of a status for one address too many on an interface, and
// the controller needs to know each subnet.
func TestShownPrefixes(t *testing.T) {
	t.Parallel()
	var many []netip.Prefix
	for i := range 200 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 24))
	}
	last := netip.MustParsePrefix("198.51.100.1/24")
	many = append(many, last)
	got := shownPrefixes(many)
	if len(got) != maxPrefixes {
		t.Errorf("%d prefixes, want %d", len(got), maxPrefixes)
	}
	for _, want := range []string{"192.0.2.0/24", last.String()} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if got := shownPrefixes(many[:3]); !slices.Equal(got, []string{"192.0.2.0/24", "192.0.2.1/24", "192.0.2.2/24"}) {
		t.Errorf("three prefixes are shown as %v", got)
	}
}
