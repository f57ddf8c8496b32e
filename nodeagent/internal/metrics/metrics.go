// SPDX-License-Identifier: Apache-2.0

// Package metrics holds the node agent's Prometheus collectors and serves them to
// those who may read them. Collectors are registered with the registry that is passed
// in; there is no global one. It must not know what the figures mean to anybody.
// The owner loop and the announcers count; a Prometheus server scrapes.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Metrics are the agent's figures. They are safe for concurrent use.
type Metrics struct {
	announced, members      prometheus.Gauge
	absent, duplicates      prometheus.Gauge
	takeovers, conflicts    prometheus.Counter
	splitViews, deaths      prometheus.Counter
	gratuitous              prometheus.Counter
	arpRequests, arpReplies prometheus.Counter
	ndpRequests, ndpReplies prometheus.Counter
	releases, repairs       *prometheus.CounterVec
	strangers               *prometheus.GaugeVec
	forwarding              prometheus.Gauge
	programmed, refused     prometheus.Gauge
}

// New makes the collectors and registers them, together with those of the process, the
// Go runtime and the build.
func New(reg prometheus.Registerer, version string) (*Metrics, error) {
	m := &Metrics{
		announced:   gauge("announced_addresses", "Addresses that this node announces now."),
		members:     gauge("gossip_members", "Live members of the gossip, this node included."),
		absent:      gauge("absent_nodes", "Nodes that the gossip lost without a goodbye and that may still answer."),
		duplicates:  gauge("duplicate_addresses", "Addresses that this node owns and does not announce, because a stranger has them."),
		splitViews:  counter("split_views_total", "Times another node was seen to claim an address that this node announces."),
		deaths:      counter("direct_deaths_total", "Nodes held for dead because their kernel no longer answered."),
		takeovers:   counter("takeovers_total", "Addresses that this node took over."),
		conflicts:   counter("owner_conflicts_total", "Times another host was seen to claim an address that this node announces."),
		gratuitous:  counter("gratuitous_total", "Unsolicited ARP and NDP frames sent."),
		arpRequests: counter("arp_requests_total", "ARP requests received for announced addresses."),
		arpReplies:  counter("arp_replies_total", "ARP replies sent."),
		ndpRequests: counter("ndp_solicitations_total", "Neighbor Solicitations received for announced addresses."),
		ndpReplies:  counter("ndp_advertisements_total", "Neighbor Advertisements sent in answer."),
		releases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "fairlead", Subsystem: "agent", Name: "releases_total",
			Help: "Addresses that this node stopped announcing, by reason.",
		}, []string{"reason"}),
	}
	m.strangers = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "fairlead", Subsystem: "agent", Name: "address_conflict",
		Help: "1 for each announced address that a host that is no node agent claimed within the last minute; mac is the host's.",
	}, []string{"address", "interface", "mac"})
	m.repairs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "fairlead", Subsystem: "agent", Name: "repairs_total",
		Help: "Times that what somebody removed of the data plane was put back, by what: virtual-servers, addresses, guard or sysctls.",
	}, []string{"what"})
	m.forwarding = gauge("forwarding_ipvs", "1 where this node forwards by IPVS, 0 where it leaves that to kube-proxy.")
	m.programmed = gauge("virtual_servers", "Virtual servers that are programmed.")
	m.refused = gauge("virtual_servers_refused", "Virtual servers that the kernel refuses.")
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "fairlead", Subsystem: "agent", Name: "build_info",
		Help: "Always 1; the label tells the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		m.announced, m.members, m.takeovers, m.conflicts, m.arpRequests, m.arpReplies, m.ndpRequests, m.ndpReplies,
		m.gratuitous, m.releases, m.strangers, m.absent, m.duplicates, m.splitViews, m.deaths, build,
		m.repairs, m.forwarding, m.programmed, m.refused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // names the collector itself
		}
	}
	return m, nil
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "fairlead", Subsystem: "agent", Name: name, Help: help})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "fairlead", Subsystem: "agent", Name: name, Help: help})
}

// Wire are the figures of one protocol.
type Wire struct {
	requests, replies, gratuitous, conflicts prometheus.Counter
}

// ARP are the figures of ARP.
func (m *Metrics) ARP() Wire { return Wire{m.arpRequests, m.arpReplies, m.gratuitous, m.conflicts} }

// NDP are the figures of NDP.
func (m *Metrics) NDP() Wire { return Wire{m.ndpRequests, m.ndpReplies, m.gratuitous, m.conflicts} }

// Request counts a request for an announced address.
func (w Wire) Request() { w.requests.Inc() }

// Reply counts an answer.
func (w Wire) Reply() { w.replies.Inc() }

// Gratuitous counts an unsolicited frame.
func (w Wire) Gratuitous() { w.gratuitous.Inc() }

// Conflict counts a foreign claim to an announced address.
func (w Wire) Conflict() { w.conflicts.Inc() }

// TookOver counts an address taken over.
func (m *Metrics) TookOver() { m.takeovers.Inc() }

// Released counts an address given up.
func (m *Metrics) Released(r reason.Reason) { m.releases.WithLabelValues(r.String()).Inc() }

// Repaired counts a part of the data plane that somebody removed.
func (m *Metrics) Repaired(what string) { m.repairs.WithLabelValues(what).Inc() }

// Forwarding says whether this node forwards by IPVS, and how many virtual servers are
// programmed and refused.
func (m *Metrics) Forwarding(ipvs bool, programmed, refused int) {
	m.forwarding.Set(0)
	if ipvs {
		m.forwarding.Set(1)
	}
	m.programmed.Set(float64(programmed))
	m.refused.Set(float64(refused))
}

// Conflict is an address that a stranger claims.
type Conflict struct{ Address, Interface, MAC string }

// SetConflicts replaces the conflicts there are. There must be at most one for each
// address and interface, because each is a series.
func (m *Metrics) SetConflicts(conflicts []Conflict) {
	m.strangers.Reset()
	for _, c := range conflicts {
		m.strangers.WithLabelValues(c.Address, c.Interface, c.MAC).Set(1)
	}
}

// SplitView counts an address that this node announces and another node claims.
func (m *Metrics) SplitView() { m.splitViews.Inc() }

// DirectDeath counts a node whose kernel no longer answers.
func (m *Metrics) DirectDeath() { m.deaths.Inc() }

// SetAbsent sets the number of nodes that the gossip lost without a goodbye.
func (m *Metrics) SetAbsent(n int) { m.absent.Set(float64(n)) }

// SetDuplicates sets the number of addresses that are not announced because a stranger
// has them.
func (m *Metrics) SetDuplicates(n int) { m.duplicates.Set(float64(n)) }

// Now sets the gauges.
func (m *Metrics) Now(announced, members int) {
	m.announced.Set(float64(announced))
	m.members.Set(float64(members))
}
