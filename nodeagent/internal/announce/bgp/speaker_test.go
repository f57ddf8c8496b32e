// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net"
	"slices"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// The routers of these tests are gobgp's servers, which leak a goroutine when a connection
// breaks with something unsaid. TestNothingIsLeft looks at ours alone.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"))
}

func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	peers := []*stranger{newStranger(t, "127.0.0.2", decent), newStranger(t, "127.0.0.3", decent), newStranger(t, "127.0.0.4", func(net.Conn) {})}
	s := begin(t, Options{})
	var specs []loadbalancer.BGPSession
	for i, p := range peers {
		specs = append(specs, p.spec(string(rune('a'+i))))
	}
	for round := range 5 {
		routes := many(100 * (round + 1))
		for i := range specs {
			specs[i].Hold = time.Duration(30+round) * time.Second // another session
		}
		s.Apply(planOf(routes, specs...), lab)
		for _, name := range []string{"a", "b"} {
			awaitState(t, s, name, Established)
			eventually(t, "all are told", func() bool { return stateOf(s, name).Prefixes == len(routes) })
		}
	}
	s.Apply(loadbalancer.BGPPlan{}, nil)
	eventually(t, "no session is left", func() bool { return len(s.States()) == 0 })
	s.Apply(planOf(many(10), specs...), lab)
	awaitState(t, s, "a", Established)
	if err := s.Stop(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestRoutesAreToldChangedAndWithdrawn(t *testing.T) {
	r := newRouter(t, "127.0.0.2", theirASN, ourASN, nil)
	s := begin(t, Options{})
	routes := []loadbalancer.BGPRoute{route("198.51.100.1/32"), route("2001:db8:1::1/128")}
	routes[0].HasMED, routes[0].MED, routes[0].Prepend = true, 7, 2
	routes[0].Communities = []loadbalancer.Community{{A: 64512, B: 5}, {Kind: loadbalancer.LargeCommunity, A: 70000, B: 1, C: 2}}
	routes[0].LinkBandwidth = 3
	spec := r.spec("r")
	s.Apply(planOf(routes, spec), lab)
	awaitState(t, s, "r", Established)
	eventually(t, "both are told", func() bool { return len(r.paths(gobgp.RF_IPv4_UC)) == 1 && len(r.paths(gobgp.RF_IPv6_UC)) == 1 })

	p := r.paths(gobgp.RF_IPv4_UC)["198.51.100.1/32"]
	as := attribute[*gobgp.PathAttributeAsPath](t, p).Value[0].GetAS()
	if !slices.Equal(as, []uint32{ourASN, ourASN, ourASN}) {
		t.Errorf("AS path %v", as)
	}
	if got := attribute[*gobgp.PathAttributeMultiExitDisc](t, p).Value; got != 7 {
		t.Errorf("MED %d", got)
	}
	if got := attribute[*gobgp.PathAttributeNextHop](t, p).Value.String(); got != "127.0.0.1" {
		t.Errorf("next hop %s", got)
	}
	if got := attribute[*gobgp.PathAttributeCommunities](t, p).Value; !slices.Equal(got, []uint32{64512<<16 | 5}) {
		t.Errorf("communities %v", got)
	}
	if got := attribute[*gobgp.PathAttributeLargeCommunities](t, p).Values[0].String(); got != "70000:1:2" {
		t.Errorf("large community %s", got)
	}
	lb, ok := attribute[*gobgp.PathAttributeExtendedCommunities](t, p).Value[0].(*gobgp.LinkBandwidthExtended)
	if !ok || lb.AS != ourASN || lb.Bandwidth != 3*perEndpoint {
		t.Errorf("link bandwidth %v", lb)
	}
	if has(p, gobgp.BGP_ATTR_TYPE_LOCAL_PREF) {
		t.Error("an external peer is told a local preference")
	}
	six := r.paths(gobgp.RF_IPv6_UC)["2001:db8:1::1/128"]
	if got := attribute[*gobgp.PathAttributeMpReachNLRI](t, six).Nexthop.String(); got != "2001:db8::1" {
		t.Errorf("IPv6 next hop %s", got)
	}

	changed := slices.Clone(routes[:1])
	changed[0].MED = 9
	s.Apply(planOf(changed, spec), lab)
	eventually(t, "the change and the withdrawal", func() bool {
		p := r.paths(gobgp.RF_IPv4_UC)["198.51.100.1/32"]
		return len(r.paths(gobgp.RF_IPv6_UC)) == 0 && attribute[*gobgp.PathAttributeMultiExitDisc](t, p).Value == 9
	})
	st := stateOf(s, "r")
	if st.Flaps != 0 || st.Prefixes != 1 || st.LeftOut != 0 || st.ASN != theirASN || st.Updates != 4 {
		t.Errorf("state %+v", st)
	}
	if got := s.Routes("r"); len(got) != 1 || got[0].MED != 9 {
		t.Errorf("routes %v", got)
	}
}
