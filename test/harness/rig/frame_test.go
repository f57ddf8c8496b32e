// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"net/netip"
	"testing"
	"time"
)

// What the client asks must read as a request, and be well formed: kernels drop messages
// of neighbour discovery with a wrong checksum without a word.
func TestFrames(t *testing.T) {
	t.Parallel()
	h := host{mac: MAC{2, 0, 0, 0, 0, 9}, ip4: netip.MustParseAddr("192.0.2.9"), ip6: netip.MustParseAddr("2001:db8::9")}
	at := time.Unix(1, 0)
	for _, text := range []string{"192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(text)
		for _, to := range []MAC{{}, {2, 0, 0, 0, 0, 1}} {
			b := h.ask(addr, to)
			want := Frame{At: at, Kind: Request, Addr: addr, MAC: h.mac}
			if got, ok := parseFrame(b, at); !ok || got != want {
				t.Errorf("request for %s to %s: read %+v (%t), want %+v", addr, to, got, ok, want)
			}
			if to == (MAC{}) != (b[0]&1 == 1) {
				t.Errorf("request for %s to %s: sent to %x", addr, to, b[:6])
			}
		}
	}
	b := h.ask(netip.MustParseAddr("2001:db8::1"), MAC{})
	if sum := checksum(b[etherLen+8:etherLen+40], b[etherLen+40:]); sum != 0 {
		t.Errorf("the checksum of a solicitation adds up to %#x, not to 0", sum)
	}
	gratuitous := ether(arpLen, broadcast, h.mac, etherARP)
	arp(gratuitous[etherLen:], arpAsk, h.mac, h.ip4, MAC{}, h.ip4)
	if f, ok := parseFrame(gratuitous, at); !ok || f.Kind != Announcement || f.MAC != h.mac || f.Addr != h.ip4 {
		t.Errorf("gratuitous ARP: read %+v (%t)", f, ok)
	}
	for n := range gratuitous { // a shorter frame is no frame, and no reason to crash
		if f, ok := parseFrame(gratuitous[:n], at); ok {
			t.Errorf("%d bytes: read %+v", n, f)
		}
	}
}
