// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// message of any type and body, with a header that is right.
func message(kind uint8, body []byte) []byte {
	b := append(keepalive(), body...)
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
	b[18] = kind
	return b
}

// changed is a message with other octets from one on.
func changed(m []byte, at int, octets ...byte) []byte {
	m = bytes.Clone(m)
	copy(m[at:], octets)
	return m
}

func TestWhatAHostilePeerSaysIsNamedAndHarmsNobody(t *testing.T) {
	good := openOf(theirASN, 90, "192.0.2.254")
	tests := []struct {
		name   string
		say    [][]byte
		want   notification
		reason reason.Reason
		words  string
	}{
		{"bad marker", [][]byte{changed(good, 7, 0)}, notification{code: 1, subcode: 1}, reason.NotEstablished, "Connection Not Synchronized (1/1)"},
		{"length 0", [][]byte{changed(good, 16, 0, 0)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "with length 0; told it Message Header Error/Bad Message Length"},
		{"length 18", [][]byte{changed(good, 16, 0, 18)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "with length 18"},
		{"an OPEN of 4097", [][]byte{changed(good, 16, 0x10, 0x01)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "with length 4097"},
		{"a KEEPALIVE of 20", [][]byte{good, changed(keepalive(), 17, 20)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "type 4 with length 20"},
		{"an UPDATE of 22", [][]byte{good, keepalive(), changed(message(2, make([]byte, 3)), 17, 22)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "type 2 with length 22"},
		{"a NOTIFICATION of 20", [][]byte{changed(message(3, []byte{6}), 17, 20)}, notification{code: 1, subcode: 2}, reason.NotEstablished, "type 3 with length 20"},
		{"type 0", [][]byte{message(0, nil)}, notification{code: 1, subcode: 3}, reason.NotEstablished, "unknown type 0"},
		{"type 255 once up", [][]byte{good, keepalive(), message(255, make([]byte, 100))}, notification{code: 1, subcode: 3}, reason.NotEstablished, "unknown type 255"},
		{"hold time 2", [][]byte{openOf(theirASN, 2, "192.0.2.254")}, notification{code: 2, subcode: 6}, reason.NotEstablished, "Unacceptable Hold Time"},
		{"router id 0", [][]byte{openOf(theirASN, 90, "0.0.0.0")}, notification{code: 2, subcode: 3}, reason.NotEstablished, "Bad BGP Identifier"},
		{"AS 0", [][]byte{openOf(0, 90, "192.0.2.254")}, notification{code: 2, subcode: 2}, reason.WrongASN, "Bad Peer AS"},
		{"parameters that end in the air", [][]byte{changed(good, 28, 255)}, notification{}, reason.NotEstablished, "OPEN"},
		{"a capability that ends in the air", [][]byte{message(1, append(bytes.Clone(good[19:28]), 6, 2, 4, 65, 4, 0, 0))}, notification{}, reason.NotEstablished, "OPEN"},
		{"no BGP", [][]byte{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n")}, notification{code: 1, subcode: 1}, reason.NotEstablished, "not BGP"},
		{"length below the header", [][]byte{func() []byte { b := keepalive(); b[17] = 5; return b }()}, notification{code: 1, subcode: 2}, reason.NotEstablished, "Bad Message Length"},
		{"unknown type", [][]byte{message(77, nil)}, notification{code: 1, subcode: 3}, reason.NotEstablished, "unknown type 77"},
		{"no OPEN first", [][]byte{keepalive()}, notification{code: 5, subcode: 1}, reason.NotEstablished, "Unexpected Message in OpenSent"},
		{"version 5", [][]byte{func() []byte { b := append([]byte(nil), good...); b[19] = 5; return b }()}, notification{code: 2, subcode: 1}, reason.NotEstablished, "Unsupported Version"},
		{"wrong AS", [][]byte{openOf(64999, 90, "192.0.2.254")}, notification{code: 2, subcode: 2}, reason.WrongASN, "AS 64999, and should be in 64512"},
		{"our router id in our AS", [][]byte{openOf(ourASN, 90, "192.0.2.1")}, notification{code: 2, subcode: 3}, reason.NotEstablished, "Bad BGP Identifier"},
		{"hold time 1", [][]byte{openOf(theirASN, 1, "192.0.2.254")}, notification{code: 2, subcode: 6}, reason.NotEstablished, "Unacceptable Hold Time"},
		{"broken capabilities", [][]byte{message(1, append(append([]byte(nil), good[19:28]...), 4, 2, 200, 1, 4))}, notification{}, reason.NotEstablished, "OPEN"},
		{"UPDATE instead of KEEPALIVE", [][]byte{good, message(2, make([]byte, 4))}, notification{code: 5, subcode: 2}, reason.NotEstablished, "Unexpected Message in OpenConfirm"},
		{"second OPEN", [][]byte{good, keepalive(), good}, notification{code: 5, subcode: 3}, reason.NotEstablished, "second OPEN"},
	}
	decentPeer := newStranger(t, "127.0.0.3", decent)
	s := begin(t, Options{})
	ok := decentPeer.spec("decent")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			heard := make(chan *notification, 100)
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				for _, b := range tt.say {
					_, _ = c.Write(b)
				}
				heard <- lastWords(c)
			})
			name := fmt.Sprint("hostile", i)
			s.Apply(planOf(many(10), ok, p.spec(name)), lab)
			var n *notification
			select {
			case n = <-heard:
			case <-time.After(patience):
				t.Fatal("the peer is not told anything")
			}
			if n == nil || tt.want.code != 0 && (n.code != tt.want.code || n.subcode != tt.want.subcode) {
				t.Errorf("told %v, want %v", n, tt.want)
			}
			eventually(t, "the fault is named", func() bool {
				st := stateOf(s, name)
				return st.Reason == tt.reason && strings.Contains(st.Message, tt.words)
			})
			s.Apply(planOf(many(10), ok), lab)
		})
	}
	st := awaitState(t, s, "decent", Established)
	if st.Flaps != 0 {
		t.Errorf("the other session fell %d times", st.Flaps)
	}
}

func TestNotificationsOfThePeerAreSaidInWords(t *testing.T) {
	tests := []struct {
		name  string
		greet bool
		n     notification
		want  reason.Reason
		words string
	}{
		{"in OpenSent", false, notification{6, 5, nil}, reason.NotEstablished, "Cease/Connection Rejected (6/5)"},
		{"of code 0", false, notification{0, 0, nil}, reason.NotEstablished, "Unknown Error (0/0)"},
		{"text that ends in the air", true, notification{6, 2, []byte{200, 'x'}}, reason.NotEstablished, "Cease/Administrative Shutdown (6/2)"},
		{"text that is none", true, notification{6, 2, []byte{2, 0xff, 0xfe}}, reason.NotEstablished, "Cease/Administrative Shutdown (6/2)"},
		{"as long as can be", true, notification{5, 3, make([]byte, 4000)}, reason.NotEstablished, "Finite State Machine Error/Unexpected Message in Established (5/3)"},
		{"before the session is up", false, notification{2, 2, nil}, reason.WrongASN, "OPEN Message Error/Bad Peer AS (2/2)"},
		{"shutdown with a message", true, notification{6, 2, append([]byte{5}, "bye\x07!"...)}, reason.NotEstablished, `Cease/Administrative Shutdown (6/2): "bye !"`},
		{"hold timer", true, notification{4, 0, nil}, reason.NotEstablished, "Hold Timer Expired (4/0)"},
		{"unknown", true, notification{99, 9, nil}, reason.NotEstablished, "Unknown Error (99/9)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				if tt.greet && !greet(c) {
					return
				}
				_, _ = c.Write(tt.n.bytes())
				_ = lastWords(c)
			})
			s := begin(t, Options{})
			s.Apply(planOf(nil, p.spec("p")), lab)
			eventually(t, tt.words, func() bool {
				st := stateOf(s, "p")
				return st.Reason == tt.want && strings.Contains(st.Message, "the peer ended it: "+tt.words)
			})
		})
	}
}

// Whatever a peer tells once it is up is not our concern: the session stays.
func TestRoutesOfAPeerTakeNoMemoryAndDoNoHarm(t *testing.T) {
	begun, said := make(chan struct{}), make(chan struct{})
	p := newStranger(t, "127.0.0.2", func(c net.Conn) {
		if !greet(c) {
			return
		}
		<-begun
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 100_000 {
			next, _ := gobgp.NewPathAttributeNextHop(netip.MustParseAddr("127.0.0.2"))
			nlri, _ := gobgp.NewIPAddrPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
			attrs := []gobgp.PathAttributeInterface{
				gobgp.NewPathAttributeOrigin(0), next,
				gobgp.NewPathAttributeAsPath([]gobgp.AsPathParamInterface{gobgp.NewAs4PathParam(2, []uint32{theirASN})}),
			}
			b, err := gobgp.NewBGPUpdateMessage(nil, attrs, []gobgp.PathNLRI{{NLRI: nlri}}).Serialize()
			if err != nil {
				break
			}
			if i%100 == 0 { // and one that makes no sense
				junk := make([]byte, 4+random.IntN(4000))
				for j := range junk {
					junk[j] = byte(random.Uint32())
				}
				b = append(b, message(2, junk)...)
				b = append(b, message(5, junk[:4+random.IntN(len(junk)-3)])...)
			}
			if _, err := c.Write(b); err != nil {
				break
			}
		}
		close(said)
		_ = lastWords(c)
	})
	s := begin(t, Options{})
	s.Apply(planOf(many(10), p.spec("p")), lab)
	awaitState(t, s, "p", Established)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	close(begun)
	select {
	case <-said:
	case <-time.After(2 * patience):
		t.Fatal("the peer cannot say its routes")
	}
	st := awaitState(t, s, "p", Established)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("the heap has grown by %d octets", grown)
	} else {
		t.Logf("the heap has grown by %d octets", grown)
	}
	if st.Flaps != 0 || st.Prefixes != 10 {
		t.Errorf("state %+v", st)
	}
}

// What is wrong no more must not read as if it were.
func TestAnEarlierEndIsSaidToBeEarlier(t *testing.T) {
	var later atomic.Bool
	p := newStranger(t, "127.0.0.2", func(c net.Conn) {
		if !greet(c) {
			return
		}
		if !later.Swap(true) {
			_, _ = c.Write(notification{code: codeCease, subcode: adminReset}.bytes())
		}
		_ = lastWords(c)
	})
	spec := p.spec("p")
	s := begin(t, Options{})
	s.Apply(planOf(nil, spec), lab)
	eventually(t, "up again, and why it fell", func() bool {
		st := stateOf(s, "p")
		return st.State == Established && st.Flaps == 1 && st.Reason == "" && st.Message == "before: the peer ended it: Cease/Administrative Reset (6/4)"
	})
}

func TestDynamicASN(t *testing.T) {
	tests := []struct {
		dynamic loadbalancer.DynamicASN
		asn     uint16
		want    State
	}{
		{loadbalancer.InternalASN, ourASN, Established},
		{loadbalancer.InternalASN, theirASN, Active},
		{loadbalancer.ExternalASN, theirASN, Established},
		{loadbalancer.ExternalASN, ourASN, Active},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.dynamic, tt.asn), func(t *testing.T) {
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				_, _ = c.Write(openOf(tt.asn, 90, "192.0.2.254"))
				_, _ = c.Write(keepalive())
				_ = lastWords(c)
			})
			spec := p.spec("p")
			spec.PeerASN, spec.Dynamic = 0, tt.dynamic
			s := begin(t, Options{})
			s.Apply(planOf(many(3), spec), lab)
			if tt.want == Established {
				if st := awaitState(t, s, "p", Established); st.ASN != uint32(tt.asn) {
					t.Errorf("AS %d", st.ASN)
				}
				return
			}
			eventually(t, "the AS number is refused", func() bool { return stateOf(s, "p").Reason == reason.WrongASN })
		})
	}
}
