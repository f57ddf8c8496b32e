// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const birdSays = `BIRD 2.0.12 ready.
Table master4:
198.51.100.1/32      unicast [n1 22:29:59.000] * (100) [AS64512i]
	via 10.30.0.10 on eth0
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 64512 64512
	BGP.next_hop: 10.30.0.10
	BGP.med: 7
	BGP.local_pref: 200
	BGP.community: (65000,1) (65535,0)
	BGP.large_community: (65000, 1, 2)
	BGP.ext_community: (rt, 65000, 1)
                     unicast [n2 22:29:59.000] (100) [AS64512i]
	via 10.30.0.11 on eth0
	Type: BGP univ
	BGP.as_path: 64512
	BGP.next_hop: 10.30.0.11
	BGP.local_pref: 100
`

const frrSays = `{"prefix":"198.51.100.1/32","paths":[
 {"aspath":{"string":"64512 64512","length":2},"origin":"IGP","metric":7,"locPrf":0,"valid":true,"stale":true,
  "community":{"string":"65000:1 graceful-shutdown"},"largeCommunity":{"string":"65000:1:2"},"extendedCommunity":{"string":"RT:65000:1 LB:64512:375000 (3.000 Mbps)"},
  "nexthops":[{"ip":"10.30.0.10","used":true}],"peer":{"peerId":"10.30.0.10"}}]}`

func TestPathsAreRead(t *testing.T) {
	a, b := netip.MustParseAddr("10.30.0.10"), netip.MustParseAddr("10.30.0.11")
	want := []Path{
		{Session: "n1", From: a, NextHop: a, ASPath: []uint32{64512, 64512}, LocalPref: 200, MED: 7, Communities: []string{"65000:1", "65000:1:2", "65535:0", "rt:65000:1"}},
		{Session: "n2", From: b, NextHop: b, ASPath: []uint32{64512}, LocalPref: 100},
	}
	if got := birdPaths(birdSays); !reflect.DeepEqual(got, want) {
		t.Errorf("of BIRD: %+v, want %+v", got, want)
	}
	want = []Path{{
		From: a, NextHop: a, ASPath: []uint32{64512, 64512}, MED: 7, Stale: true,
		Communities: []string{"65000:1", "65000:1:2", "65535:0", "lb:375000", "rt:65000:1"},
	}}
	if got, err := FRRPaths(frrSays); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("of FRR: %+v, %v, want %+v", got, err, want)
	}
	if got, err := FRRPaths("\n"); err != nil || got != nil {
		t.Errorf("of FRR without a path: %v, %v", got, err)
	}
}

func TestAnUpdateIsFound(t *testing.T) {
	const text = "tcpdump: listening on eth0\n22:00:00.1 IP (tos 0xc0)\n    10.0.0.1.179 > 10.0.0.2.1: BGP\n\tUpdate Message (2), length: 50\n" +
		"\t  Next Hop (3), length: 4\n\t  Updated routes:\n\t    198.51.100.1/32\n\tKeepalive Message (4), length: 19\n" +
		"\tUpdate Message (2), length: 50\n\t  Updated routes:\n\t    198.51.100.2/32\n"
	got, err := FindUpdate(text, "198.51.100.2/32")
	if err != nil || strings.Contains(got, "198.51.100.1") || !strings.Contains(got, "Updated routes") {
		t.Errorf("found %q, %v", got, err)
	}
	if got, err := FindUpdate(text, "198.51.100.3/32"); err == nil {
		t.Errorf("found %q, want an error", got)
	}
}

func TestKeepalivesAreFound(t *testing.T) {
	const text = `tcpdump: listening on eth0
22:00:01.500000 IP (tos 0xc0, ttl 1, id 1, offset 0, flags [DF], proto TCP (6), length 71)
    10.0.0.1.40000 > 10.0.0.2.179: Flags [P.], length 19: BGP
	Keepalive Message (4), length: 19
22:00:01.600000 IP (tos 0xc0, ttl 1, id 1, offset 0, flags [DF], proto TCP (6), length 71)
    10.0.0.2.179 > 10.0.0.1.40000: Flags [P.], length 19: BGP
	Keepalive Message (4), length: 19
22:00:02.750000 IP (tos 0xc0, ttl 1, id 1, offset 0, flags [DF], proto TCP (6), length 71)
    10.0.0.1.40000 > 10.0.0.2.179: Flags [P.], length 38: BGP
	Update Message (2), length: 23
	Keepalive Message (4), length: 19
22:00:03.000000 IP (tos 0xc0, ttl 1, id 1, offset 0, flags [DF], proto TCP (6), length 71)
    10.0.0.1.40000 > 10.0.0.2.179: Flags [.], length 0
`
	got, err := findKeepalives(text, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"))
	if err != nil || len(got) != 2 || got[1].Sub(got[0]) != 1250*time.Millisecond {
		t.Errorf("found %v, %v", got, err)
	}
}

func TestPacketsAreCounted(t *testing.T) {
	const text = `tcpdump: listening on eth0
22:00:01.500000 IP (tos 0xc0, ttl 255, id 1, offset 0, flags [DF], proto UDP (17), length 52)
    10.0.0.1.50000 > 10.0.0.2.3784: BFDv1, length: 24
	Control, State Down, Flags: [none], Diagnostic: No Diagnostic (0x00)
22:00:01.600000 IP (tos 0xc0, ttl 255, id 1, offset 0, flags [DF], proto UDP (17), length 52)
    10.0.0.2.50000 > 10.0.0.1.3784: BFDv1, length: 24
22:00:02.500000 IP (tos 0xc0, ttl 255, id 1, offset 0, flags [DF], proto UDP (17), length 52)
    10.0.0.1.50000 > 10.0.0.2.4784: BFDv1, length: 24
`
	from, to := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if single, multi := countPackets(text, from, to, 3784), countPackets(text, from, to, 4784); single != 1 || multi != 1 {
		t.Errorf("counted %d and %d, want 1 of each", single, multi)
	}
	if n := countPackets(text, from, to, 378); n != 0 {
		t.Errorf("counted %d to another port", n)
	}
}

func TestBFDOfBIRDIsRead(t *testing.T) {
	const text = `BIRD 2.0.12 ready.
bfd1:
IP address                Interface  State      Since         Interval  Timeout
10.30.0.10                ---        Up         04:22:10.123    0.300    2.000
10.30.0.11                eth0       Down       04:22:11.123    1.000    0.000
`
	want := []BFDSession{
		{Neighbor: netip.MustParseAddr("10.30.0.10"), MultiHop: true, Up: true, Interval: 300 * time.Millisecond, Timeout: 2 * time.Second},
		{Neighbor: netip.MustParseAddr("10.30.0.11"), Interval: time.Second},
	}
	if got := birdBFD(text); !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

func TestSessionsOfFRRAreRead(t *testing.T) {
	const text = `{"10.30.0.10":{"remoteAs":64512,"bgpState":"Established","portForeign":179,"remoteRouterId":"10.30.0.10","bgpTimerHoldTimeMsecs":30000,
 "connectionsDropped":2,"addressFamilyInfo":{"ipv4Unicast":{"acceptedPrefixCounter":3}},"peerBfdInfo":{"status":"Up"}},
 "swp1":{"bgpNeighborAddr":"fe80::1","remoteAs":64512,"bgpState":"Active","portForeign":-1}, "vrfId":0, "vrfName":"default", "other":{}}`
	got, err := FRRSessions(text)
	slices.SortFunc(got, func(a, b Session) int { return strings.Compare(a.Name, b.Name) })
	four := netip.MustParseAddr("10.30.0.10")
	want := []Session{
		{Neighbor: four, Port: 179, ASN: 64512, Established: true, State: "Established", RouterID: four, Hold: 30 * time.Second, Prefixes: 3, BFD: "Up", Dropped: 2},
		{Name: "swp1", Neighbor: netip.MustParseAddr("fe80::1"), ASN: 64512, State: "Active"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v, want %+v", got, err, want)
	}
}
