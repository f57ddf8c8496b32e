// SPDX-License-Identifier: Apache-2.0

// Package top adds up what node agents tell of the packets that their nodes forward, by
// node, by Service and by backend, and shows it as tables. It asks nobody itself; the
// command `top` calls it.
package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

// Input is what agents told, and who did not answer.
type Input struct {
	Reports []traffic.Report
	Gaps    []agents.Gap
	// Namespace to show; empty: all.
	Namespace string
}

// Node is one node's line.
type Node struct {
	Node       string `json:"node"`
	Forwarding string `json:"forwarding"`
	Reason     string `json:"reason,omitempty"`
	Announced  int    `json:"announced"`
	Servers    int    `json:"servers"`
	Active     uint64 `json:"active"`
	Inactive   uint64 `json:"inactive"`
	traffic.Flow
	Table traffic.Table `json:"table"`
}

// Nodes is what each node forwards.
type Nodes struct {
	Nodes []Node       `json:"nodes"`
	Gaps  []agents.Gap `json:"gaps,omitempty"`
}

// ByNode adds up by node.
func ByNode(in Input) Nodes {
	out := Nodes{Gaps: in.Gaps}
	for i := range in.Reports {
		r := &in.Reports[i]
		n := Node{Node: r.Node, Forwarding: cmp.Or(r.Forwarding, "?"), Reason: r.Reason, Announced: r.Announced, Table: r.Table}
		for s := range in.servers(r) {
			n.Servers++
			active, inactive := s.Connections()
			n.Active += active
			n.Inactive += inactive
			n.Add(s.Flow)
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

// servers yields those of a report that are to be shown.
func (in *Input) servers(r *traffic.Report) func(yield func(*traffic.Server) bool) {
	return func(yield func(*traffic.Server) bool) {
		for i := range r.Servers {
			if (in.Namespace == "" || r.Servers[i].Namespace == in.Namespace) && !yield(&r.Servers[i]) {
				return
			}
		}
	}
}

// Text is the table for people.
func (n Nodes) Text() string {
	return table(n.Gaps, func(w *tabwriter.Writer) {
		row(w, "NODE", "FORWARDING", "ANNOUNCED", "SERVERS", "ACTIVE", "INACTIVE", "CONN/S", "IN/S", "OUT/S", "TABLE")
		for i := range n.Nodes {
			l := &n.Nodes[i]
			forwarding := l.Forwarding
			if l.Reason != "" {
				forwarding += " (" + l.Reason + ")"
			}
			used := "-"
			if l.Table.Buckets > 0 {
				used = fmt.Sprintf("%d/%d", l.Table.Entries, l.Table.Buckets)
			}
			row(w, l.Node, forwarding, l.Announced, l.Servers, l.Active, l.Inactive, l.PerSecond.Connections,
				bytes(l.PerSecond.BytesIn), bytes(l.PerSecond.BytesOut), used)
		}
	})
}

// Service is one port of a Service at one address.
type Service struct {
	traffic.Key
	Scheduler string `json:"scheduler"`
	// Nodes that forward it.
	Nodes    int    `json:"nodes"`
	Active   uint64 `json:"active"`
	Inactive uint64 `json:"inactive"`
	traffic.Flow
}

// Services is what goes to each port of each Service, on all nodes together.
type Services struct {
	Services []Service    `json:"services"`
	Gaps     []agents.Gap `json:"gaps,omitempty"`
}

// compare puts the addresses of a port beside each other.
func compare(a, b traffic.Key) int {
	return cmp.Or(
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Family, b.Family),
	)
}

// ByService adds up by Service, address and port.
func ByService(in Input) Services {
	lines := make(map[traffic.Key]*Service)
	for i := range in.Reports {
		for s := range in.servers(&in.Reports[i]) {
			l := lines[s.Key]
			if l == nil {
				l = &Service{Key: s.Key, Scheduler: s.Scheduler}
				lines[s.Key] = l
			}
			active, inactive := s.Connections()
			l.Nodes++
			l.Active += active
			l.Inactive += inactive
			l.Add(s.Flow)
		}
	}
	out := Services{Gaps: in.Gaps}
	for _, k := range sorted(lines) {
		out.Services = append(out.Services, *lines[k])
	}
	return out
}

func sorted[V any](m map[traffic.Key]V) []traffic.Key {
	return slices.SortedFunc(maps.Keys(m), compare)
}

// Text is the table for people.
func (s Services) Text() string {
	return table(s.Gaps, func(w *tabwriter.Writer) {
		row(w, "NAMESPACE", "SERVICE", "ADDRESS", "PORT", "SCHEDULER", "NODES", "ACTIVE", "INACTIVE", "CONNECTIONS", "CONN/S", "IN/S", "OUT/S")
		for i := range s.Services {
			l := &s.Services[i]
			row(w, l.Namespace, l.Service, from(l.Address, l.Family), portOf(l.Port, l.Protocol), l.Scheduler, l.Nodes, l.Active, l.Inactive,
				l.Total.Connections, l.PerSecond.Connections, bytes(l.PerSecond.BytesIn), bytes(l.PerSecond.BytesOut))
		}
	})
}

// Backend is one target of a port of a Service at one address.
type Backend struct {
	traffic.Key
	Backend string `json:"backend"`
	// Weight that each node gives it: the lowest and the highest.
	MinWeight uint32 `json:"minWeight"`
	MaxWeight uint32 `json:"maxWeight"`
	Active    uint64 `json:"active"`
	Inactive  uint64 `json:"inactive"`
	traffic.Flow
}

// Backends is what goes to each backend, on all nodes together.
type Backends struct {
	Backends []Backend    `json:"backends"`
	Gaps     []agents.Gap `json:"gaps,omitempty"`
}

// ByBackend adds up by Service, address, port and backend.
func ByBackend(in Input) Backends {
	lines := make(map[traffic.Key]map[string]*Backend)
	for i := range in.Reports {
		for s := range in.servers(&in.Reports[i]) {
			of := lines[s.Key]
			if of == nil {
				of = make(map[string]*Backend)
				lines[s.Key] = of
			}
			for j := range s.Backends {
				addBackend(of, s.Key, &s.Backends[j])
			}
		}
	}
	out := Backends{Gaps: in.Gaps}
	for _, k := range sorted(lines) {
		for _, b := range slices.Sorted(maps.Keys(lines[k])) {
			out.Backends = append(out.Backends, *lines[k][b])
		}
	}
	return out
}

func addBackend(of map[string]*Backend, key traffic.Key, b *traffic.Backend) {
	l := of[b.Address]
	if l == nil {
		l = &Backend{Key: key, Backend: b.Address, MinWeight: b.Weight, MaxWeight: b.Weight}
		of[b.Address] = l
	}
	l.MinWeight, l.MaxWeight = min(l.MinWeight, b.Weight), max(l.MaxWeight, b.Weight)
	l.Active += uint64(b.Active)
	l.Inactive += uint64(b.Inactive)
	l.Add(b.Flow)
}

// Text is the table for people.
func (b Backends) Text() string {
	return table(b.Gaps, func(w *tabwriter.Writer) {
		row(w, "NAMESPACE", "SERVICE", "ADDRESS", "PORT", "BACKEND", "WEIGHT", "ACTIVE", "INACTIVE", "CONNECTIONS", "CONN/S", "IN/S", "OUT/S")
		for i := range b.Backends {
			l := &b.Backends[i]
			weight := fmt.Sprint(l.MinWeight)
			if l.MinWeight != l.MaxWeight {
				weight = fmt.Sprintf("%d-%d", l.MinWeight, l.MaxWeight)
			}
			row(w, l.Namespace, l.Service, from(l.Address, l.Family), portOf(l.Port, l.Protocol), l.Backend, weight, l.Active, l.Inactive,
				l.Total.Connections, l.PerSecond.Connections, bytes(l.PerSecond.BytesIn), bytes(l.PerSecond.BytesOut))
		}
	})
}

// from is the address, or what stands for all of them where packets come from within.
func from(address, family string) string {
	if address == "" {
		return "(cluster " + family + ")"
	}
	return address
}

func portOf(port uint16, protocol string) string { return fmt.Sprintf("%d/%s", port, protocol) }

// bytes is a number of bytes in at most four characters and a unit.
func bytes(n uint64) string {
	const step = 1024
	units := "KMGTPE"
	if n < step {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n)/step, 0
	for value >= step && unit < len(units)-1 {
		value /= step
		unit++
	}
	return fmt.Sprintf("%.1f%c", value, units[unit])
}

func row(w *tabwriter.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

// table writes rows, and below them who did not answer.
func table(gaps []agents.Gap, rows func(w *tabwriter.Writer)) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	rows(w)
	_ = w.Flush() // a builder takes everything
	for _, g := range gaps {
		fmt.Fprintf(&b, "%s is not in it: %s\n", g.Node, g.Cause)
	}
	return b.String()
}
