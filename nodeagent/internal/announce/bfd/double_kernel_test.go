// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bfd

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// RFC 5881 §4 and §5: destination port, a source port of the range that stays, TTL 255.
func TestWhatIsSent(t *testing.T) {
	for _, port := range []int{portSingle, portMulti} {
		d, _ := start(t)
		p := newDouble(t, port)
		s := single(20 * time.Millisecond)
		if port == portMulti {
			s.MinTTL = 254
		}
		d.Watch("a", away, home, s)
		first := p.hear()
		if first.ttl != 255 || int(first.to) != port || first.from < portLow {
			t.Errorf("%+v", first)
		}
		p.up()
		for range 20 {
			p.say(wire.StateUp)
			if h := p.hear(); h.from != first.from || h.ttl != 255 {
				t.Errorf("%+v after %+v", h, first)
			}
		}
		d.Forget("a")
	}
}

// RFC 5881 §5: what came over a router is nobody's on the link; and neither is the rest of
// what does not belong to the session.
func TestWhatIsDropped(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portSingle)
	netns.AddAddr(t, "lo", "127.0.0.3/32")
	d.Watch("a", away, netip.Addr{}, single(100*time.Millisecond))
	p.up()
	eventually(t, "up", d, isState(d, "a", "Up"))
	dropped := func(c Cause, n uint64) func() bool {
		return func() bool { return d.States()["a"].Dropped[c] == n }
	}
	p.ttl(254)
	for range 3 {
		p.say(wire.StateDown)
	}
	eventually(t, "TTL 254 is dropped", d, dropped(TTL, 3))
	p.ttl(255)
	mine := p.self.YourDiscriminator
	p.self.YourDiscriminator = mine + 1
	p.say(wire.StateDown)
	eventually(t, "another session's packet is dropped", d, dropped(Discriminator, 1))
	p.self.YourDiscriminator = mine
	for _, b := range [][]byte{{}, {0x20}, make([]byte, 24), make([]byte, 1400)} {
		if _, err := p.out.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nonsense is dropped", d, dropped(Malformed, 4))
	b, err := p.self.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n, wrong := range [][]byte{changed(b, 0, 2<<5|b[0]&0x1f), changed(b, 2, 0), changed(b, 3, 23), changed(b, 3, 25), b[:23], changed(b, 4, 0, 0, 0, 0)} {
		if _, err := p.out.Write(wrong); err != nil {
			t.Fatal(err)
		}
		eventually(t, "version, multiplier, lengths and discriminator 0 are dropped", d, dropped(Malformed, uint64(5+n)))
	}
	b[1] |= flagAuth
	b[3] = 26
	if _, err := p.out.Write(append(b, 0, 0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "authentication is refused", d, dropped(Authenticated, 1))
	if s := d.States()["a"]; s.Falls != 0 && s.Why != "the peer was not heard for 3s" {
		t.Errorf("it fell: %+v", s)
	}
	p.dial("127.0.0.3", portSingle)
	p.say(wire.StateDown)
	eventually(t, "a stranger is not heard", d, func() bool { return d.Strangers()[Stranger] > 0 })
}

// changed is a packet with other octets from one on.
func changed(b []byte, at int, octets ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], octets)
	return b
}

// Whatever strangers and a hostile peer send, the session of another peer stays.
func TestFlood(t *testing.T) {
	packets := 5000
	if wholly() {
		packets = 500_000
	}
	d, _ := start(t)
	p := newDouble(t, portSingle)
	netns.AddAddr(t, "lo", "127.0.0.4/32")
	s := single(300 * time.Millisecond)
	d.Watch("good", away, netip.Addr{}, s)
	d.Watch("bad", netip.MustParseAddr("127.0.0.4"), netip.Addr{}, s)
	p.self.DesiredMinTxInterval = 300_000
	p.up()
	eventually(t, "up", d, isState(d, "good", "Up"))
	good := p.out
	p.dial("127.0.0.4", portSingle)
	p.ttl(254)
	bad, over := p.out, make(chan struct{})
	go func() {
		defer close(over)
		b := bytes.Repeat([]byte{0x20}, 24)
		for i := range packets {
			b[0], b[3] = byte(0x20+i%3), byte(24+i%2)
			_, _ = bad.Write(b) // a full buffer is what is wanted
		}
	}()
	p.out = good
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for flooding := true; flooding; {
		select {
		case <-over:
			flooding = false
		case <-tick.C:
		}
		p.say(wire.StateUp)
	}
	p.say(wire.StateUp)
	eventually(t, "what came is counted", d, func() bool {
		drops := d.States()["bad"].Dropped
		return drops[TTL]+drops[Malformed] > 0
	})
	if state, falls, why := d.State("good"); state != "Up" || falls != 0 {
		t.Errorf("%s after %d falls: %s", state, falls, why)
	}
	t.Logf("%d packets: %+v", packets, d.States()["bad"].Dropped)
}

// Over several hops the least TTL is configured (RFC 5883 §5 has none of its own), and a
// peer whose packets never do says so.
func TestMinimumTTL(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portMulti)
	p.ttl(63)
	s := single(100 * time.Millisecond)
	s.MinTTL = 64
	d.Watch("a", away, netip.Addr{}, s)
	p.self.YourDiscriminator = p.await(wire.StateDown).MyDiscriminator
	p.say(wire.StateDown)
	eventually(t, "the TTL is told", d, func() bool {
		_, _, why := d.State("a")
		return why == "the peer's packets come with TTL 63, 64 is the least that is taken"
	})
	p.ttl(64)
	p.up()
	eventually(t, "up", d, isState(d, "a", "Up"))
}

// RFC 5880 §6.8.16, and RFC 5882 §4.2: who says AdminDown does not say that it is gone.
func TestAdminDown(t *testing.T) {
	farewells := func(t *testing.T, p *double) {
		t.Helper()
		for i := range 3 {
			if h := p.await(wire.StateAdminDown); h.Diagnostic != wire.DiagnosticAdministrativelyDown {
				t.Errorf("%d: %+v", i, h)
			}
		}
	}
	d, stop := start(t)
	p := newDouble(t, portSingle)
	p.self.DesiredMinTxInterval = 60_000_000
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	p.up()
	eventually(t, "up", d, isState(d, "a", "Up"))
	p.say(wire.StateAdminDown)
	eventually(t, "down", d, isState(d, "a", "Down"))
	if _, falls, why := d.State("a"); falls != 0 || why != "the peer has ended BFD (AdminDown)" {
		t.Errorf("%d falls: %s", falls, why)
	}
	p.say(wire.StateDown)
	p.say(wire.StateInit)
	eventually(t, "up again", d, isState(d, "a", "Up"))
	p.say(wire.StateDown)
	eventually(t, "down by the peer's word", d, func() bool {
		_, falls, why := d.State("a")
		return falls == 1 && why == "the peer says that the session is down"
	})
	p.say(wire.StateDown)
	p.say(wire.StateInit)
	eventually(t, "up the third time", d, isState(d, "a", "Up"))
	d.Forget("a")
	farewells(t, p)
	if state, _, _ := d.State("a"); state != "" {
		t.Errorf("still %s", state)
	}
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	p.self.YourDiscriminator = 0
	p.up()
	eventually(t, "up anew", d, isState(d, "a", "Up"))
	stop()
	farewells(t, p)
}

// A daemon that has the port is no reason to fail, but to say so: and to be silent, because
// it may have a session with the same peer.
func TestPortTaken(t *testing.T) {
	other, err := net.ListenUDP("udp4", &net.UDPAddr{Port: portSingle})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := start(t)
	p := newDouble(t, portSingle)
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	eventually(t, "the fault is named", d, func() bool {
		state, _, why := d.State("a")
		return state == "Down" && strings.Contains(why, "UDP port 3784 is taken by another program")
	})
	<-time.After(1500 * time.Millisecond)
	if s := d.States()["a"]; s.Out != 0 || s.Fault == "" {
		t.Errorf("speaks beside the other: %+v", s)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	p.up()
	eventually(t, "up once the port is free", d, isState(d, "a", "Up"))
	if s := d.States()["a"]; s.Fault != "" {
		t.Errorf("still %q", s.Fault)
	}
}

// The ports are open only while there is a session that needs them.
func TestPortsAreClosed(t *testing.T) {
	free := func(network string, port int) bool {
		c, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
	d, _ := start(t)
	for _, k := range []struct {
		network string
		peer    netip.Addr
		minTTL  uint8
		port    int
	}{{"udp4", away, 255, portSingle}, {"udp4", away, 9, portMulti}, {"udp6", netip.IPv6Loopback(), 0, portSingle}, {"udp6", netip.IPv6Loopback(), 254, portMulti}} {
		if !free(k.network, k.port) {
			t.Errorf("%+v: taken before", k)
		}
		d.Watch("a", k.peer, netip.Addr{}, loadbalancer.BFDSession{Receive: time.Second, Transmit: time.Second, Multiplier: 3, MinTTL: k.minTTL})
		eventually(t, "open", d, func() bool { return !free(k.network, k.port) })
		if k.port == portSingle && k.network == "udp4" {
			p := newDouble(t, portSingle) // one that has something to say at its end
			p.up()
			eventually(t, "up", d, isState(d, "a", "Up"))
		}
		d.Forget("a")
		eventually(t, "closed", d, func() bool { return free(k.network, k.port) })
	}
}

// Two sessions that cannot be told apart: the older one runs, the other says why not.
func TestRivals(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portSingle)
	d.Watch("b", away, home, single(20*time.Millisecond))
	p.up()
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	eventually(t, "the younger one is told", d, func() bool {
		_, _, why := d.State("a")
		return why == `peer "b" is watched at the same address`
	})
	d.Forget("b")
	p.self.YourDiscriminator = 0
	p.up()
	eventually(t, "the heir is up", d, isState(d, "a", "Up"))
	d.Watch("none", netip.Addr{}, netip.Addr{}, single(20*time.Millisecond))
	eventually(t, "no address", d, func() bool { return d.States()["none"].Fault == "the peer has no address" })
}

// Changed has a token for whoever waits.
func TestChanged(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portSingle)
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	p.up()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for _, want := range []string{"Up", "Down"} {
		for ok := false; !ok; {
			select {
			case <-d.Changed():
			case <-deadline.C:
				t.Fatalf("no word of %s", want)
			}
			state, _, _ := d.State("a")
			ok = state == want
		}
	}
}

// The older of two packets that lie in the socket is no answer to a peer that is gone.
func TestSilenceIsNoticedAfterAStall(t *testing.T) {
	d, _ := start(t)
	p := newDouble(t, portSingle)
	p.self.DesiredMinTxInterval = 20000
	d.Watch("a", away, netip.Addr{}, single(20*time.Millisecond))
	p.up()
	d.mu.Lock()
	<-time.After(200 * time.Millisecond)
	d.mu.Unlock()
	eventually(t, "down", d, isState(d, "a", "Down"))
}
