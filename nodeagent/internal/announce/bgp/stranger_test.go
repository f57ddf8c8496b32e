// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// stranger is a peer that says what a test wants, octet for octet.
type stranger struct {
	t    *testing.T
	l    net.Listener
	port uint16
	addr netip.Addr
	// talk serves a connection; it is closed afterwards.
	talk func(c net.Conn)
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns int
}

func newStranger(t *testing.T, addr string, talk func(net.Conn)) *stranger {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	s := &stranger{t: t, l: l, addr: at.Addr(), port: at.Port(), talk: talk}
	s.wg.Go(s.serve)
	t.Cleanup(func() {
		_ = s.l.Close()
		s.wg.Wait()
	})
	return s
}

func (s *stranger) serve() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		s.wg.Go(func() {
			_ = c.SetDeadline(time.Now().Add(patience))
			s.talk(c)
			_ = c.Close()
		})
	}
}

func (s *stranger) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *stranger) spec(name string) loadbalancer.BGPSession {
	return loadbalancer.BGPSession{
		Peer: name, MyASN: ourASN, PeerASN: theirASN, Addr: s.addr, Port: s.port,
		Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: time.Second, IdleHold: 10 * time.Millisecond,
		RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true, IPv6: true,
	}
}

// openOf a peer that carries both families.
func openOf(asn uint16, hold uint16, id string) []byte {
	return openFor(asn, hold, id, gobgp.RF_IPv4_UC, gobgp.RF_IPv6_UC)
}

// openFor a peer that carries some.
func openFor(asn uint16, hold uint16, id string, families ...gobgp.Family) []byte {
	var caps []gobgp.ParameterCapabilityInterface
	for _, f := range families {
		caps = append(caps, gobgp.NewCapMultiProtocol(f))
	}
	m, err := gobgp.NewBGPOpenMessage(asn, hold, netip.MustParseAddr(id), []gobgp.OptionParameterInterface{
		gobgp.NewOptionParameterCapability(append(caps, gobgp.NewCapFourOctetASNumber(uint32(asn)), gobgp.NewCapExtendedMessage())),
	})
	if err != nil {
		return nil
	}
	b, err := m.Serialize()
	if err != nil {
		return nil
	}
	return b
}

// greet does what a decent peer does up to Established.
func greet(c net.Conn) bool { return greetAs(c, openOf(theirASN, 90, "192.0.2.254")) }

// greetAs does so with an OPEN of its own.
func greetAs(c net.Conn, open []byte) bool {
	_, _ = c.Write(open)
	buf := make([]byte, maxMessage)
	for _, want := range []uint8{gobgp.BGP_MSG_OPEN, gobgp.BGP_MSG_KEEPALIVE} {
		m, err := readMessage(c, buf)
		if err != nil || m[18] != want {
			return false
		}
		_, _ = c.Write(keepalive())
	}
	return true
}

// decent is a peer that takes what it is told until the end.
func decent(c net.Conn) {
	if greet(c) {
		_, _ = io.Copy(io.Discard, c)
	}
}

// lastWords reads until the end of the connection and returns the NOTIFICATION before it.
func lastWords(c net.Conn) *notification {
	buf := make([]byte, maxMessage)
	var last *notification
	for {
		m, err := readMessage(c, buf)
		if err != nil {
			return last
		}
		if m[18] == gobgp.BGP_MSG_NOTIFICATION {
			n := notificationOf(m)
			last = &n
		}
	}
}

// heard is what a stranger has heard last.
func heard(t *testing.T, words <-chan *notification) *notification {
	t.Helper()
	select {
	case n := <-words:
		return n
	case <-time.After(patience):
		t.Fatal("the peer's connection does not end")
		return nil
	}
}
