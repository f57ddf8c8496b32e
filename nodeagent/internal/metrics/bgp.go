// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"errors"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// BFD is what was counted of one peer's BFD session.
type BFD struct{ In, Out, Dropped uint64 }

// BGPSession is one session as it stands.
type BGPSession struct {
	// Peer is the BGPPeer's name, Address where it is and Endpoint the same with the port.
	Peer, Address, Endpoint string
	Up                      bool
	Prefixes, LeftOut       int
	Flaps, Updates          uint64
	// BFDState is "" without BFD.
	BFDState string
	BFD      BFD
}

// BGP collects how the sessions stand. It reads at each scrape.
type BGP struct {
	read     func() []BGPSession
	sessions []bgpFigure
	bfd      []bgpFigure
}

// bgpFigure is one series of each session.
type bgpFigure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	label func(s *BGPSession) string
	value func(s *BGPSession) float64
}

// NewBGP makes a collector and registers it. Strangers counts BFD packets and BGP
// connections of no session. With metallb, figures come by the names and labels that
// MetalLB has for them too.
func NewBGP(reg prometheus.Registerer, read func() []BGPSession, strangers func() (packets, connections uint64), metallb bool) error {
	c := &BGP{read: read}
	add := func(to *[]bgpFigure, kind prometheus.ValueType, label func(*BGPSession) string, value func(*BGPSession) float64, name, help string) {
		*to = append(*to, bgpFigure{prometheus.NewDesc(name, help, []string{"peer"}, nil), kind, label, value})
	}
	up := func(s *BGPSession) float64 { return one(s.Up) }
	prefixes := func(s *BGPSession) float64 { return float64(s.Prefixes) }
	updates := func(s *BGPSession) float64 { return float64(s.Updates) }
	bfdUp := func(s *BGPSession) float64 { return one(s.BFDState == "Up") }
	in := func(s *BGPSession) float64 { return float64(s.BFD.In) }
	out := func(s *BGPSession) float64 { return float64(s.BFD.Out) }

	name := func(s *BGPSession) string { return s.Peer }
	add(&c.sessions, prometheus.GaugeValue, name, up, "fairlead_bgp_session_up", "1 for a BGP session that is established.")
	add(&c.sessions, prometheus.GaugeValue, name, prefixes, "fairlead_bgp_prefixes", "Prefixes that the peer was told.")
	add(&c.sessions, prometheus.GaugeValue, name, func(s *BGPSession) float64 { return float64(s.LeftOut) },
		"fairlead_bgp_prefixes_left_out", "Prefixes that the session cannot carry.")
	add(&c.sessions, prometheus.CounterValue, name, updates, "fairlead_bgp_updates_total", "Routes told or withdrawn.")
	add(&c.sessions, prometheus.CounterValue, name, func(s *BGPSession) float64 { return float64(s.Flaps) },
		"fairlead_bgp_flaps_total", "Times the session fell out of established.")
	add(&c.bfd, prometheus.GaugeValue, name, bfdUp, "fairlead_bfd_session_up", "1 for a BFD session that is up.")
	add(&c.bfd, prometheus.CounterValue, name, in, "fairlead_bfd_packets_in_total", "BFD control packets received.")
	add(&c.bfd, prometheus.CounterValue, name, out, "fairlead_bfd_packets_out_total", "BFD control packets sent.")
	add(&c.bfd, prometheus.CounterValue, name, func(s *BGPSession) float64 { return float64(s.BFD.Dropped) },
		"fairlead_bfd_packets_dropped_total", "BFD control packets of the peer that were not taken: wrong TTL, malformed.")
	if metallb {
		endpoint, address := func(s *BGPSession) string { return s.Endpoint }, func(s *BGPSession) string { return s.Address }
		add(&c.sessions, prometheus.GaugeValue, endpoint, up, "metallb_bgp_session_up", "BGP session state (1 is up, 0 is down)")
		add(&c.sessions, prometheus.GaugeValue, endpoint, prefixes, "metallb_bgp_announced_prefixes_total", "Number of prefixes currently being advertised on the BGP session")
		add(&c.sessions, prometheus.CounterValue, endpoint, updates, "metallb_bgp_updates_total", "Number of BGP UPDATE messages sent")
		add(&c.bfd, prometheus.GaugeValue, address, bfdUp, "metallb_bfd_session_up", "BFD session state (1 is up, 0 is down)")
		add(&c.bfd, prometheus.CounterValue, address, in, "metallb_bfd_control_packet_input", "Number of received BFD control packets")
		add(&c.bfd, prometheus.CounterValue, address, out, "metallb_bfd_control_packet_output", "Number of sent BFD control packets")
	}
	strange := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "fairlead_bfd_packets_strange_total", Help: "BFD control packets that belong to no session.",
	}, func() float64 {
		packets, _ := strangers()
		return float64(packets)
	})
	refused := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "fairlead_bgp_connections_strange_total", Help: "BGP connections that were refused because they came from nobody that is a peer.",
	}, func() float64 {
		_, connections := strangers()
		return float64(connections)
	})
	return errors.Join(reg.Register(c), reg.Register(strange), reg.Register(refused))
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Describe tells which series there may be.
func (c *BGP) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range slices.Concat(c.sessions, c.bfd) {
		ch <- f.desc
	}
}

// Collect reads the figures. Of several sessions with one label the first by peer counts:
// two series of one name would fail the whole scrape.
func (c *BGP) Collect(ch chan<- prometheus.Metric) {
	sessions := slices.SortedFunc(slices.Values(c.read()), func(a, b BGPSession) int { return cmp.Compare(a.Peer, b.Peer) })
	collect := func(figures []bgpFigure, which func(*BGPSession) bool) {
		for _, f := range figures {
			done := make(map[string]struct{}, len(sessions))
			for i := range sessions {
				label := f.label(&sessions[i])
				if _, again := done[label]; again || !which(&sessions[i]) {
					continue
				}
				done[label] = struct{}{}
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(&sessions[i]), label)
			}
		}
	}
	collect(c.sessions, func(*BGPSession) bool { return true })
	collect(c.bfd, func(s *BGPSession) bool { return s.BFDState != "" })
}
