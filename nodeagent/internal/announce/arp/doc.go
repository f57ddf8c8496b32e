// SPDX-License-Identifier: Apache-2.0

// Package arp is how IPv4 addresses are announced on layer 2: the frames with which a
// request is answered with the link's own address (RFC 826), and gratuitous ones, by
// which neighbours learn of a new owner (RFC 5227 §3). Package l2 says when; this one
// must not touch sockets, clocks or anything but bytes.
package arp

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// New makes an announcer of IPv4 addresses; see [l2.New].
func New(open l2.Opener, count l2.Counters, repeat time.Duration, notify func(), heard l2.Heard) *l2.Announcer {
	return l2.New(protocol{}, open, count, repeat, notify, heard)
}

type protocol struct{}

var _ l2.Protocol = protocol{}

func (protocol) Name() string { return "ARP" }

func (protocol) Serves(a netip.Addr) bool { return a.Is4() }

func (protocol) Uses(kernel.Link) bool { return true }

// Burst is when gratuitous frames go out after a take-over. The first is what moves the
// traffic; the later ones are for neighbours that lost it or that ignore changes within
// a second of the last one (Linux' locktime). The two forms are two steps at first: when a
// thousand addresses move, each is told of in one form before any is in the other.
func (protocol) Burst() []time.Duration {
	return []time.Duration{
		0, 0, 100 * time.Millisecond, 300 * time.Millisecond, 1100 * time.Millisecond, 2200 * time.Millisecond,
	}
}

// Parse takes requests and replies. Both tell who has the sender's address; an
// announcement (sender and target are one) asks for nothing. Whoever calls itself a group
// wants the answer sent to all, which nobody is entitled to.
func (protocol) Parse(b []byte) (l2.Packet, bool) {
	p, ok := parse(b)
	if !ok || p.sender.IsGroup() {
		return l2.Packet{}, false
	}
	out := l2.Packet{From: p.sender, Sender: p.senderIP}
	if !p.senderIP.IsUnspecified() {
		out.Claims = p.senderIP
	}
	if p.request && p.senderIP != p.targetIP {
		out.Asks = p.targetIP
		if p.senderIP.IsUnspecified() {
			out.Wants = p.targetIP
		}
	}
	return out, true
}

// Reply also answers a probe (RFC 5227 §2.1.1), whose sender has no address yet.
func (protocol) Reply(buf []byte, p l2.Packet, own kernel.MAC) l2.Frame {
	return frame(buf, &packet{sender: own, senderIP: p.Asks, target: p.From, targetIP: p.Sender, frameDest: p.From})
}

// Announcement is one form at each of the first two steps, and both at all others.
func (protocol) Announcement(a netip.Addr, own kernel.MAC, step int) []l2.Frame {
	packets := gratuitous(a, own)
	if step < len(packets) {
		return []l2.Frame{frame(nil, &packets[step])}
	}
	out := make([]l2.Frame, 0, len(packets))
	for i := range packets {
		out = append(out, frame(nil, &packets[i]))
	}
	return out
}

// Question is a request (RFC 826), or with no source a probe (RFC 5227 §2.1.1).
func (protocol) Question(target, source netip.Addr, own, to kernel.MAC) l2.Frame {
	p := &packet{request: true, sender: own, senderIP: source, targetIP: target, frameDest: to}
	if !source.Is4() {
		p.senderIP = netip.IPv4Unspecified()
	}
	if to == (kernel.MAC{}) {
		p.frameDest = broadcast()
	}
	return frame(nil, p)
}

func frame(buf []byte, p *packet) l2.Frame { return l2.Frame{Bytes: marshal(buf, p), To: p.frameDest} }
