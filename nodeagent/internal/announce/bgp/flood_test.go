// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// wholly says that tests are to take all the time that they can use, as the soak has it.
func wholly() bool { return os.Getenv("FAIRLEAD_BGP") == "full" }

// updates that no router should send: each is dropped unread.
func brokenUpdates() map[string][]byte {
	origin := []byte{0x40, 1, 1, 0}
	hop := []byte{0x40, 3, 4, 127, 0, 0, 2}
	path := []byte{0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0}
	update := func(withdrawn, attributes, nlri []byte) []byte {
		b := []byte{byte(len(withdrawn) >> 8), byte(len(withdrawn))}
		b = append(b, withdrawn...)
		b = append(b, byte(len(attributes)>>8), byte(len(attributes)))
		return message(gobgp.BGP_MSG_UPDATE, append(append(b, attributes...), nlri...))
	}
	nlri := []byte{32, 10, 0, 0, 1}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	return map[string][]byte{
		"attributes longer than the message":  message(2, []byte{0, 0, 0xff, 0xff}),
		"withdrawn longer than the message":   message(2, []byte{0xff, 0xff, 0, 0}),
		"a prefix of 33 bits":                 update(nil, join(origin, path, hop), []byte{33, 10, 0, 0, 0, 0}),
		"a prefix of 255 bits":                update([]byte{255}, nil, nil),
		"a prefix that ends in the air":       update(nil, join(origin, path, hop), []byte{32, 10}),
		"no ORIGIN":                           update(nil, join(path, hop), nlri),
		"ORIGIN 9":                            update(nil, join([]byte{0x40, 1, 1, 9}, path, hop), nlri),
		"ORIGIN twice":                        update(nil, join(origin, origin, path, hop), nlri),
		"flags of an optional one":            update(nil, join([]byte{0xc0, 1, 1, 0}, path, hop), nlri),
		"an AS path that ends in the air":     update(nil, join(origin, []byte{0x40, 2, 6, 2, 9, 0, 0, 0xfc, 0}, hop), nlri),
		"an AS path of an unknown kind":       update(nil, join(origin, []byte{0x40, 2, 6, 77, 1, 0, 0, 0xfc, 0}, hop), nlri),
		"a next hop of 3 octets":              update(nil, join(origin, path, []byte{0x40, 3, 3, 127, 0, 0}), nlri),
		"next hop 255.255.255.255":            update(nil, join(origin, path, []byte{0x40, 3, 4, 255, 255, 255, 255}), nlri),
		"communities of 5 octets":             update(nil, join(origin, path, hop, []byte{0xc0, 8, 5, 1, 2, 3, 4, 5}), nlri),
		"an aggregator of no octet":           update(nil, join(origin, path, hop, []byte{0xc0, 7, 0}), nlri),
		"an unknown well-known attribute":     update(nil, join(origin, path, hop, []byte{0x40, 99, 1, 0}), nlri),
		"MP_REACH of an unknown family":       update(nil, join(origin, path, []byte{0x80, 14, 5, 0xff, 0xff, 0xff, 0, 0}), nil),
		"MP_REACH with a next hop of 7":       update(nil, join(origin, path, []byte{0x80, 14, 12, 0, 2, 1, 7, 1, 2, 3, 4, 5, 6, 7, 0}), nil),
		"MP_UNREACH that ends in the air":     update(nil, []byte{0x80, 15, 4, 0, 2, 1, 128}, nil),
		"an extended length beyond all":       update(nil, []byte{0x50, 1, 0xff, 0xff}, nil),
		"a tunnel encapsulation of junk":      update(nil, join(origin, path, hop, []byte{0xc0, 23, 6, 0, 1, 0xff, 0xff, 1, 2}), nlri),
		"a prefix SID of junk":                update(nil, join(origin, path, hop, []byte{0xc0, 40, 4, 5, 0xff, 0xff, 0}), nlri),
		"BGP-LS of junk":                      update(nil, join(origin, path, hop, []byte{0x80, 29, 4, 1, 2, 0xff, 0xff}), nlri),
		"an UPDATE as long as can be of ones": message(2, bytes.Repeat([]byte{0xff}, 60000)),
	}
}

// What is told us is not read: no fault in it does anything, here or to others.
func TestBrokenUpdatesDoNothing(t *testing.T) {
	said := make(chan struct{})
	p := newStranger(t, "127.0.0.2", func(c net.Conn) {
		if !greet(c) {
			return
		}
		for _, b := range brokenUpdates() {
			_, _ = c.Write(b)
		}
		close(said)
		_ = lastWords(c)
	})
	s := begin(t, Options{})
	s.Apply(planOf(many(5), p.spec("p")), lab)
	select {
	case <-said:
	case <-time.After(patience):
		t.Fatal("the peer cannot say them")
	}
	st := awaitState(t, s, "p", Established)
	s.Apply(planOf(many(6), p.spec("p")), lab)
	eventually(t, "it goes on", func() bool { return stateOf(s, "p").Prefixes == 6 })
	if st = stateOf(s, "p"); st.Flaps != 0 || st.Message != "" {
		t.Errorf("%+v", st)
	}
}

// mutant is what a peer says, with an octet or three of it changed, or its end cut off.
func mutant(random *rand.Rand) []byte {
	var b []byte
	updates := brokenUpdates()
	b = append(b, openOf(theirASN, 90, "192.0.2.254")...)
	b = append(b, keepalive()...)
	b = append(b, updates["no ORIGIN"]...)
	b = append(b, message(gobgp.BGP_MSG_ROUTE_REFRESH, []byte{0, 1, 0, 1})...)
	b = append(b, notification{6, 2, []byte{3, 'b', 'y', 'e'}}.bytes()...)
	for range 1 + random.IntN(3) {
		b[random.IntN(len(b))] = byte(random.Uint32())
	}
	if random.IntN(4) == 0 {
		b = b[:random.IntN(len(b))]
	}
	return b
}

// One peer says nonsense again and again, another is decent: it must not notice, and nothing
// must pile up.
func TestNonsenseForLong(t *testing.T) {
	rounds := 100
	if wholly() {
		rounds = 5000
	}
	random := rand.New(rand.NewPCG(7, 11))
	nonsense := make([][]byte, rounds)
	for i := range nonsense {
		nonsense[i] = mutant(random)
	}
	next := make(chan []byte, rounds)
	for _, b := range nonsense {
		next <- b
	}
	done := make(chan struct{})
	p := newStranger(t, "127.0.0.2", func(c net.Conn) {
		select {
		case b := <-next:
			_, _ = c.Write(b)
			if half, ok := c.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			_ = lastWords(c)
			if len(next) == 0 {
				select {
				case <-done:
				default:
					close(done)
				}
			}
		default:
		}
	})
	good := newStranger(t, "127.0.0.3", decent)
	bad := p.spec("bad")
	bad.Connect, bad.IdleHold = time.Millisecond, time.Millisecond
	s := begin(t, Options{})
	s.Apply(planOf(many(10), good.spec("good"), bad), lab)
	awaitState(t, s, "good", Established)
	before, heap := runtime.NumGoroutine(), heapNow()
	select {
	case <-done:
	case <-time.After(patience + time.Duration(rounds)*200*time.Millisecond):
		t.Fatalf("%d left to say", len(next))
	}
	if st := stateOf(s, "good"); st.State != Established || st.Flaps != 0 || good.count() != 1 {
		t.Errorf("the decent one: %+v after %d connections", st, good.count())
	}
	if st := stateOf(s, "bad"); st.Message == "" {
		t.Errorf("nothing is said of it: %+v", st)
	}
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() < before+20 })
	if grown := heapNow() - heap; grown > 4<<20 {
		t.Errorf("the heap has grown by %d octets in %d connections", grown, rounds)
	} else {
		t.Logf("the heap has grown by %d octets in %d connections", grown, rounds)
	}
}

func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Who is on the node can connect to the port of loopback behind a session, and finds nobody:
// neither hundreds of connections nor an OPEN as the peer would say it do anything.
func TestStrangersOnLoopback(t *testing.T) {
	p := newStranger(t, "127.0.0.2", decent)
	s := begin(t, Options{})
	s.Apply(planOf(many(10), p.spec("p")), lab)
	awaitState(t, s, "p", Established)
	s.mu.Lock()
	x := s.sessions["p"]
	s.mu.Unlock()
	x.ribMu.Lock()
	port := x.rib.port
	x.ribMu.Unlock()
	before := runtime.NumGoroutine()
	var conns []net.Conn
	refused := 0
	for i := range 300 {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp4", netip.AddrPortFrom(loopback(), uint16(port)).String())
		if err != nil {
			refused++
			continue
		}
		if i%2 == 0 {
			_, _ = c.Write(openOf(theirASN, 90, "192.0.2.254"))
		}
		conns = append(conns, c)
	}
	told := 0
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, maxMessage)
		if m, err := readMessage(c, buf); err == nil && m[18] == gobgp.BGP_MSG_OPEN {
			told++
		}
		_ = c.Close()
	}
	t.Logf("%d refused, %d answered by an OPEN", refused, told)
	if told > 0 {
		t.Errorf("%d strangers were answered", told)
	}
	s.Apply(planOf(many(11), p.spec("p")), lab)
	eventually(t, "it goes on", func() bool { return stateOf(s, "p").Prefixes == 11 })
	if st := stateOf(s, "p"); st.State != Established || st.Flaps != 0 || p.count() != 1 {
		t.Errorf("%+v after %d connections", st, p.count())
	}
	eventually(t, "nothing piles up", func() bool { return runtime.NumGoroutine() < before+20 })
}

// A peer that takes the connection and says nothing, or lets go of it at once, is tried again
// at the pace that is configured, whatever it does.
func TestAPeerThatHangsUpIsTriedAtItsPace(t *testing.T) {
	p := newStranger(t, "127.0.0.2", func(net.Conn) {})
	spec := p.spec("p")
	spec.Connect = 200 * time.Millisecond
	s := begin(t, Options{})
	s.Apply(planOf(nil, spec), lab)
	eventually(t, "it is said", func() bool {
		return strings.Contains(stateOf(s, "p").Message, "the peer closed the connection in OpenSent")
	})
	from, began := p.count(), time.Now()
	eventually(t, "some attempts", func() bool { return p.count() >= from+5 })
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("5 attempts in %s", took)
	}
}

// A crowd of hostile peers at once is no heavier than as many peers.
func TestACrowdOfHostilePeers(t *testing.T) {
	var specs []loadbalancer.BGPSession
	good := newStranger(t, "127.0.0.3", decent)
	random := rand.New(rand.NewPCG(3, 5))
	nonsense := mutant(random)
	for i := range 16 {
		p := newStranger(t, "127.0.0.2", func(c net.Conn) {
			_, _ = c.Write(nonsense)
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_ = lastWords(c)
		})
		spec := p.spec(fmt.Sprintf("bad-%02d", i))
		spec.Connect = 20 * time.Millisecond
		specs = append(specs, spec)
	}
	s := begin(t, Options{})
	s.Apply(planOf(many(10), append(specs, good.spec("good"))...), lab)
	awaitState(t, s, "good", Established)
	for i := range specs {
		eventually(t, "its fault is named", func() bool { return stateOf(s, specs[i].Peer).Message != "" })
	}
	if st := stateOf(s, "good"); st.State != Established || st.Flaps != 0 {
		t.Errorf("%+v", st)
	}
}
