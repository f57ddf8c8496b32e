// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package netns_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func TestTalk(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		a := netip.MustParseAddr(addr)
		for number, from := range []netip.AddrPort{{}, netip.AddrPortFrom(a, 20000), netip.AddrPortFrom(a, 20000)} {
			to := netip.AddrPortFrom(a, uint16(80+number))
			netns.Serve(t, to, 9000*number)
			c, got := netns.Dial(t, from, to, number)
			if got != 9000*number {
				t.Errorf("%d answers at %s, want %d", got, to, 9000*number)
			}
			if mine := c.LocalAddr().String(); from.IsValid() && mine != from.String() {
				t.Errorf("connected from %s, want %s", mine, from)
			}
			netns.Echo(t, c, "hello")
		}
	}
}
