// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRankOfOwnAddresses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cidr  string
		flags int
		rank  int // -1: left out
	}{
		"plain":            {"192.0.2.1/24", unix.IFA_F_PERMANENT, 0},
		"secondary":        {"192.0.2.2/24", unix.IFA_F_SECONDARY, 1},
		"temporary":        {"2001:db8::1/64", unix.IFA_F_TEMPORARY, 1},
		"deprecated":       {"2001:db8::2/64", unix.IFA_F_DEPRECATED, 2},
		"tentative":        {"2001:db8::3/64", unix.IFA_F_TENTATIVE, -1},
		"optimistic":       {"2001:db8::4/64", unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC, 0},
		"somebody else's":  {"2001:db8::5/64", unix.IFA_F_DADFAILED, -1},
		"link-local":       {"fe80::1/64", 0, -1},
		"loopback":         {"127.0.0.1/8", 0, -1},
		"IPv6 loopback":    {"::1/128", 0, -1},
		"one on a lo link": {"198.51.100.1/32", 0, 0},
	} {
		addr, err := netlink.ParseAddr(tt.cidr)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = tt.flags
		got, ok := rank(addr)
		if ok != (tt.rank >= 0) || ok && (got.rank != tt.rank || got.String() != tt.cidr) {
			t.Errorf("%s: %+v %t, want rank %d", name, got, ok, tt.rank)
		}
	}
}
