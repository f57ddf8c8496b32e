// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net/netip"
	"testing"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// A link-local next hop stands in both fields, as FRR sends it (RFC 2545 §3 has no other place
// for one that is alone).
func TestALinkLocalNextHopIsToldTwice(t *testing.T) {
	own := netip.MustParseAddr("fe80::1")
	for _, prefix := range []string{"198.51.100.1/32", "2001:db8:1::1/128"} {
		r, spec := route(prefix), (&stranger{}).spec("r")
		p, err := path(&spec, &r, own)
		if err != nil {
			t.Fatal(err)
		}
		reach := attribute[*gobgp.PathAttributeMpReachNLRI](t, p)
		b, err := reach.Serialize()
		if err != nil || reach.Nexthop != own || reach.LinkLocalNexthop != own {
			t.Errorf("%s: next hops %s, %s (% x): %v", prefix, reach.Nexthop, reach.LinkLocalNexthop, b, err)
		}
	}
}

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
