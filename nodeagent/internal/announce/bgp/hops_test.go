// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net/netip"
	"testing"
)

func TestNextHops(t *testing.T) {
	addr := func(s string) netip.Addr {
		if s == "" {
			return netip.Addr{}
		}
		return netip.MustParseAddr(s)
	}
	tests := []struct {
		name, local string
		found       bool
		extended    bool
		four, six   string // of the link
		want4       string
		want6       string
	}{
		{"both over IPv4", "192.0.2.1", false, false, "192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::1"},
		{"no IPv6 on the link", "192.0.2.1", false, false, "192.0.2.1", "", "192.0.2.1", ""},
		{"never mapped", "192.0.2.1", false, false, "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", ""},
		{"never link-local", "192.0.2.1", false, false, "192.0.2.1", "fe80::1", "192.0.2.1", ""},
		{"IPv6, with RFC 8950", "2001:db8::2", false, true, "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::2"},
		{"IPv6, without", "2001:db8::2", false, false, "192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::2"},
		{"IPv6, without, no IPv4", "2001:db8::2", false, false, "", "2001:db8::1", "", "2001:db8::2"},
		{"link-local", "fe80::1%eth0", false, true, "192.0.2.1", "2001:db8::1", "2001:db8::1", "2001:db8::1"},
		{"of a link that was found", "fe80::1%eth0", true, true, "192.0.2.1", "2001:db8::1", "fe80::1", "fe80::1"},
		{"of a link that was found, without RFC 8950", "fe80::1%eth0", true, false, "192.0.2.1", "", "192.0.2.1", "fe80::1"},
		{"a mapped local address", "::ffff:192.0.2.1", false, false, "", "", "192.0.2.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := hopsOf(addr(tt.local), tt.found, greeting{extended: tt.extended}, func(netip.Addr) (netip.Addr, netip.Addr) { return addr(tt.four), addr(tt.six) })
			if want := (hops{addr(tt.want4), addr(tt.want6)}); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
