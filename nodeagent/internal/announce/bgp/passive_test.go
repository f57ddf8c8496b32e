// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// listening is a speaker that peers connect to, and its port.
func listening(t *testing.T, o Options) (*Speaker, uint16) {
	t.Helper()
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.ListenPort = uint16(port)
	return begin(t, o), o.ListenPort
}

// waitsFor is our side of a session with a peer that connects from an address.
func waitsFor(name, from string, change func(*loadbalancer.BGPSession)) loadbalancer.BGPSession {
	s := loadbalancer.BGPSession{
		Peer: name, MyASN: ourASN, PeerASN: theirASN, Addr: netip.MustParseAddr(from), Port: 179, Source: netip.MustParseAddr("127.0.0.1"), Passive: true,
		Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: time.Second, IdleHold: 10 * time.Millisecond,
		RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true, IPv6: true,
	}
	if change != nil {
		change(&s)
	}
	return s
}

// call connects from an address to 127.0.0.1.
func call(t *testing.T, from string, port uint16) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.DialContext(t.Context(), "tcp4", net.JoinHostPort("127.0.0.1", fmtPort(port)))
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// reaches connects until somebody listens.
func reaches(t *testing.T, from string, port uint16) net.Conn {
	t.Helper()
	var c net.Conn
	eventually(t, "somebody listens", func() bool {
		var err error
		c, err = call(t, from, port)
		return err == nil
	})
	return c
}

// closes says whether the other side ends a connection that says nothing.
func closes(c net.Conn) bool {
	_, err := io.Copy(io.Discard, c)
	return err == nil || errors.Is(err, syscall.ECONNRESET)
}

func TestPassivePeersComeIn(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	s, port := listening(t, Options{})
	if _, err := call(t, "127.0.0.2", port); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("before there is a passive session: %v", err)
	}
	s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", nil), waitsFor("b", "127.0.0.3", func(b *loadbalancer.BGPSession) { b.Source = netip.Addr{} })), lab)
	for _, name := range []string{"a", "b"} {
		eventually(t, name+" waits", func() bool {
			st := stateOf(s, name)
			return st.State == Active && st.Reason == reason.NotEstablished && strings.HasPrefix(st.Message, "waits for 127.0.0.") &&
				strings.HasSuffix(st.Message, " to connect to 127.0.0.1:"+fmtPort(port))
		})
	}

	stranger := reaches(t, "127.0.0.4", port)
	if !closes(stranger) || s.Strangers() != 1 {
		t.Errorf("a stranger was not sent away, or not counted: %d", s.Strangers())
	}

	conns := make(map[string]net.Conn)
	for name, from := range map[string]string{"a": "127.0.0.2", "b": "127.0.0.3"} {
		conns[name] = reaches(t, from, port)
		if !greet(conns[name]) {
			t.Fatalf("no session with %s", name)
		}
		st := awaitState(t, s, name, Established)
		if st.Local != netip.MustParseAddr("127.0.0.1") || st.ASN != theirASN || st.Reason != "" {
			t.Errorf("%s: %+v", name, st)
		}
	}
	// One too many is told so, and the first is not touched.
	again := reaches(t, "127.0.0.2", port)
	_, _ = again.Write(openOf(theirASN, 90, "192.0.2.254"))
	if n := lastWords(again); n == nil || n.code != codeCease || n.subcode != subCollision {
		t.Errorf("a second connection ended by %v", n)
	}
	if st := stateOf(s, "a"); st.State != Established || st.Flaps != 0 {
		t.Errorf("the first connection did not stay: %+v", st)
	}
	// Lost, it waits again, and says what was.
	_, _ = conns["a"].Write(notification{code: codeCease, subcode: adminReset}.bytes())
	_ = conns["a"].Close()
	eventually(t, "a waits again", func() bool {
		st := stateOf(s, "a")
		return st.State == Active && st.Flaps == 1 && strings.Contains(st.Message, "; before: the peer ended it: Cease/Administrative Reset")
	})
	if !greet(reaches(t, "127.0.0.2", port)) {
		t.Error("no new session")
	}
	awaitState(t, s, "a", Established)

	s.Apply(planOf(many(3), waitsFor("b", "127.0.0.3", func(b *loadbalancer.BGPSession) { b.Source = netip.Addr{} })), lab)
	eventually(t, "a is a stranger now", func() bool { return closes(reaches(t, "127.0.0.2", port)) && s.Strangers() > 1 })
	if st := stateOf(s, "b"); st.State != Established || st.Flaps != 0 {
		t.Errorf("b was touched: %+v", st)
	}
	s.Apply(loadbalancer.BGPPlan{}, nil)
	eventually(t, "nobody listens any more", func() bool {
		_, err := call(t, "127.0.0.3", port)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// A peer that is nobody yet may connect as often as it likes: the last connection counts.
func TestPassivePeerThatConnectsAgain(t *testing.T) {
	s, port := listening(t, Options{})
	s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", nil)), lab)
	first := reaches(t, "127.0.0.2", port)
	awaitState(t, s, "a", OpenSent)
	second := reaches(t, "127.0.0.2", port)
	if n := lastWords(first); n == nil || n.code != codeCease || n.subcode != subCollision {
		t.Errorf("the first ended by %v", n)
	}
	if !greet(second) {
		t.Error("the second is no session")
	}
	awaitState(t, s, "a", Established)
}

// Who restarts gracefully may come back before the old connection is known to be dead.
func TestPassivePeerThatRestarts(t *testing.T) {
	s, port := listening(t, Options{})
	s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", func(a *loadbalancer.BGPSession) { a.GracefulRestart = true })), lab)
	open, err := gobgp.NewBGPOpenMessage(theirASN, 90, netip.MustParseAddr("192.0.2.254"), []gobgp.OptionParameterInterface{
		gobgp.NewOptionParameterCapability([]gobgp.ParameterCapabilityInterface{
			gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), gobgp.NewCapFourOctetASNumber(theirASN), gobgp.NewCapGracefulRestart(true, false, 120, nil),
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	restarts, err := open.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	first := reaches(t, "127.0.0.2", port)
	if !greetAs(first, restarts) {
		t.Fatal("no session")
	}
	awaitState(t, s, "a", Established)
	second := reaches(t, "127.0.0.2", port)
	if n := lastWords(first); n != nil {
		t.Errorf("the first ended by %v, want no word", n)
	}
	if !greetAs(second, restarts) {
		t.Fatal("no second session")
	}
	eventually(t, "the second is up", func() bool { st := stateOf(s, "a"); return st.State == Established && st.Flaps == 1 })
}

// Another configuration is another session, but the socket stays: a router that is refused
// once waits for minutes.
func TestPassiveSessionChanges(t *testing.T) {
	s, port := listening(t, Options{})
	change := func(round int) {
		s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", func(a *loadbalancer.BGPSession) { a.Hold = time.Duration(30+round) * time.Second })), lab)
	}
	change(0)
	reaches(t, "127.0.0.4", port)
	stop, refused := make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { // a stranger, who notices when nobody listens
		for {
			select {
			case <-stop:
				return
			case <-t.Context().Done():
				return
			case <-time.After(time.Millisecond):
			}
			c, err := call(t, "127.0.0.4", port)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED): // not ECONNRESET, as strangers get that
				leaveWord(refused, err)
				return
			case err == nil:
				_ = c.Close()
			}
		}
	})
	for round := range 5 {
		// Until the old session is gone its connections are those of the old configuration.
		eventually(t, "a session with the new hold time", func() bool {
			c, err := call(t, "127.0.0.2", port)
			if errors.Is(err, syscall.ECONNREFUSED) {
				leaveWord(refused, err)
			}
			if err != nil {
				return false
			}
			open, err := readMessage(c, make([]byte, maxMessage))
			if err != nil || int(open[22])<<8|int(open[23]) != 30+round {
				_ = c.Close()
				return false
			}
			return true
		})
		change(round + 1)
	}
	close(stop)
	wg.Wait()
	select {
	case err := <-refused:
		t.Errorf("a peer was refused while a session changed: %v", err)
	default:
	}
}

// leaveWord leaves the first error.
func leaveWord(c chan error, err error) {
	select {
	case c <- err:
	default:
	}
}

func TestPassiveIsRefused(t *testing.T) {
	s := begin(t, Options{})
	s.Apply(planOf(nil, waitsFor("a", "127.0.0.2", nil)), lab)
	st := awaitState(t, s, "a", Refused)
	if st.Reason != reason.PassiveNotEnabled || !strings.Contains(st.Message, "overlay bgp-listen") {
		t.Errorf("%+v", st)
	}
}

// What one session cannot have does not harm another.
func TestPassiveSessionThatCannotListen(t *testing.T) {
	s, port := listening(t, Options{})
	var lc net.ListenConfig
	daemon, err := lc.Listen(t.Context(), "tcp4", net.JoinHostPort("127.0.0.9", fmtPort(port)))
	if err != nil {
		t.Fatal(err)
	}
	from9 := func(x *loadbalancer.BGPSession) { x.Source = netip.MustParseAddr("127.0.0.9") }
	s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", nil), waitsFor("b", "127.0.0.3", from9), waitsFor("c", "127.0.0.2", nil),
		waitsFor("d", "127.0.0.2", func(x *loadbalancer.BGPSession) { x.Source = netip.MustParseAddr("198.51.100.77") })), lab)
	for peer, words := range map[string]string{
		"b": "TCP port " + fmtPort(port) + " of 127.0.0.9 is taken by another program",
		"c": "those of BGPPeer a, which is passive too",
		"d": "this node does not have the address 198.51.100.77",
	} {
		eventually(t, peer+" says why", func() bool {
			st := stateOf(s, peer)
			return st.State == Active && st.Reason == reason.CannotListen && strings.Contains(st.Message, words)
		})
	}
	if !greet(reaches(t, "127.0.0.2", port)) {
		t.Error("no session for the one that can")
	}
	awaitState(t, s, "a", Established)
	if err := daemon.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b can now", func() bool { st := stateOf(s, "b"); return st.Reason == reason.NotEstablished })
}

// BFD ends such a session as any other, and a strict one takes its peer in when BFD is up.
func TestPassiveAndBFD(t *testing.T) {
	f := newFakeDetector()
	s, port := listening(t, Options{Detector: f})
	s.Apply(planOf(many(3), waitsFor("a", "127.0.0.2", func(a *loadbalancer.BGPSession) { a.BFD.Profile, a.BFD.Strict = "p", true })), lab)
	c := reaches(t, "127.0.0.2", port)
	awaitState(t, s, "a", Idle)
	f.set("Up", 0)
	if !greet(c) {
		t.Fatal("the connection was not kept for it")
	}
	awaitState(t, s, "a", Established)
	f.set("Down", 1)
	if n := lastWords(c); n == nil || n.code != codeCease || n.subcode != subBFDDown {
		t.Errorf("ended by %v", n)
	}
	eventually(t, "it says why", func() bool { return stateOf(s, "a").Reason == reason.BFDDown })
	f.set("Up", 1)
	if !greet(reaches(t, "127.0.0.2", port)) {
		t.Error("no new session")
	}
	awaitState(t, s, "a", Established)
}
