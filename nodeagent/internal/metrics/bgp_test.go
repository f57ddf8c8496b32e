// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

func TestBGP(t *testing.T) {
	t.Parallel()
	read := func() []metrics.BGPSession {
		return []metrics.BGPSession{
			{Peer: "b", Address: "192.0.2.254", Endpoint: "192.0.2.254:179", Prefixes: 9},
			{Peer: "a", Address: "192.0.2.254", Endpoint: "192.0.2.254:179", Up: true, Prefixes: 3, Flaps: 2, Updates: 7, BFDState: "Up", BFD: metrics.BFD{In: 5, Out: 6, Dropped: 1}},
		}
	}
	for _, metallb := range []bool{false, true} {
		reg := prometheus.NewPedanticRegistry()
		if err := metrics.NewBGP(reg, read, func() (uint64, uint64) { return 4, 8 }, metallb); err != nil {
			t.Fatal(err)
		}
		names := []string{"fairlead_bgp_session_up", "fairlead_bgp_prefixes", "fairlead_bgp_flaps_total", "fairlead_bfd_session_up", "fairlead_bfd_packets_in_total", "fairlead_bfd_packets_strange_total", "fairlead_bgp_connections_strange_total"}
		want := `# HELP fairlead_bfd_packets_in_total BFD control packets received.
# TYPE fairlead_bfd_packets_in_total counter
fairlead_bfd_packets_in_total{peer="a"} 5
# HELP fairlead_bfd_packets_strange_total BFD control packets that belong to no session.
# TYPE fairlead_bfd_packets_strange_total counter
fairlead_bfd_packets_strange_total 4
# HELP fairlead_bfd_session_up 1 for a BFD session that is up.
# TYPE fairlead_bfd_session_up gauge
fairlead_bfd_session_up{peer="a"} 1
# HELP fairlead_bgp_connections_strange_total BGP connections that were refused because they came from nobody that is a peer.
# TYPE fairlead_bgp_connections_strange_total counter
fairlead_bgp_connections_strange_total 8
# HELP fairlead_bgp_flaps_total Times the session fell out of established.
# TYPE fairlead_bgp_flaps_total counter
fairlead_bgp_flaps_total{peer="a"} 2
fairlead_bgp_flaps_total{peer="b"} 0
# HELP fairlead_bgp_prefixes Prefixes that the peer was told.
# TYPE fairlead_bgp_prefixes gauge
fairlead_bgp_prefixes{peer="a"} 3
fairlead_bgp_prefixes{peer="b"} 9
# HELP fairlead_bgp_session_up 1 for a BGP session that is established.
# TYPE fairlead_bgp_session_up gauge
fairlead_bgp_session_up{peer="a"} 1
fairlead_bgp_session_up{peer="b"} 0
`
		if metallb {
			names = append(names, "metallb_bgp_session_up", "metallb_bfd_session_up")
			// Of two peers at one address MetalLB's labels know one.
			want += `# HELP metallb_bfd_session_up BFD session state (1 is up, 0 is down)
# TYPE metallb_bfd_session_up gauge
metallb_bfd_session_up{peer="192.0.2.254"} 1
# HELP metallb_bgp_session_up BGP session state (1 is up, 0 is down)
# TYPE metallb_bgp_session_up gauge
metallb_bgp_session_up{peer="192.0.2.254:179"} 1
`
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
			t.Errorf("by MetalLB's names %t: %v", metallb, err)
		}
		if n, err := testutil.GatherAndCount(reg, "metallb_bgp_session_up", "metallb_bgp_updates_total"); err != nil || n != map[bool]int{true: 2}[metallb] {
			t.Errorf("by MetalLB's names %t: %d series, %v", metallb, n, err)
		}
	}
}
