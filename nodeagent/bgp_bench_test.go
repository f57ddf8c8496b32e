// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status/statustest"
)

// routed is a cluster of one node that tells two routers all of its addresses; what its API
// shows can be changed.
type routed struct {
	*still
	bgp loadbalancer.BGPConfig
}

func (r *routed) BGP(context.Context, []loadbalancer.Interface) loadbalancer.BGPConfig { return r.bgp }

func (r *routed) HasBGP() bool { return true }

func routedCluster(addrs int) *routed {
	r := &routed{still: stillCluster(1, addrs)}
	r.objs.Advertisements = map[string]loadbalancer.Advertisement{}
	for uid, rec := range r.objs.Records {
		rec.Advertisements, rec.BGPAdvertisements = nil, []string{"bgp"}
		rec.Service = loadbalancer.ServiceKey{Namespace: "d", Name: string(uid)}
		r.objs.Records[uid] = rec
	}
	for i := range r.objs.Claims {
		r.objs.Claims[i].Persisted = loadbalancer.Ownership{}
	}
	r.bgp = loadbalancer.BGPConfig{Advertisements: map[string]loadbalancer.BGPAdvertisement{"bgp": {Name: "bgp", Here: true, Bits4: 32, Bits6: 128}}}
	for i := range 2 {
		r.bgp.Sessions = append(r.bgp.Sessions, loadbalancer.BGPSession{
			Peer: fmt.Sprintf("peer-%d", i), MyASN: 64512, PeerASN: 64512 + uint32(i), IPv4: true,
			Addr: netip.AddrFrom4([4]byte{10, 255, 0, byte(i + 1)}), RouterID: netip.AddrFrom4([4]byte{10, 0, 0, 1}),
		})
	}
	return r
}

// turn makes the record of one address go, or come back, as the copies of the API show it.
func (r *routed) turn(i int) {
	uid := r.objs.Claims[i].Services[0]
	rec := r.objs.Records[uid]
	if len(rec.Addrs) > 0 {
		rec.Addrs = nil
	} else {
		rec.Addrs = []netip.Addr{r.objs.Claims[i].Addr}
	}
	r.objs.Records[uid] = rec
	r.objs.Changed = &loadbalancer.Changes{}
	r.objs.Changed.Record(uid)
}

// BenchmarkRoundBGP is what the change of one address among many that are told by BGP costs
// the owner loop; what the intake and the speaker take is not in it.
func BenchmarkRoundBGP(b *testing.B) {
	for _, addrs := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(addrs), func(b *testing.B) {
			r := routedCluster(addrs)
			l := newBenchLoop(b, r, r.still)
			l.round(b.Context(), time.Now())
			now := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				r.turn(1 + i/2%(addrs-1))
				now = now.Add(10 * time.Second) // nothing is damped
				l.lastLinks, l.lastBeat, l.lastAll = now, now, now
				b.StartTimer()
				l.round(b.Context(), now)
			}
		})
	}
}

// newBenchLoop is a loop that is not run, with copies of the API that are given.
func newBenchLoop(b *testing.B, objs objects, s *still) *loop {
	b.Helper()
	a, err := newAgent(Defaults(env("NODE_NAME", "n00")), "v0", deps{
		kernel: s, claims: statustest.NewClaims(), agents: statustest.NewNodeAgents(), registry: prometheus.NewRegistry(),
		openARP:    func(kernel.Link) (l2.Conn, error) { return nil, errMoved },
		openNDP:    func(kernel.Link) (l2.Conn, error) { return nil, errMoved },
		newObjects: func(func()) (objects, error) { return objs, nil },
		speaker:    deafPeers{}, bfd: noBFD{}, finder: noBFD{},
	})
	if err != nil {
		b.Fatal(err)
	}
	over, cancel := context.WithCancel(b.Context())
	cancel()
	b.Cleanup(func() {
		if err := a.owners.Run(over); err != nil { // ends its queue
			b.Error(err)
		}
	})
	return newLoop(a, s)
}

// deafPeers is a speaker that costs nothing.
type deafPeers struct{}

func (deafPeers) Run(context.Context) error                { return nil }
func (deafPeers) Apply(loadbalancer.BGPPlan, bgp.NextHops) {}
func (deafPeers) Complete()                                {}
func (deafPeers) States() []bgp.SessionState               { return nil }
func (deafPeers) Routes(string) []loadbalancer.BGPRoute    { return nil }
func (deafPeers) Changed() <-chan struct{}                 { return nil }
func (deafPeers) Strangers() uint64                        { return 0 }
func (deafPeers) Stop(context.Context, bool) error         { return nil }
