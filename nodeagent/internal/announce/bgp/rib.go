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
	"slices"
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
	peer   bool

	// want is what it was last given, with the next hops of then; told is what became of it,
	// four and six how many of each family.
	want      []loadbalancer.BGPRoute
	at        hops
	told      map[netip.Prefix]told
	four, six int
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

// set makes the routes of the server those that are wanted, ascending by prefix, and have a
// next hop, and says how many were told or withdrawn. What cannot be told is left out; the
// error says why. The caller must not write to want afterwards.
//
// Most often one route of thousands differs: old and new are walked side by side, and what is
// the same is not touched.
func (r *rib) set(want []loadbalancer.BGPRoute, at hops) (changed int, err error) {
	var errs []error
	var add, gone []*apiutil.Path
	whole, old := r.at != at, r.want
	r.want, r.at = want, at
	for i, j := 0, 0; i < len(old) || j < len(want); {
		side := 0
		switch {
		case i == len(old):
			side = 1
		case j == len(want):
			side = -1
		case old[i].Prefix != want[j].Prefix:
			side = old[i].Prefix.Compare(want[j].Prefix)
		}
		if side < 0 {
			gone = r.drop(gone, old[i].Prefix)
			i++
			continue
		}
		if side > 0 || whole || !sameRoute(&old[i], &want[j]) {
			if hop := r.hop(want[j].Prefix, at); !hop.IsValid() {
				gone = r.drop(gone, want[j].Prefix)
			} else if add, err = r.put(add, &want[j], hop); err != nil {
				gone = r.drop(gone, want[j].Prefix)
				errs = append(errs, err)
			}
		}
		if side == 0 {
			i++
		}
		j++
	}
	errs = append(errs, r.withdraw(gone), r.tell(add))
	if err = errors.Join(errs...); err != nil {
		r.at = hops{} // and once more, all of it
	}
	return len(add) + len(gone), err
}

// sameRoute compares. Plans share what did not change, which is seen soonest.
func sameRoute(a, b *loadbalancer.BGPRoute) bool {
	return a.BGPAttributes.Equal(&b.BGPAttributes) && len(a.Addrs) == len(b.Addrs) &&
		(len(a.Addrs) == 0 || &a.Addrs[0] == &b.Addrs[0] || slices.Equal(a.Addrs, b.Addrs))
}

// hop of a prefix, not valid where the session cannot carry it.
func (r *rib) hop(p netip.Prefix, at hops) netip.Addr {
	switch is4 := p.Addr().Is4(); {
	case is4 && r.spec.IPv4:
		return at.four
	case !is4 && r.spec.IPv6:
		return at.six
	default:
		return netip.Addr{}
	}
}

// put notes a route and adds to paths what the server is to be told of it, if anything.
func (r *rib) put(paths []*apiutil.Path, route *loadbalancer.BGPRoute, hop netip.Addr) ([]*apiutil.Path, error) {
	before, known := r.told[route.Prefix]
	if !known || before.hop != hop || !before.route.Equal(&route.BGPAttributes) {
		p, err := path(r.spec, route, hop)
		if err != nil {
			return paths, err
		}
		paths = append(paths, p)
	}
	if !known {
		*r.count(route.Prefix)++
	}
	r.told[route.Prefix] = told{*route, hop}
	return paths, nil
}

// drop forgets a prefix and adds its withdrawal to paths if it was told.
func (r *rib) drop(paths []*apiutil.Path, prefix netip.Prefix) []*apiutil.Path {
	if _, ok := r.told[prefix]; !ok {
		return paths
	}
	delete(r.told, prefix)
	*r.count(prefix)--
	nlri, err := gobgp.NewIPAddrPrefix(prefix)
	if err != nil {
		return paths // not possible: it was told, so it is a prefix
	}
	return append(paths, &apiutil.Path{Family: familyOf(prefix), Nlri: nlri, Withdrawal: true})
}

// count is how many prefixes of the family of one are told.
func (r *rib) count(p netip.Prefix) *int {
	if p.Addr().Is4() {
		return &r.four
	}
	return &r.six
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
