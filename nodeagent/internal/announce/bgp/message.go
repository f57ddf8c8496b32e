// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

const (
	headerLength = 19
	// maxMessage is RFC 8654's: both sides may have agreed on it.
	maxMessage = 65535
	maxOpen    = 4096
)

// fault is what a peer did wrong: the NOTIFICATION that it gets.
type fault struct {
	notification
	why string
}

// Error is for people.
func (f *fault) Error() string { return f.why }

// readMessage reads one message into buf, which has room for the longest. What it returns
// lies in buf. An error is a *fault, or one of the connection.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:headerLength]); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	for _, b := range buf[:16] {
		if b != 0xff {
			return nil, &fault{notification{code: codeHeader, subcode: 1}, "sends what is not BGP"}
		}
	}
	n, kind := int(binary.BigEndian.Uint16(buf[16:])), buf[18]
	least, most := headerLength, maxMessage
	switch kind {
	case gobgp.BGP_MSG_OPEN:
		least, most = 29, maxOpen
	case gobgp.BGP_MSG_UPDATE:
		least = 23
	case gobgp.BGP_MSG_NOTIFICATION:
		least = 21
	case gobgp.BGP_MSG_KEEPALIVE:
		most = headerLength
	case gobgp.BGP_MSG_ROUTE_REFRESH:
		least = 23
	default:
		return nil, &fault{notification{codeHeader, 3, []byte{kind}}, fmt.Sprintf("sends a message of unknown type %d", kind)}
	}
	if n < least || n > most {
		return nil, &fault{notification{codeHeader, 2, []byte{buf[16], buf[17]}}, fmt.Sprintf("sends a message of type %d with length %d", kind, n)}
	}
	if _, err := io.ReadFull(r, buf[headerLength:n]); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return buf[:n], nil
}

// greeting is what a peer said in its OPEN.
type greeting struct {
	asn    uint32
	hold   uint16
	v4, v6 bool
	// extended says that it takes IPv4 routes with an IPv6 next hop (RFC 8950).
	extended bool
	// restart says that it knows graceful restart (RFC 4724).
	restart bool
}

// readOpen checks an OPEN (RFC 4271 §6.2) of the peer of a session.
func readOpen(raw []byte, s *loadbalancer.BGPSession) (g greeting, err error) {
	defer func() {
		if p := recover(); p != nil { // the codec meets bytes of a stranger here
			err = &fault{notification{code: codeOpen}, fmt.Sprintf("sends an OPEN that cannot be read: %v", p)}
		}
	}()
	m, err := gobgp.ParseBGPMessage(raw)
	if err != nil {
		return g, openFault(err)
	}
	open, ok := m.Body.(*gobgp.BGPOpen)
	if !ok {
		return g, &fault{notification{code: codeFSM, subcode: 1}, "does not begin with an OPEN"}
	}
	asn, err := gobgp.ValidateOpenMsg(open, 0, ownASN(s), s.RouterID)
	if err != nil {
		return g, openFault(err)
	}
	g = greeting{asn: asn, hold: open.HoldTime}
	if why := wrongASN(s, asn); why != "" {
		return g, &fault{notification{codeOpen, badPeerAS, nil}, why}
	}
	g.capabilities(open)
	return g, nil
}

func openFault(err error) error {
	if e, ok := errors.AsType[*gobgp.MessageError](err); ok {
		return &fault{notification{e.TypeCode, e.SubTypeCode, e.Data}, "sends an OPEN that is refused: " + e.Error()}
	}
	return &fault{notification{code: codeOpen}, "sends an OPEN that cannot be read: " + err.Error()}
}

// wrongASN says what is wrong with a peer's AS number, "" if nothing is.
func wrongASN(s *loadbalancer.BGPSession, asn uint32) string {
	own := ownASN(s)
	switch {
	case s.Dynamic == loadbalancer.InternalASN && asn != own:
		return fmt.Sprintf("is in AS %d, and should be in ours, %d", asn, own)
	case s.Dynamic == loadbalancer.ExternalASN && asn == own:
		return fmt.Sprintf("is in our AS %d, and should be in another", asn)
	case s.Dynamic == loadbalancer.FixedASN && asn != s.PeerASN:
		return fmt.Sprintf("is in AS %d, and should be in %d", asn, s.PeerASN)
	}
	return ""
}

// ownASN is what the peer is told.
func ownASN(s *loadbalancer.BGPSession) uint32 {
	if s.LocalASN != 0 {
		return s.LocalASN
	}
	return s.MyASN
}

func (g *greeting) capabilities(open *gobgp.BGPOpen) {
	multi := false
	for _, p := range open.OptParams {
		caps, ok := p.(*gobgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, c := range caps.Capability {
			switch c := c.(type) {
			case *gobgp.CapMultiProtocol:
				multi = true
				g.v4 = g.v4 || c.CapValue == gobgp.RF_IPv4_UC
				g.v6 = g.v6 || c.CapValue == gobgp.RF_IPv6_UC
			case *gobgp.CapGracefulRestart:
				g.restart = true
			case *gobgp.CapExtendedNexthop:
				for _, t := range c.Tuples {
					g.extended = g.extended || t.NLRIAFI == gobgp.AFI_IP && t.NLRISAFI == gobgp.SAFI_UNICAST && t.NexthopAFI == gobgp.AFI_IP6
				}
			}
		}
	}
	if !multi {
		g.v4 = true // RFC 4760 §8: a speaker without it speaks of IPv4
	}
}

// endOfRIB of a family (RFC 4724 §2).
func endOfRIB(f gobgp.Family) []byte {
	b, err := gobgp.NewEndOfRib(f).Serialize()
	if err != nil {
		return nil // not possible: nothing in it depends on anybody
	}
	return b
}

func keepalive() []byte {
	b := make([]byte, headerLength)
	for i := range 16 {
		b[i] = 0xff
	}
	b[17], b[18] = headerLength, gobgp.BGP_MSG_KEEPALIVE
	return b
}

// notificationOf reads a NOTIFICATION.
func notificationOf(raw []byte) notification {
	return notification{raw[19], raw[20], append([]byte(nil), raw[21:]...)}
}

// loopback is where the BGP servers listen.
func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
