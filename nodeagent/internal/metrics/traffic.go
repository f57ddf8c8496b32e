// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

// figure is one metric of a flow.
type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(f *traffic.Flow) uint64
}

// Traffic collects what a node forwards. It reads at each scrape, and has no series when it
// cannot read.
type Traffic struct {
	read     func() (traffic.Report, error)
	backends bool

	services, targets                []figure
	active, inactive                 *prometheus.Desc
	targetActive, targetInactive     *prometheus.Desc
	targetWeight, buckets, tableUsed *prometheus.Desc
}

// NewTraffic makes a collector and registers it. With backends each backend has series too.
func NewTraffic(reg prometheus.Registerer, read func() (traffic.Report, error), backends bool) error {
	service := []string{"namespace", "service", "address", "family", "protocol", "port"}
	target := append(append([]string(nil), service...), "backend")
	t := &Traffic{
		read: read, backends: backends, services: figures("service", service), targets: figures("backend", target),
		active:         describe("service_active_connections", "Established connections.", service),
		inactive:       describe("service_inactive_connections", "Connections that begin or end, and all of UDP.", service),
		targetActive:   describe("backend_active_connections", "Established connections.", target),
		targetInactive: describe("backend_inactive_connections", "Connections that begin or end, and all of UDP.", target),
		targetWeight:   describe("backend_weight", "Share of new connections; 0 gets none.", target),
		buckets:        describe("connection_table_buckets", "Size of the kernel's hash table of IPVS connections.", nil),
		tableUsed:      describe("connection_table_entries", "Entries of the kernel's table of IPVS connections, all virtual servers' together.", nil),
	}
	return reg.Register(t) //nolint:wrapcheck // names the collector itself
}

func describe(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("fairlead", "agent", name), help, labels, nil)
}

func figures(of string, labels []string) []figure {
	var out []figure
	for _, f := range []struct {
		name, help string
		value      func(c *traffic.Counts) uint64
	}{
		{"connections", "connections", func(c *traffic.Counts) uint64 { return c.Connections }},
		{"packets_in", "packets from clients", func(c *traffic.Counts) uint64 { return c.PacketsIn }},
		{"packets_out", "packets to clients", func(c *traffic.Counts) uint64 { return c.PacketsOut }},
		{"bytes_in", "bytes from clients", func(c *traffic.Counts) uint64 { return c.BytesIn }},
		{"bytes_out", "bytes to clients", func(c *traffic.Counts) uint64 { return c.BytesOut }},
	} {
		out = append(out,
			figure{
				describe(of+"_"+f.name+"_total", "Number of "+f.help+" that this node forwarded.", labels), prometheus.CounterValue,
				func(flow *traffic.Flow) uint64 { return f.value(&flow.Total) },
			},
			figure{
				describe(of+"_"+f.name+"_per_second", "Number of "+f.help+" each second, by the kernel's estimate.", labels), prometheus.GaugeValue,
				func(flow *traffic.Flow) uint64 { return f.value(&flow.PerSecond) },
			},
		)
	}
	return out
}

// Describe tells which series there may be.
func (t *Traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range append(append([]figure(nil), t.services...), t.targets...) {
		ch <- f.desc
	}
	for _, d := range []*prometheus.Desc{t.active, t.inactive, t.targetActive, t.targetInactive, t.targetWeight, t.buckets, t.tableUsed} {
		ch <- d
	}
}

// Collect reads the figures.
func (t *Traffic) Collect(ch chan<- prometheus.Metric) {
	r, err := t.read()
	if err != nil || r.Table.Buckets == 0 {
		return
	}
	gauge := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(t.buckets, r.Table.Buckets)
	gauge(t.tableUsed, r.Table.Entries)
	for i := range r.Servers {
		s := &r.Servers[i]
		labels := []string{s.Namespace, s.Service, s.Address, s.Family, s.Protocol, strconv.Itoa(int(s.Port))}
		for _, f := range t.services {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(f.value(&s.Flow)), labels...)
		}
		active, inactive := s.Connections()
		gauge(t.active, active, labels...)
		gauge(t.inactive, inactive, labels...)
		if !t.backends {
			continue
		}
		for j := range s.Backends {
			b := &s.Backends[j]
			to := append(append([]string(nil), labels...), b.Address)
			for _, f := range t.targets {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(f.value(&b.Flow)), to...)
			}
			gauge(t.targetActive, uint64(b.Active), to...)
			gauge(t.targetInactive, uint64(b.Inactive), to...)
			gauge(t.targetWeight, uint64(b.Weight), to...)
		}
	}
}
