// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// What one route of many that changes costs one session, and a plan without any change.
func BenchmarkOneRouteOfMany(b *testing.B) {
	spec := loadbalancer.BGPSession{
		Peer: "p", MyASN: ourASN, PeerASN: theirASN, Addr: netip.MustParseAddr("127.0.0.2"), RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true, IPv6: true,
	}
	for _, tt := range []struct {
		name    string
		changes bool
	}{{"changed", true}, {"same", false}} {
		b.Run(tt.name, func(b *testing.B) {
			r, err := newRIB(b.Context(), &spec)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(r.close)
			s := &session{spec: spec, rib: r, changed: func() {}, totals: &totals{}, kick: make(chan struct{}, 1)}
			s.state.Local, s.greeting, s.state.State = netip.MustParseAddr("127.0.0.1"), greeting{asn: theirASN, v4: true, v6: true}, Established
			s.apply(spec, many(10_000), lab)
			s.sync()
			plans := [2][]loadbalancer.BGPRoute{slices.Clone(s.want), slices.Clone(s.want)}
			if tt.changes {
				plans[0][4711].MED, plans[0][4711].HasMED = 1, true
			}
			rounds := 0
			for ; b.Loop(); rounds++ {
				s.apply(spec, plans[rounds%2], lab)
				s.sync()
			}
			if n := int(s.totals.updates.Load()); tt.changes && n != 10_000+rounds {
				b.Errorf("%d updates in %d rounds", n, rounds)
			}
		})
	}
}
