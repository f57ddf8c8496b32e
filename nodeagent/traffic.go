// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// trafficFresh is for how long figures are told again: the kernel's own are as old, and to
// read those of ten thousand virtual servers takes it a while.
const trafficFresh = 2 * time.Second

// meter reads what this node forwards. It is safe for concurrent use.
type meter struct {
	node    string
	forward *forwarder
	// announced counts addresses.
	announced func() int

	mu   sync.Mutex
	last traffic.Report // guarded by mu
	at   time.Time      // guarded by mu
}

// Read returns the figures. An error is the kernel's; the report holds the rest.
func (m *meter) Read() (traffic.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.at.IsZero() && time.Since(m.at) < trafficFresh {
		return m.last, nil
	}
	s := m.forward.State()
	r := traffic.Report{
		Node: m.node, Forwarding: string(s.told.Forwarding), Reason: s.told.Reason, Message: s.told.Message, Announced: m.announced(),
	}
	if len(s.programmed.VirtualServers) == 0 {
		return r, nil
	}
	states, buckets, err := m.forward.d.read()
	if err != nil {
		return r, err
	}
	r.Table.Buckets = uint64(max(buckets, 0))
	served := namesOf(&s.programmed)
	for i := range states {
		r.Table.Entries += states[i].Connections()
		if name, ours := served[states[i].VirtualServerKey]; ours {
			r.Servers = append(r.Servers, serverOf(name, &states[i]))
		}
	}
	slices.SortFunc(r.Servers, func(a, b traffic.Server) int {
		return cmp.Or(
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port),
		)
	})
	m.last, m.at = r, time.Now()
	return r, nil
}

// serverName is what the kernel does not know of a virtual server.
type serverName struct {
	service loadbalancer.ServiceKey
	// protocol and port, also of one that has a mark only.
	protocol loadbalancer.Protocol
	port     uint16
}

func namesOf(f *loadbalancer.Forwarding) map[loadbalancer.VirtualServerKey]serverName {
	marks := make(map[uint32]*loadbalancer.Served, len(f.Served))
	for i := range f.Served {
		marks[f.Served[i].Mark] = &f.Served[i]
	}
	out := make(map[loadbalancer.VirtualServerKey]serverName, len(f.VirtualServers))
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		name := serverName{v.Service, v.Protocol, v.Port}
		if s := marks[v.Mark]; v.Mark != 0 && s != nil {
			name.protocol, name.port = s.Protocol, s.Port
		}
		out[v.VirtualServerKey] = name
	}
	return out
}

func serverOf(name serverName, s *kernel.ServerState) traffic.Server {
	out := traffic.Server{
		Key: traffic.Key{
			Namespace: name.service.Namespace, Service: name.service.Name, Family: "IPv4", Protocol: name.protocol.String(), Port: name.port,
		},
		Scheduler: s.Scheduler, Flow: flowOf(s.Stats),
	}
	if s.Addr.Is6() {
		out.Family = "IPv6"
	}
	if s.Mark == 0 {
		out.Address = s.Addr.String()
	}
	for i := range s.Reals {
		r := &s.Reals[i]
		out.Backends = append(out.Backends, traffic.Backend{
			Address: netip.AddrPortFrom(r.Addr, r.Port).String(), Weight: r.Weight, Active: r.Active, Inactive: r.Inactive, Flow: flowOf(r.Stats),
		})
	}
	slices.SortFunc(out.Backends, func(a, b traffic.Backend) int { return cmp.Compare(a.Address, b.Address) })
	return out
}

func flowOf(s kernel.Stats) traffic.Flow {
	return traffic.Flow{
		Total: traffic.Counts{
			Connections: s.Connections, PacketsIn: s.PacketsIn, PacketsOut: s.PacketsOut, BytesIn: s.BytesIn, BytesOut: s.BytesOut,
		},
		PerSecond: traffic.Counts{
			Connections: s.ConnectionRate, PacketsIn: s.PacketRateIn, PacketsOut: s.PacketRateOut, BytesIn: s.ByteRateIn, BytesOut: s.ByteRateOut,
		},
	}
}

// ServeHTTP answers with the report as JSON.
func (m *meter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	r, err := m.Read()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(r)
}
