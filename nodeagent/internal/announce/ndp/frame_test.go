// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package ndp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

func ownMAC() kernel.MAC  { return kernel.MAC{2, 0, 0, 0, 0, 1} }
func peerMAC() kernel.MAC { return kernel.MAC{2, 0, 0, 0, 0, 9} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func cmpAddrs() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}) }

// solicitation is what fd00::9 asks for fd00::200, as a capture of Linux shows it.
func solicitation() message {
	return message{
		from: peerMAC(), to: kernel.MAC{0x33, 0x33, 0xff, 0, 2, 0},
		src: addr("fd00::9"), dst: addr("ff02::1:ff00:200"), target: addr("fd00::200"), hasLink: true, link: peerMAC(),
	}
}

func changed(change func(m *message)) message {
	m := solicitation()
	change(&m)
	return m
}

func advertisement(m *message) {
	m.advertisement, m.override, m.src = true, true, addr("fd00::200")
	m.dst = netip.IPv6LinkLocalAllNodes()
}

// A frame captured with tcpdump from a Linux host (ndisc6), byte by byte.
func TestCapturedSolicitation(t *testing.T) {
	t.Parallel()
	m := changed(func(m *message) { m.src = addr("fe80::ff:fe00:9") })
	got := m.marshal(nil)
	want := []byte{
		0x33, 0x33, 0xff, 0x00, 0x02, 0x00, 0x02, 0, 0, 0, 0, 0x09, 0x86, 0xdd,
		0x60, 0, 0, 0, 0, 0x20, 0x3a, 0xff,
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0x09,
		0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff, 0, 0x02, 0,
		0x87, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0,
		0x01, 0x01, 0x02, 0, 0, 0, 0, 0x09,
	}
	copy(want[56:58], got[56:58]) // the checksum is checked by the kernel tests' clients
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		m    message
		want l2.Packet
	}{
		"solicitation": {
			solicitation(), l2.Packet{From: peerMAC(), Sender: addr("fd00::9"), Asks: addr("fd00::200"), Claims: addr("fd00::9")},
		},
		"of a neighbour with another link address than its frame's": {
			changed(func(m *message) { m.link[5] = 7 }),
			l2.Packet{From: kernel.MAC{2, 0, 0, 0, 0, 7}, Sender: addr("fd00::9"), Asks: addr("fd00::200"), Claims: addr("fd00::9")},
		},
		"by unicast, without a link address": {
			changed(func(m *message) { m.hasLink, m.link, m.dst, m.to = false, kernel.MAC{}, m.target, ownMAC() }),
			l2.Packet{From: peerMAC(), Sender: addr("fd00::9"), Asks: addr("fd00::200"), Claims: addr("fd00::9")},
		},
		"is the address free": {
			changed(func(m *message) { m.src, m.hasLink, m.link = netip.IPv6Unspecified(), false, kernel.MAC{} }),
			l2.Packet{From: peerMAC(), Sender: netip.IPv6Unspecified(), Asks: addr("fd00::200"), Wants: addr("fd00::200")},
		},
		"advertisement": {
			changed(advertisement), l2.Packet{From: peerMAC(), Sender: addr("fd00::200"), Claims: addr("fd00::200")},
		},
	}
	for name, tt := range tests {
		got, ok := protocol{}.Parse(tt.m.marshal(nil))
		if diff := cmp.Diff(tt.want, got, cmpAddrs()); diff != "" || !ok {
			t.Errorf("%s (%t, -want +got):\n%s", name, ok, diff)
		}
		padded := append(tt.m.marshal(nil), 0, 0, 0, 0)
		if _, ok := (protocol{}).Parse(padded); !ok {
			t.Errorf("%s with padding is refused", name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	// Where a byte is changed the checksum is made right again, unless it is the byte.
	edit := func(at int, v byte) []byte {
		m := solicitation()
		b := m.marshal(nil)
		b[at] = v
		if at != 57 {
			ip := b[etherLen:]
			ip[ipLen+2], ip[ipLen+3] = 0, 0
			sum := checksum(ip)
			ip[ipLen+2], ip[ipLen+3] = byte(sum>>8), byte(sum)
		}
		return b
	}
	of := func(change func(m *message)) []byte {
		m := changed(change)
		return m.marshal(nil)
	}
	tests := map[string][]byte{
		"nothing":                nil,
		"IPv4":                   edit(12, 8),
		"version 4":              edit(14, 0x40),
		"passed on by a router":  edit(21, 254),
		"UDP":                    edit(20, 17),
		"router solicitation":    edit(54, 133),
		"code 1":                 edit(55, 1),
		"wrong checksum":         edit(57, 0xee),
		"option of no length":    edit(79, 0),
		"option beyond the end":  edit(79, 2),
		"length beyond the end":  edit(19, 0x28),
		"length below the least": edit(19, 16),
		"cut off":                of(func(*message) {})[:60],
		"multicast target":       of(func(m *message) { m.target = addr("ff02::1") }),
		"multicast source":       of(func(m *message) { m.src = addr("ff02::1") }),
		"probe with a link address": of(func(m *message) {
			m.src = netip.IPv6Unspecified()
		}),
		"probe to all nodes": of(func(m *message) {
			m.src, m.hasLink, m.dst = netip.IPv6Unspecified(), false, netip.IPv6LinkLocalAllNodes()
		}),
		"solicited advertisement to all": of(func(m *message) { advertisement(m); m.solicited = true }),
	}
	for name, b := range tests {
		if p, ok := (protocol{}).Parse(b); ok {
			t.Errorf("%s: parsed as %+v", name, p)
		}
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	p := l2.Packet{From: peerMAC(), Sender: addr("fd00::9"), Asks: addr("fd00::200")}
	tests := map[string]struct {
		sender netip.Addr
		want   message
	}{
		"to who asked": {addr("fd00::9"), message{
			advertisement: true, solicited: true, override: true, from: ownMAC(), to: peerMAC(),
			src: addr("fd00::200"), dst: addr("fd00::9"), target: addr("fd00::200"), hasLink: true, link: ownMAC(),
		}},
		"to all if who asked has no address": {netip.IPv6Unspecified(), message{
			advertisement: true, override: true, from: ownMAC(), to: kernel.MAC{0x33, 0x33, 0, 0, 0, 1},
			src: addr("fd00::200"), dst: addr("ff02::1"), target: addr("fd00::200"), hasLink: true, link: ownMAC(),
		}},
	}
	for name, tt := range tests {
		p.Sender = tt.sender
		f := protocol{}.Reply(bytes.Repeat([]byte{0xff}, 200)[:0], p, ownMAC())
		got, ok := parse(f.Bytes)
		if diff := cmp.Diff(tt.want, got, cmpAddrs(), cmp.AllowUnexported(message{})); diff != "" || !ok || f.To != tt.want.to {
			t.Errorf("%s (%t, to %s, -want +got):\n%s", name, ok, f.To, diff)
		}
	}
}

func TestAnnouncement(t *testing.T) {
	t.Parallel()
	frames := protocol{}.Announcement(addr("fd00::200"), ownMAC(), 0)
	if len(frames) != 1 {
		t.Fatalf("%d frames; want 1", len(frames))
	}
	m, ok := parse(frames[0].Bytes)
	if !ok || !m.advertisement || m.solicited || !m.override || m.link != ownMAC() || m.target != addr("fd00::200") {
		t.Errorf("announcement %+v (%t)", m, ok)
	}
	// RFC 4861 §7.2.6 and §10: at most 3, at least a second apart.
	if diff := cmp.Diff([]time.Duration{0, time.Second, 2 * time.Second}, protocol{}.Burst()); diff != "" {
		t.Errorf("burst (-want +got):\n%s", diff)
	}
	for a, want := range map[string]bool{"192.0.2.1": false, "::ffff:192.0.2.1": false, "fd00::1": true} {
		if got := (protocol{}).Serves(addr(a)); got != want {
			t.Errorf("serves %s: %t", a, got)
		}
	}
}

// hostile are frames that somebody might send to do harm.
func hostile() map[string][]byte {
	with := func(at int, v ...byte) []byte {
		m := solicitation()
		b := m.marshal(nil)
		copy(b[at:], v)
		return b
	}
	signed := func(b []byte) []byte {
		b[56], b[57] = 0, 0
		binary.BigEndian.PutUint16(b[56:], checksum(b[etherLen:]))
		return b
	}
	m := solicitation()
	good := m.marshal(nil)
	tagged := append(append(append([]byte{}, good[:12]...), 0x81, 0, 0, 5), good[12:]...)
	many := append([]byte{}, good[:etherLen+ipLen+bodyLen]...)
	for range 150 {
		many = append(many, 14, 1, 0, 0, 0, 0, 0, 0)
	}
	binary.BigEndian.PutUint16(many[etherLen+4:], uint16(len(many)-etherLen-ipLen))
	return map[string][]byte{
		"empty": {}, "header only": good[:14], "cut off": good[:60], "jumbo": append(append([]byte{}, good...), make([]byte, 9000)...),
		"wrong checksum": with(56, 0, 0), "hop limit 254": signed(with(21, 254)), "hop limit 0": signed(with(21, 0)),
		"option of length 0": signed(with(79, 0)), "option too long": signed(with(79, 255)), "code 1": signed(with(55, 1)),
		"asks for a group": signed(with(62, 0xff)), "from a group": signed(with(22, 0xff)), "fragment": with(20, 44),
		"extension header": with(20, 0), "payload longer than the frame": with(18, 0xff, 0xff), "no payload": with(18, 0, 0),
		"its link address is a group": signed(with(80, 0x33)), "VLAN tag": tagged, "150 options": signed(many),
	}
}

// None of them is answered, but for those that are good before what is too much of them.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	fine := map[string]bool{"jumbo": true, "150 options": true}
	for name, b := range hostile() {
		if _, ok := (protocol{}).Parse(b); ok != fine[name] {
			t.Errorf("%s: understood %t, want %t", name, ok, fine[name])
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []message{
		solicitation(), changed(advertisement),
		changed(func(m *message) { m.src, m.hasLink, m.link = netip.IPv6Unspecified(), false, kernel.MAC{} }),
	} {
		f.Add(m.marshal(nil))
	}
	for _, b := range hostile() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parse(b)
		if !ok {
			return
		}
		again, ok := parse(m.marshal(nil))
		if !ok || again != m {
			t.Errorf("round trip: %+v (%t), want %+v", again, ok, m)
		}
		if p, ok := (protocol{}).Parse(b); ok && (p.From.IsGroup() || p.Asks.IsMulticast()) {
			t.Errorf("parsed as %+v (%t)", p, ok)
		}
	})
}

// Hostile frames must cost no memory.
func TestParseDoesNotAllocate(t *testing.T) {
	m := solicitation()
	b := m.marshal(nil)
	if n := testing.AllocsPerRun(100, func() { parse(b) }); n > 0 {
		t.Errorf("%v allocations per frame", n)
	}
}
