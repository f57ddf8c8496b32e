// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	// batch is how many routes go to the server at once: more would keep its lock for long.
	batch = 1000
	// restartTime is told to peers with graceful restart: how long they keep routes (RFC 4724 §3).
	restartTime = 120
	// deferral is how long a restarted server waits for End-of-RIB, which we send it ourselves.
	deferral = 5
	// listenTries bounds the search for a free port.
	listenTries = 20
)

// told is a route as the server has it.
type told struct {
	route loadbalancer.BGPRoute
	hop   netip.Addr
}

// rib is the BGP server of one session with its routes. Its one neighbour is a connection
// over loopback, see [line]. Not safe for concurrent use.
type rib struct {
	spec   *loadbalancer.BGPSession
	server *server.BgpServer
	port   int
	told   map[netip.Prefix]told
	peer   bool
}

// newRIB starts a server.
func newRIB(ctx context.Context, spec *loadbalancer.BGPSession) (*rib, error) {
	var errs []error
	for range listenTries {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		s := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), new(slog.LevelVar)))
		go s.Serve()
		err = s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
			Asn: ownASN(spec), RouterId: spec.RouterID.String(),
			ListenPort: int32(port), ListenAddresses: []string{loopback().String()}, //nolint:gosec // a port
			Families: []uint32{0, 1}, // IPv4 and IPv6 unicast in gobgp's own numbers; all of them would take 10 MB
		}})
		if err == nil {
			return &rib{spec: spec, server: s, port: port, told: make(map[netip.Prefix]told)}, nil
		}
		s.Stop()
		errs = append(errs, fmt.Errorf("start the BGP server: %w", err))
	}
	return nil, errors.Join(errs...)
}

// freePort of loopback. Somebody may take it before the server does; then it is tried again.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(loopback(), 0).String())
	if err != nil {
		return 0, fmt.Errorf("find a port of loopback: %w", err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil || !ok {
		return 0, fmt.Errorf("find a port of loopback: %w", err)
	}
	return addr.Port, nil
}

// close ends the server and all that runs for it.
func (r *rib) close() { r.server.Stop() }

// connect gives the server a neighbour and returns the connection to it. A stranger on
// loopback finds nobody there before and after.
func (r *rib) connect(ctx context.Context) (net.Conn, error) {
	r.disconnect(ctx)
	if err := r.server.AddPeer(ctx, &api.AddPeerRequest{Peer: r.neighbour()}); err != nil {
		return nil, fmt.Errorf("add the peer: %w", err)
	}
	r.peer = true
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		// A neighbour that is not Active yet closes the connection before its first octet.
		c, err := r.try(ctx)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (r *rib) try(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback(), 0)), KeepAlive: -1}
	to := netip.AddrPortFrom(loopback(), uint16(r.port)) //nolint:gosec // a port
	c, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return nil, fmt.Errorf("connect to the BGP server: %w", err)
	}
	p := &peeked{Conn: c}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetReadDeadline(deadline) // a connection that is closed fails in Read
	}
	if _, err := c.Read(p.first[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("hear from the BGP server: %w", err), c.Close())
	}
	return p, c.SetReadDeadline(time.Time{}) //nolint:wrapcheck // cannot fail on a connection that was just read from
}

// peeked is a connection whose first octet was read already.
type peeked struct {
	net.Conn
	first [1]byte
	done  bool
}

// Read gives that octet first.
func (p *peeked) Read(b []byte) (int, error) {
	if p.done || len(b) == 0 {
		return p.Conn.Read(b) //nolint:wrapcheck // io.EOF must stay itself
	}
	p.done = true
	b[0] = p.first[0]
	return 1, nil
}

// disconnect takes the neighbour away.
func (r *rib) disconnect(ctx context.Context) {
	if !r.peer {
		return
	}
	r.peer = false
	// An error would be that it is not there.
	_ = r.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: loopback().String()})
}

func (r *rib) neighbour() *api.Peer {
	s := r.spec
	p := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: loopback().String(), LocalAsn: ownASN(s), PeerAsn: s.PeerASN,
			AllowAspathLoopLocal: true, // what a router does with its own AS number is its business
		},
		Transport: &api.Transport{PassiveMode: true, LocalAddress: loopback().String()},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(s.Hold), KeepaliveInterval: seconds(s.Keepalive), ConnectRetry: 2, IdleHoldTimeAfterReset: 1,
		}},
	}
	if s.Dynamic != loadbalancer.FixedASN {
		p.Conf.PeerAsn = 0
	}
	if s.GracefulRestart {
		// As far as the peer is concerned each connection may be one after a restart.
		p.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: restartTime, DeferralTime: deferral, LocalRestarting: true}
	}
	for _, f := range families(s) {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiutil.ToApiFamily(f.Afi(), f.Safi()), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.GracefulRestart}},
		})
	}
	return p
}

func families(s *loadbalancer.BGPSession) []gobgp.Family {
	var f []gobgp.Family
	if s.IPv4 {
		f = append(f, gobgp.RF_IPv4_UC)
	}
	if s.IPv6 {
		f = append(f, gobgp.RF_IPv6_UC)
	}
	return f
}

// seconds rounds up: BGP knows no less.
func seconds(d time.Duration) uint64 { return uint64(math.Ceil(d.Seconds())) }

// set makes the routes of the server those that are wanted and have a next hop, and says
// how many were told or withdrawn. What cannot be told is left out; the error says why.
func (r *rib) set(want []loadbalancer.BGPRoute, at hops) (changed int, err error) {
	var errs []error
	keep := make(map[netip.Prefix]struct{}, len(want))
	var add []*apiutil.Path
	for i := range want {
		route := &want[i]
		hop := at.six
		if route.Prefix.Addr().Is4() {
			hop = at.four
		}
		if !hop.IsValid() || !r.carries(route.Prefix) {
			continue
		}
		old, ok := r.told[route.Prefix]
		if ok && old.hop == hop && old.route.Equal(&route.BGPAttributes) {
			old.route.Addrs = route.Addrs
			r.told[route.Prefix] = old
			keep[route.Prefix] = struct{}{}
			continue
		}
		p, err := path(r.spec, route, hop)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keep[route.Prefix] = struct{}{}
		r.told[route.Prefix] = told{*route, hop}
		add = append(add, p)
	}
	gone := r.gone(keep)
	errs = append(errs, r.withdraw(gone), r.tell(add))
	return len(add) + len(gone), errors.Join(errs...)
}

func (r *rib) carries(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return r.spec.IPv4
	}
	return r.spec.IPv6
}

func (r *rib) gone(keep map[netip.Prefix]struct{}) []*apiutil.Path {
	var gone []*apiutil.Path
	for prefix := range r.told {
		if _, ok := keep[prefix]; ok {
			continue
		}
		delete(r.told, prefix)
		nlri, err := gobgp.NewIPAddrPrefix(prefix)
		if err == nil { // it was told, so it is a prefix
			gone = append(gone, &apiutil.Path{Family: familyOf(prefix), Nlri: nlri, Withdrawal: true})
		}
	}
	return gone
}

// withdraw comes before tell: a router must not see more at once than the plan has.
func (r *rib) withdraw(paths []*apiutil.Path) error {
	for len(paths) > 0 {
		n := min(batch, len(paths))
		if err := r.server.DeletePath(apiutil.DeletePathRequest{Paths: paths[:n]}); err != nil {
			return fmt.Errorf("withdraw routes: %w", err)
		}
		paths = paths[n:]
	}
	return nil
}

func (r *rib) tell(paths []*apiutil.Path) error {
	for len(paths) > 0 {
		n := min(batch, len(paths))
		if _, err := r.server.AddPath(apiutil.AddPathRequest{Paths: paths[:n]}); err != nil {
			return fmt.Errorf("tell routes: %w", err)
		}
		paths = paths[n:]
	}
	return nil
}
