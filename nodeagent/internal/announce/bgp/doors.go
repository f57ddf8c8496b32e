// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// doorTime is how often a session looks whether its peer can still reach it, and how long
	// a socket rests that cannot accept.
	doorTime = time.Second
	// strangeTime is how often a stranger is named in the log at most.
	strangeTime = time.Minute
)

// house is where peers of passive sessions come in: a socket for each of this node's
// addresses that some session speaks from, open while one does, and a door in it for each
// peer. Who has no door is let go at once, and counted.
type house struct {
	// port of the sockets, 0 where the agent is not to listen.
	port      uint16
	strangers atomic.Uint64
	wg        sync.WaitGroup

	mu    sync.Mutex
	halls map[netip.Addr]*hall // guarded by mu
	named time.Time            // guarded by mu: when a stranger was named last
}

// hall is one socket.
type hall struct {
	listener *kernel.TCPListener
	doors    map[netip.Addr]*door // guarded by house.mu; by peer, without zone
}

// door is where the peer of one session comes in.
type door struct {
	house *house
	spec  *loadbalancer.BGPSession
	dial  kernel.TCPDial
	// came has the last connection that nobody took yet.
	came chan net.Conn

	at     netip.Addr // guarded by house.mu: address of the hall, not valid without
	closed bool       // guarded by house.mu
}

// shutError is why there is no door.
type shutError string

// Error is for people.
func (s shutError) Error() string { return string(s) }

func newHouse(port uint16) *house {
	return &house{port: port, halls: make(map[netip.Addr]*hall)}
}

// door for a session. It is to be opened, and closed at last.
func (h *house) door(spec *loadbalancer.BGPSession, dial kernel.TCPDial) *door {
	return &door{house: h, spec: spec, dial: dial, came: make(chan net.Conn, 1)}
}

// key of a peer in a hall. The zone is the hall's own.
func (d *door) key() netip.Addr { return d.spec.Addr.WithZone("") }

// open has the peer's connections come in, at the address that the session speaks from now,
// which it returns. A door that is open there already is left as it is. One for an earlier
// session of the same BGPPeer is closed.
func (d *door) open(ctx context.Context) (netip.AddrPort, error) {
	local, err := d.local(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := netip.AddrPortFrom(local, d.house.port)
	d.house.mu.Lock()
	defer d.house.mu.Unlock()
	if d.closed || d.at == local {
		return at, nil
	}
	d.leave()
	in := d.house.halls[local]
	if in == nil {
		l, err := kernel.ListenTCP(ctx, at, d.dial)
		if err != nil {
			return at, shutError(whyShut(err, at))
		}
		in = &hall{listener: l, doors: make(map[netip.Addr]*door)}
		d.house.halls[local] = in
		d.house.wg.Go(func() { d.house.accept(context.WithoutCancel(ctx), in) })
	}
	if other := in.doors[d.key()]; other != nil {
		if other.spec.Peer != d.spec.Peer {
			return at, shutError(fmt.Sprintf("connections from %s to %s are those of BGPPeer %s, which is passive too", d.spec.Addr, local, other.spec.Peer))
		}
		other.at, other.closed = netip.Addr{}, true
	}
	in.doors[d.key()], d.at = d, local
	if err := errors.Join(in.listener.SetPassword(d.spec.Addr, d.dial.Password), in.setMinTTL()); err != nil {
		d.leave()
		return at, err //nolint:wrapcheck // says what failed
	}
	return at, nil
}

// local is the address that the peer has to connect to.
func (d *door) local(ctx context.Context) (netip.Addr, error) {
	if !d.spec.Source.IsValid() {
		return kernel.SourceFor(ctx, d.spec.Addr) //nolint:wrapcheck // says what failed
	}
	if d.spec.Source.IsLinkLocalUnicast() && d.spec.Source.Is6() {
		return d.spec.Source.WithZone(d.spec.Addr.Zone()), nil
	}
	return d.spec.Source, nil
}

// whyShut says why nobody can listen.
func whyShut(err error, at netip.AddrPort) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("TCP port %d of %s is taken by another program of this node, such as FRR, BIRD or Calico: stop that, or have agents listen on another port (--bgp-listen-port)", at.Port(), at.Addr())
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("the agent may not listen on TCP port %d: it lacks the capability NET_BIND_SERVICE, which the overlay bgp-listen gives", at.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("this node does not have the address %s", at.Addr())
	}
	return err.Error()
}

// setMinTTL is the least that some session allows: the socket has one for all. The
// connection gets its own when it is accepted.
func (in *hall) setMinTTL() error {
	least := uint8(255)
	for _, d := range in.doors {
		least = min(least, d.dial.MinTTL)
	}
	return in.listener.SetMinTTL(least) //nolint:wrapcheck // says what failed
}

// leave takes the door out of its hall, and closes that if it was the last. It needs the
// house's mu.
func (d *door) leave() {
	in := d.house.halls[d.at]
	if in == nil || in.doors[d.key()] != d {
		d.at = netip.Addr{}
		return
	}
	delete(in.doors, d.key())
	if len(in.doors) == 0 {
		delete(d.house.halls, d.at)
		_ = in.listener.Close() // ends accept
	} else {
		// Errors leave a stranger a little more than he should have: he is turned away all the same.
		_ = errors.Join(in.listener.SetPassword(d.spec.Addr, ""), in.setMinTTL())
	}
	d.at = netip.Addr{}
}

// close has nobody come in any more.
func (d *door) close() {
	d.house.mu.Lock()
	d.closed = true
	d.leave()
	d.house.mu.Unlock()
	select {
	case c := <-d.came:
		_ = c.Close() // was not used
	default:
	}
}

// offer leaves a connection at the door, in place of one that lies there: a peer that
// connects again has given the other up.
func (d *door) offer(c net.Conn) {
	d.house.mu.Lock()
	defer d.house.mu.Unlock()
	if d.closed {
		_ = c.Close() // nobody comes for it
		return
	}
	select {
	case old := <-d.came:
		_ = old.Close() // was not used
	default:
	}
	d.came <- c // has room: only offer sends, under mu
}

// accept lets peers in until the socket is closed.
func (h *house) accept(ctx context.Context, in *hall) {
	for {
		c, from, err := in.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of file descriptors, say
			klog.FromContext(ctx).Error(err, "Cannot accept a BGP connection")
			sleep(ctx, doorTime, nil)
			continue
		}
		h.admit(ctx, in, c, from)
	}
}

func (h *house) admit(ctx context.Context, in *hall, c *net.TCPConn, from netip.Addr) {
	h.mu.Lock()
	d := in.doors[from.WithZone("")]
	name := d == nil && time.Since(h.named) >= strangeTime
	if name {
		h.named = time.Now()
	}
	h.mu.Unlock()
	if d == nil {
		h.strangers.Add(1)
		_ = c.SetLinger(0) // he gets a reset, and no memory of him stays
		_ = c.Close()
		if name {
			klog.FromContext(ctx).Info("Refused a BGP connection of a stranger", "from", from, "to", c.LocalAddr().String(), "soFar", h.strangers.Load())
		}
		return
	}
	if err := d.dial.Adopt(c); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot take a BGP connection", "peer", d.spec.Peer)
		_ = c.Close() // was not used
		return
	}
	d.offer(c)
}

// await waits for the peer to connect.
func (s *session) await(ctx context.Context) (net.Conn, cause) {
	t := time.NewTicker(doorTime)
	defer t.Stop()
	for {
		s.waits(s.door.open(ctx))
		select {
		case <-ctx.Done():
			return nil, cause{reason.NotEstablished, "the session is ended"}
		case c := <-s.door.came:
			return c, cause{}
		case <-t.C:
		}
	}
}

// waits notes what a passive session waits for, and what ended it last.
func (s *session) waits(at netip.AddrPort, err error) {
	why, message := reason.NotEstablished, fmt.Sprintf("waits for %s to connect to %s", s.spec.Addr, at)
	shut, is := errors.AsType[shutError](err)
	switch {
	case is:
		why, message = reason.CannotListen, string(shut)
	case err != nil:
		message = err.Error()
	}
	s.mu.Lock()
	if err == nil && s.before.reason != "" {
		why, message = s.before.reason, message+"; before: "+s.before.why
	}
	same := s.state.State == Active && s.state.Reason == why && s.state.Message == message
	s.state.State, s.state.Reason, s.state.Message = Active, why, message
	s.mu.Unlock()
	if !same {
		s.changed()
	}
}

// answerAgain answers a peer that connects while there is a connection, until that ends.
func (s *session) answerAgain(l *line, ended <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ended:
			return
		case c := <-s.door.came:
			if l.ending.Load() || s.supersedes(l) {
				s.door.offer(c)
				return
			}
			wg.Go(func() { turnAway(c) })
		}
	}
}

// supersedes says whether a new connection is to be used instead of the one that there is,
// which it ends then. Before it is established the peer has given it up: we do not connect,
// so that the two are no collision (RFC 4271 §6.8). Afterwards it has restarted, if it
// restarts gracefully (RFC 4724 §4.2), and must wait until the old one is seen to be dead if
// not.
func (s *session) supersedes(l *line) bool {
	s.mu.Lock()
	up, restarts := s.state.State == Established, s.spec.GracefulRestart && s.greeting.restart
	s.mu.Unlock()
	switch {
	case !up:
		l.end(&notification{code: codeCease, subcode: subCollision}, cause{reason.NotEstablished, "the peer connected again"})
	case restarts:
		l.end(nil, cause{reason.NotEstablished, "the peer restarted"})
	}
	return !up || restarts
}

// turnAway ends a connection that is one too many.
func turnAway(c net.Conn) {
	l := &line{outer: c, ended: make(chan struct{})}
	l.end(&notification{code: codeCease, subcode: subCollision}, cause{})
	var buf [1024]byte
	for range 64 { // for the peer to read it: see end, which set the deadline
		if _, err := c.Read(buf[:]); err != nil {
			break
		}
	}
	_ = c.Close() // as it was to be
}
