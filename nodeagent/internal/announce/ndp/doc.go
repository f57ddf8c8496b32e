// SPDX-License-Identifier: Apache-2.0

// Package ndp is how IPv6 addresses are announced on layer 2: the advertisements with
// which a solicitation is answered (RFC 4861 §7.2.4), and unsolicited ones, by which
// neighbours learn of a new owner (§7.2.6). Package l2 says when; this one must not touch
// sockets, clocks or anything but bytes.
package ndp

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// New makes an announcer of IPv6 addresses; see [l2.New].
func New(open l2.Opener, count l2.Counters, repeat time.Duration, notify func(), heard l2.Heard) *l2.Announcer {
	return l2.New(protocol{}, open, count, repeat, notify, heard)
}

type protocol struct{}

var _ l2.Protocol = protocol{}

func (protocol) Name() string { return "NDP" }

func (protocol) Serves(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

func (protocol) Uses(l kernel.Link) bool { return l.IPv6 }

// Burst is what RFC 4861 §7.2.6 allows: three advertisements (MAX_NEIGHBOR_ADVERTISEMENT),
// a second apart (RETRANS_TIMER). The first moves the traffic, because unlike with ARP a
// neighbour obeys the override flag whatever the age of its entry.
func (protocol) Burst() []time.Duration { return []time.Duration{0, time.Second, 2 * time.Second} }

// Parse takes solicitations and advertisements. A solicitation from the unspecified
// address asks whether the address is free (RFC 4862 §5.4.2).
func (protocol) Parse(b []byte) (l2.Packet, bool) {
	m, ok := parse(b)
	if !ok {
		return l2.Packet{}, false
	}
	if m.advertisement {
		out := l2.Packet{From: m.from, Sender: m.src, Claims: m.target}
		if m.hasLink {
			out.From = m.link
		}
		return out, !out.From.IsGroup()
	}
	out := l2.Packet{From: m.from, Sender: m.src, Asks: m.target}
	if m.src.IsUnspecified() {
		out.Wants = m.target
	} else {
		out.Claims = m.src
		if m.hasLink {
			out.From = m.link
		}
	}
	return out, !out.From.IsGroup()
}

// Reply advertises the address asked for with the link's own address, which overrides
// what the neighbour knew. Who has no address yet is answered by multicast (§7.2.4).
func (protocol) Reply(buf []byte, p l2.Packet, own kernel.MAC) l2.Frame {
	if p.Sender.IsUnspecified() {
		return advertise(buf, p.Asks, own)
	}
	m := message{
		advertisement: true, solicited: true, override: true,
		from: own, to: p.From, src: p.Asks, dst: p.Sender, target: p.Asks, hasLink: true, link: own,
	}
	return l2.Frame{Bytes: m.marshal(buf), To: m.to}
}

func (protocol) Announcement(a netip.Addr, own kernel.MAC, _ int) []l2.Frame {
	return []l2.Frame{advertise(nil, a, own)}
}

// Question is a solicitation (RFC 4861 §7.2.2), by unicast one that checks whether a
// neighbour is still there (§7.3.3), and with no source one of duplicate address detection
// (RFC 4862 §5.4.2).
func (protocol) Question(target, source netip.Addr, own, to kernel.MAC) l2.Frame {
	m := message{from: own, to: to, src: source, dst: target, target: target, hasLink: true, link: own}
	if !source.Is6() || source.IsUnspecified() {
		m.src, m.hasLink = netip.IPv6Unspecified(), false
	}
	if to == (kernel.MAC{}) || m.src.IsUnspecified() {
		m.dst = kernel.SolicitedNode(target)
	}
	if to == (kernel.MAC{}) {
		group := m.dst.As16()
		m.to = kernel.MAC{0x33, 0x33, group[12], group[13], group[14], group[15]} // RFC 2464 §7
	}
	return l2.Frame{Bytes: m.marshal(nil), To: m.to}
}

// advertise tells all nodes on the link who has an address.
func advertise(buf []byte, a netip.Addr, own kernel.MAC) l2.Frame {
	m := message{
		advertisement: true, override: true,
		from: own, to: kernel.MAC{0x33, 0x33, 0, 0, 0, 1}, src: a, dst: netip.IPv6LinkLocalAllNodes(), target: a,
		hasLink: true, link: own,
	}
	return l2.Frame{Bytes: m.marshal(buf), To: m.to}
}
