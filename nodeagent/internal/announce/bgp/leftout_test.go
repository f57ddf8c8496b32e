// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"io"
	"net"
	"net/netip"
	"testing"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// What a session cannot carry is said by name, and comes when it can.
func TestWhatIsLeftOutIsNamed(t *testing.T) {
	both := []loadbalancer.BGPRoute{route("198.51.100.1/32"), route("198.51.100.2/32"), route("2001:db8:1::1/128")}
	only := func(families ...gobgp.Family) []gobgp.Family { return families }
	none := netip.Addr{}
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name      string
		takes     []gobgp.Family
		four, six netip.Addr
		told      int
		reason    reason.Reason
		message   string
	}{
		{"all", only(gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC), four, six, 3, "", ""},
		{"a peer of IPv4", only(gobgp.RF_IPv4_UC), four, six, 2, reason.FamilyNotAgreed, "1 IPv6 routes are left out: the peer does not take IPv6 on this session"},
		{"a peer of IPv6", only(gobgp.RF_IPv6_UC), four, six, 1, reason.FamilyNotAgreed, "2 IPv4 routes are left out: the peer does not take IPv4 on this session"},
		{
			"no IPv6 here", only(gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC), four, none, 2, reason.NoNextHop,
			"1 IPv6 routes are left out: this node has no IPv6 address on the link of the session that a router can use",
		},
		{
			"neither", only(gobgp.RF_IPv6_UC), four, none, 0, reason.FamilyNotAgreed,
			"2 IPv4 routes are left out: the peer does not take IPv4 on this session; " +
				"1 IPv6 routes are left out: this node has no IPv6 address on the link of the session that a router can use",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				if greetAs(c, openFor(theirASN, 90, "192.0.2.254", tt.takes...)) {
					_, _ = io.Copy(io.Discard, c)
				}
			})
			s := begin(t, Options{})
			s.Apply(planOf(both, p.spec("p")), func(netip.Addr) (netip.Addr, netip.Addr) { return tt.four, tt.six })
			st := awaitState(t, s, "p", Established)
			if st.Prefixes != tt.told || st.LeftOut != 3-tt.told || st.Reason != tt.reason || st.Message != tt.message {
				t.Errorf("%+v", st)
			}
			if got := len(s.Routes("p")); got != tt.told {
				t.Errorf("%d routes", got)
			}
			s.Apply(planOf(both, p.spec("p")), lab) // the link gets addresses
			if tt.reason == reason.NoNextHop {
				eventually(t, "told once there is a next hop", func() bool {
					st := stateOf(s, "p")
					return st.Prefixes == 3 && st.LeftOut == 0 && st.Reason == "" && st.Flaps == 0
				})
			}
		})
	}
}

func TestIPv4OverIPv6NeedsAnAddressOrTheirConsent(t *testing.T) {
	routes := []loadbalancer.BGPRoute{route("198.51.100.1/32")}
	without := leaves(routes, &rib{}, hops{}, greeting{v4: true})
	if want := "1 IPv4 routes are left out: this node has no IPv4 address on the link of the session, and the peer does not take IPv6 next hops for them (RFC 8950)"; without.why != want || without.reason != reason.NoNextHop {
		t.Errorf("%+v", without)
	}
}
