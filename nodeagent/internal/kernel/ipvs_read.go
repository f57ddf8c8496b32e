// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Commands and attributes of linux/ip_vs.h. The kernel has the 64-bit counters from 4.2 on.
const (
	cmdGetService = 4
	cmdGetDest    = 8
	cmdGetInfo    = 15

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcMark      = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9
	svcEngine    = 11
	svcStats64   = 12

	destAddr       = 1
	destPort       = 2
	destForwarding = 3
	destWeight     = 4
	destUpper      = 5
	destLower      = 6
	destActive     = 7
	destInactive   = 8
	destPersistent = 9
	destFamily     = 11
	destStats64    = 12

	statConnections = 1
	statPacketsIn   = 2
	statPacketsOut  = 3
	statBytesIn     = 4
	statBytesOut    = 5
	statRates       = 5 // each rate is this much behind its counter

	infoTableSize = 2

	forwardingMask = 0x7 // IP_VS_CONN_F_FWD_MASK; masquerading is 0
)

// Stats are counters since a virtual or real server was made, and how much they grow each
// second, over the last few. Both are as of the last run of the kernel's estimator, which
// runs every 2 s, and stay 0 where it is switched off (net/ipv4/vs/run_estimation).
type Stats struct {
	Connections, PacketsIn, PacketsOut, BytesIn, BytesOut                uint64
	ConnectionRate, PacketRateIn, PacketRateOut, ByteRateIn, ByteRateOut uint64
}

// ServerState is a virtual server as it is in the kernel. Service and Reals of what it
// embeds are empty: the kernel does not know the former, and the latter are in Reals here.
type ServerState struct {
	loadbalancer.VirtualServer
	// Odd says that something that is not in a [loadbalancer.VirtualServer] is otherwise than
	// [IPVS.AddServer] makes it: flags, the netmask of persistence, a persistence engine.
	// [IPVS.UpdateServer] puts it right.
	Odd   bool
	Stats Stats
	// Reals are in the order of the kernel, which is that in which they were added, the
	// last one first.
	Reals []RealState
}

// Connections is how many entries of the connection table belong to the virtual server's
// present real servers.
func (s *ServerState) Connections() uint64 {
	var n uint64
	for i := range s.Reals {
		r := &s.Reals[i]
		n += uint64(r.Active) + uint64(r.Inactive) + uint64(r.Persistent)
	}
	return n
}

// RealState is a real server as it is in the kernel.
type RealState struct {
	loadbalancer.RealServer
	// Odd says that it does not masquerade, or that it has thresholds. [IPVS.UpdateReal]
	// puts it right.
	Odd bool
	// Active connections are established ones, Inactive those that begin or end, and all of
	// UDP; Persistent are templates by which clients come back.
	Active, Inactive, Persistent uint32
	Stats                        Stats
}

// List reads all virtual servers, whoever made them, with one request, and the real servers
// of each with one more. What changes meanwhile may be in it or not; a virtual server is in
// it once.
func (i *IPVS) List() ([]ServerState, error) {
	replies, err := i.reader.get(cmdGetService, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("list virtual servers: %w", err)
	}
	out := make([]ServerState, 0, len(replies))
	seen := make(map[loadbalancer.VirtualServerKey]struct{}, len(replies))
	for _, r := range replies {
		s, err := parseServer(attributesOf(r).nested(attrService))
		if err != nil {
			return nil, fmt.Errorf("list virtual servers: %w", err)
		}
		// The kernel goes by position and tells of one twice that a change moved.
		if _, again := seen[s.VirtualServerKey]; again {
			continue
		}
		seen[s.VirtualServerKey] = struct{}{}
		if s.Reals, err = i.dests(s.VirtualServerKey); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Reals reads the real servers of one virtual server, the last one added first. The error is
// [ErrNotFound] where there is no such virtual server: of that the kernel says nothing but
// that it has no real servers, and one more request tells.
func (i *IPVS) Reals(key loadbalancer.VirtualServerKey) ([]RealState, error) {
	out, err := i.dests(key)
	if err != nil || len(out) > 0 {
		return out, err
	}
	found, err := i.Has(key)
	if err == nil && !found {
		err = fmt.Errorf("list real servers of %s: %w", name(key), ErrNotFound)
	}
	return nil, err
}

func (i *IPVS) dests(key loadbalancer.VirtualServerKey) ([]RealState, error) {
	replies, err := i.reader.get(cmdGetDest, unix.NLM_F_DUMP, selector(key))
	if err != nil {
		return nil, fmt.Errorf("list real servers of %s: %w", name(key), err)
	}
	out := make([]RealState, 0, len(replies))
	for _, r := range replies {
		s, err := parseReal(attributesOf(r).nested(attrDest), key.Addr.Is4())
		if err != nil {
			return nil, fmt.Errorf("list real servers of %s: %w", name(key), err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Has says whether there is a virtual server of that key: one request.
func (i *IPVS) Has(key loadbalancer.VirtualServerKey) (bool, error) {
	_, err := i.reader.get(cmdGetService, 0, selector(key))
	switch {
	case errors.Is(err, unix.ESRCH):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for virtual server %s: %w", name(key), err)
	}
	return true, nil
}

// ConnTableSize is how many buckets the table of connections has: each costs a list head
// whether used or not, and with many more connections than buckets each packet searches a
// list. What is in use is the sum of [ServerState.Connections].
func (i *IPVS) ConnTableSize() (int, error) {
	replies, err := i.reader.get(cmdGetInfo, 0)
	if err != nil {
		return 0, fmt.Errorf("read the size of the connection table: %w", err)
	}
	if len(replies) != 1 {
		return 0, fmt.Errorf("read the size of the connection table: %d replies", len(replies))
	}
	return int(attributesOf(replies[0]).uint32(infoTableSize)), nil
}

// selector names a virtual server in a request.
func selector(key loadbalancer.VirtualServerKey) nl.NetlinkRequestData {
	a := nl.NewRtAttr(attrService|unix.NLA_F_NESTED, nil)
	family := uint16(unix.AF_INET6)
	if key.Addr.Is4() {
		family = unix.AF_INET
	}
	a.AddRtAttr(svcFamily, nl.Uint16Attr(family))
	if key.Mark != 0 {
		a.AddRtAttr(svcMark, nl.Uint32Attr(key.Mark))
		return a
	}
	a.AddRtAttr(svcProtocol, nl.Uint16Attr(uint16(key.Protocol)))
	a.AddRtAttr(svcAddr, key.Addr.AsSlice())
	a.AddRtAttr(svcPort, binary.BigEndian.AppendUint16(nil, key.Port))
	return a
}

func parseServer(a attributes) (ServerState, error) {
	var s ServerState
	family := a.uint16(svcFamily)
	v4 := family == unix.AF_INET
	s.Mark = a.uint32(svcMark)
	switch {
	case !v4 && family != unix.AF_INET6:
		return s, fmt.Errorf("a virtual server of address family %d", family)
	case s.Mark != 0 && v4:
		s.Addr = netip.IPv4Unspecified()
	case s.Mark != 0:
		s.Addr = netip.IPv6Unspecified()
	default:
		addr, err := address(a[svcAddr], v4)
		if err != nil {
			return s, err
		}
		s.Addr, s.Protocol, s.Port = addr, loadbalancer.Protocol(a.uint16(svcProtocol)), a.port(svcPort) //nolint:gosec // an IP protocol
	}
	s.Scheduler = a.text(svcScheduler)
	var flags uint32
	if b := a[svcFlags]; len(b) >= 4 { // struct ip_vs_flags: flags, and then a mask
		flags = binary.NativeEndian.Uint32(b)
	}
	s.Flags = loadbalancer.SchedulerFlags(flags & schedulerFlags)
	mask := uint32(maskIPv6)
	if v4 {
		mask = maskIPv4
	}
	persistent := flags&svcPersistent != 0
	if persistent {
		s.Affinity = time.Duration(a.uint32(svcTimeout)) * time.Second
	}
	s.Odd = flags&^(svcPersistent|svcHashed|schedulerFlags) != 0 || persistent && a.uint32(svcNetmask) != mask || a.text(svcEngine) != ""
	s.Stats = parseStats(a.nested(svcStats64))
	return s, nil
}

func parseReal(a attributes, v4 bool) (RealState, error) {
	if family := a.uint16(destFamily); family != 0 { // of a tunnel it may be the other one
		v4 = family == unix.AF_INET
	}
	addr, err := address(a[destAddr], v4)
	if err != nil {
		return RealState{}, err
	}
	return RealState{
		RealServer: loadbalancer.RealServer{
			RealServerKey: loadbalancer.RealServerKey{Addr: addr, Port: a.port(destPort)}, Weight: a.uint32(destWeight),
		},
		Odd:    a.uint32(destForwarding)&forwardingMask != 0 || a.uint32(destUpper) != 0 || a.uint32(destLower) != 0,
		Active: a.uint32(destActive), Inactive: a.uint32(destInactive), Persistent: a.uint32(destPersistent),
		Stats: parseStats(a.nested(destStats64)),
	}, nil
}

// address reads a union nf_inet_addr, which has room for both families.
func address(b []byte, v4 bool) (netip.Addr, error) {
	if v4 && len(b) > 4 {
		b = b[:4]
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok || addr.Is4() != v4 {
		return netip.Addr{}, fmt.Errorf("an address of %d bytes", len(b))
	}
	return addr, nil
}

func parseStats(a attributes) Stats {
	return Stats{
		Connections: a.number(statConnections), PacketsIn: a.number(statPacketsIn), PacketsOut: a.number(statPacketsOut),
		BytesIn: a.number(statBytesIn), BytesOut: a.number(statBytesOut),
		ConnectionRate: a.number(statConnections + statRates),
		PacketRateIn:   a.number(statPacketsIn + statRates), PacketRateOut: a.number(statPacketsOut + statRates),
		ByteRateIn: a.number(statBytesIn + statRates), ByteRateOut: a.number(statBytesOut + statRates),
	}
}
