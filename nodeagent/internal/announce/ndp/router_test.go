// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package ndp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// routerWords is a frame with a message, given by its octets, and the checksum that it needs.
func routerWords(body []byte, src, dst string) []byte {
	b := make([]byte, etherLen+ipLen, etherLen+ipLen+len(body))
	binary.BigEndian.PutUint16(b[12:], etherTypeIPv6)
	ip := b[etherLen:]
	ip[0], ip[6], ip[7] = 6<<4, nextICMPv6, hopLimit
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[etherLen+ipLen+2:], checksum(b[etherLen:]))
	return b
}

func TestParseRouter(t *testing.T) {
	// As routers send it: hop limit 64, lifetime 30 s, its own
	// link-layer address, MTU 1500.
	ra := []byte{134, 0, 0, 0, 64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1, 5, 1, 0, 0, 0, 0, 5, 220}
	rs := []byte{133, 0, 0, 0, 0, 0, 0, 0}
	good := func() []byte { return routerWords(ra, "fe80::1", "ff02::1") }
	sum := func(b []byte) []byte { // mends the checksum
		ip := b[etherLen:]
		ip[ipLen+2], ip[ipLen+3] = 0, 0
		binary.BigEndian.PutUint16(ip[ipLen+2:], checksum(ip))
		return b
	}
	change := func(f func(b []byte)) []byte { b := good(); f(b); return b }
	one := RouterMessage{Advertisement: true, From: netip.MustParseAddr("fe80::1"), Lifetime: 30 * time.Second}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  RouterMessage
		ok    bool
	}{
		{"advertisement", good(), one, true},
		{"with padding", append(good(), 0, 0, 0), one, true},
		{"solicitation", routerWords(rs, "fe80::1", "ff02::2"), RouterMessage{From: one.From}, true},
		{"solicitation of who has no address", routerWords(rs, "::", "ff02::2"), RouterMessage{From: netip.IPv6Unspecified()}, true},
		{"passed on by a router", change(func(b []byte) { b[etherLen+7] = 254 }), RouterMessage{}, false},
		{"wrong checksum", change(func(b []byte) { b[len(b)-1] ^= 1 }), RouterMessage{}, false},
		{"not link-local", routerWords(ra, "2001:db8::1", "ff02::1"), RouterMessage{}, false},
		{"a neighbour's", routerWords(append([]byte{136, 0}, make([]byte, 22)...), "fe80::1", "ff02::1"), RouterMessage{}, false},
		{"a code", sum(change(func(b []byte) { b[etherLen+ipLen+1] = 1 })), RouterMessage{}, false},
		{"an option without length", sum(change(func(b []byte) { b[etherLen+ipLen+routerAdvertisementLen+1] = 0 })), RouterMessage{}, false},
		{"an option beyond the end", sum(change(func(b []byte) { b[etherLen+ipLen+routerAdvertisementLen+1] = 9 })), RouterMessage{}, false},
		{"cut off", good()[:etherLen+ipLen+12], RouterMessage{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := ParseRouter(tt.frame); ok != tt.ok || ok && got != tt.want {
				t.Errorf("got %+v, %t; want %+v, %t", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// What we say makes us nobody's default router, and says nothing of the link.
func TestWhatARouterIsTold(t *testing.T) {
	mac, own := kernel.MAC{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("fe80::7")
	link := []byte{1, 1, 2, 0, 0, 0, 0, 7}
	for _, tt := range []struct {
		got  []byte
		body []byte
		to   string
		mac  kernel.MAC
		read RouterMessage
	}{
		{AdvertiseRouter(mac, own), append(append([]byte{134}, make([]byte, 15)...), link...), "ff02::1", kernel.MAC{0x33, 0x33, 0, 0, 0, 1}, RouterMessage{Advertisement: true, From: own}},
		{SolicitRouters(mac, own), append(append([]byte{133}, make([]byte, 7)...), link...), "ff02::2", kernel.MAC{0x33, 0x33, 0, 0, 0, 2}, RouterMessage{From: own}},
	} {
		want := routerWords(tt.body, "fe80::7", tt.to)
		copy(want, tt.mac[:])
		copy(want[6:], mac[:])
		if !bytes.Equal(tt.got, want) {
			t.Errorf("got % x\nwant % x", tt.got, want)
		}
		if m, ok := ParseRouter(tt.got); !ok || m != tt.read {
			t.Errorf("read as %+v, %t, want %+v", m, ok, tt.read)
		}
	}
}

func FuzzParseRouter(f *testing.F) {
	f.Add(AdvertiseRouter(kernel.MAC{2}, netip.MustParseAddr("fe80::7")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := ParseRouter(b); ok && m.Advertisement && !m.From.IsLinkLocalUnicast() {
			t.Errorf("%+v", m)
		}
	})
}
