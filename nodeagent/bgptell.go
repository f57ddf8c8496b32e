// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

// detector watches peers by BFD for the speaker, and counts; *bfd.Detector does.
type detector interface {
	Run(ctx context.Context) error
	States() map[string]bfd.State
	Strangers() bfd.Drops
}

// teller tells of BGP to those who ask the agent: metrics and the debug port.
type teller struct {
	node    string
	speaker speaker
	bfd     detector
	// plan is the last one.
	plan atomic.Pointer[loadbalancer.BGPPlan]
}

// Read is what metrics show.
func (t *teller) Read() []metrics.BGPSession {
	ports := make(map[string]uint16)
	if p := t.plan.Load(); p != nil {
		for i := range p.Sessions {
			ports[p.Sessions[i].Peer] = p.Sessions[i].Port
		}
	}
	watched := t.bfd.States()
	states := t.speaker.States()
	out := make([]metrics.BGPSession, 0, len(states))
	for i := range states {
		s := &states[i]
		out = append(out, metrics.BGPSession{
			Peer: s.Peer, Address: s.Address, Endpoint: net.JoinHostPort(s.Address, strconv.Itoa(int(ports[s.Peer]))), Up: s.State == bgp.Established,
			Prefixes: s.Prefixes, LeftOut: s.LeftOut, Flaps: s.Flaps, Updates: s.Updates, BFDState: s.BFD, BFD: countsOf(watched[s.Peer]),
		})
	}
	return out
}

func countsOf(s bfd.State) metrics.BFD {
	return metrics.BFD{In: s.In, Out: s.Out, Dropped: sumOf(s.Dropped)}
}

func sumOf(d bfd.Drops) uint64 {
	sum := uint64(0)
	d.Each(func(_ string, count uint64) { sum += count })
	return sum
}

// Strangers are BFD packets and BGP connections that belong to no session.
func (t *teller) Strangers() (packets, connections uint64) {
	return sumOf(t.bfd.Strangers()), t.speaker.Strangers()
}

// ServeHTTP tells of each session and of the routes that its peer was told.
func (t *teller) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	out := told.Report{Node: t.node}
	if p := t.plan.Load(); p != nil {
		out.Reason = p.Reason
		for _, a := range slices.SortedFunc(maps.Keys(p.Silent), netip.Addr.Compare) {
			out.Silent = append(out.Silent, told.Silent{Address: a.String(), Reason: p.Silent[a]})
		}
	}
	for _, s := range t.speaker.States() {
		one := told.Session{
			Peer: s.Peer, Address: s.Address, ASN: s.ASN, State: string(s.State), Since: s.Since, Reason: s.Reason.String(), Message: s.Message,
			BFD: s.BFD, Flaps: s.Flaps, Updates: s.Updates, LeftOut: s.LeftOut,
		}
		if s.Local.IsValid() {
			one.Local = s.Local.String()
		}
		for _, r := range t.speaker.Routes(s.Peer) {
			one.Routes = append(one.Routes, routeOf(&r))
		}
		out.Sessions = append(out.Sessions, one)
	}
	w.Header().Set("Content-Type", "application/json")
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(out)
}

func routeOf(r *loadbalancer.BGPRoute) told.Route {
	out := told.Route{Prefix: r.Prefix.String(), Prepend: int(r.Prepend), LinkBandwidth: r.LinkBandwidth, Addresses: texts(r.Addrs)}
	if r.HasLocalPref {
		out.LocalPref = &r.LocalPref
	}
	if r.HasMED {
		out.MED = &r.MED
	}
	for _, c := range r.Communities {
		out.Communities = append(out.Communities, c.String())
	}
	return out
}
