// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	ourASN   = 64513
	theirASN = 64512
)

// router is a gobgp that listens on loopback as a router does.
type router struct {
	t      *testing.T
	server *server.BgpServer
	addr   netip.Addr
	port   int
}

// newRouter takes sessions from 127.0.0.1.
func newRouter(t *testing.T, addr string, asn, peerASN uint32, change func(*api.Peer)) *router {
	t.Helper()
	r := &router{t: t, server: server.NewBgpServer(), addr: netip.MustParseAddr(addr)}
	go r.server.Serve()
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.port = port
	if err := r.server.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{
		Asn: asn, RouterId: "192.0.2.254", ListenPort: int32(port), ListenAddresses: []string{addr},
	}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.server.Stop)
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: peerASN},
		Transport: &api.Transport{PassiveMode: true},
		Timers:    &api.Timers{Config: &api.TimersConfig{HoldTime: 9, KeepaliveInterval: 3}},
	}
	for _, f := range []gobgp.Family{gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC} {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiutil.ToApiFamily(f.Afi(), f.Safi()), Enabled: true}})
	}
	if change != nil {
		change(p)
	}
	if err := r.server.AddPeer(t.Context(), &api.AddPeerRequest{Peer: p}); err != nil {
		t.Fatal(err)
	}
	return r
}

// spec is our side of a session with the router.
func (r *router) spec(name string) loadbalancer.BGPSession {
	return loadbalancer.BGPSession{
		Peer: name, MyASN: ourASN, PeerASN: theirASN, Addr: r.addr, Port: uint16(r.port), Source: netip.MustParseAddr("127.0.0.1"),
		Hold: 9 * time.Second, Keepalive: 3 * time.Second, Connect: time.Second, IdleHold: time.Second,
		RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true, IPv6: true,
	}
}

// paths that the router has from us.
func (r *router) paths(f gobgp.Family) map[string]*apiutil.Path {
	r.t.Helper()
	got := make(map[string]*apiutil.Path)
	err := r.server.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: "127.0.0.1", Family: f},
		func(n gobgp.NLRI, p []*apiutil.Path) { got[n.String()] = p[0] })
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// attribute of a path, which must be there.
func attribute[T gobgp.PathAttributeInterface](t *testing.T, p *apiutil.Path) T {
	t.Helper()
	for _, a := range p.Attrs {
		if a, ok := a.(T); ok {
			return a
		}
	}
	var none T
	t.Fatalf("%s has no %T: %v", p.Nlri, none, p.Attrs)
	return none
}

// has says whether a path has an attribute.
func has(p *apiutil.Path, kind gobgp.BGPAttrType) bool {
	return slices.ContainsFunc(p.Attrs, func(a gobgp.PathAttributeInterface) bool { return a.GetType() == kind })
}
