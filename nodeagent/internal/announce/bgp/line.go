// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// greetTime is how long a peer may take from the connection to Established.
	greetTime = 30 * time.Second
	// leaveTime is how long the end of a connection may take.
	leaveTime = time.Second
	// quiet is how long a server says nothing that has said all; quietMost bounds the wait.
	quiet     = 20 * time.Millisecond
	quietMost = time.Second
	// leastSendHold is RFC 9687's: how long a peer may take nothing from us.
	leastSendHold = 8 * time.Minute
)

// cause is why a connection ended.
type cause struct {
	reason reason.Reason
	why    string
}

// line is a connection to a peer with the BGP server behind it. What the server says goes
// to the peer as it is. Of what the peer says, the server hears a checked OPEN, KEEPALIVE
// and ROUTE-REFRESH: routes of the peer are read and dropped here, so that they take no
// memory and no fault in them reaches anybody.
type line struct {
	spec  *loadbalancer.BGPSession
	outer net.Conn // the peer
	inner net.Conn // the server
	// opened is called with what the peer's OPEN says, before the server hears it.
	opened func(greeting) error
	// reached is called with each state that follows OpenSent.
	reached func(State)
	// hangUp has the server let go of its connection. The server goes first, with all that it
	// said taken: gobgp leaks a goroutine for a connection that breaks with something unsaid.
	hangUp func()
	// ended is closed by end, answered when the peer has our first KEEPALIVE.
	ended, answered chan struct{}

	said   atomic.Uint64 // messages of the server
	ending atomic.Bool
	mu     sync.Mutex // held to write to outer; guards what follows
	over   bool
	cause  cause
}

// run carries messages until either side or [line.end] ends it.
func (l *line) run() cause {
	_ = l.outer.SetReadDeadline(time.Now().Add(greetTime)) // a closed connection fails in Read
	if l.ending.Load() {
		_ = l.outer.SetReadDeadline(time.Now().Add(leaveTime)) // likewise
	}
	var wg sync.WaitGroup
	wg.Go(l.fromPeer)
	wg.Go(l.fromServer)
	<-l.ended
	l.hearOut()
	l.hangUp()
	_ = l.inner.SetReadDeadline(time.Now().Add(leaveTime)) // likewise
	wg.Wait()
	_, _ = l.inner.Close(), l.outer.Close() // may be closed already
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// hearOut waits until the server has said what it had to say.
func (l *line) hearOut() {
	t := time.NewTicker(quiet)
	defer t.Stop()
	for range quietMost / quiet {
		before := l.said.Load()
		<-t.C
		if l.said.Load() == before {
			return
		}
	}
}

// end ends the connection, with a NOTIFICATION or, for nil, without a word. The first
// cause stays. The peer has [leaveTime] to read it: closing with unread octets would reset
// the connection, and the NOTIFICATION be lost.
func (l *line) end(n *notification, c cause) {
	l.ending.Store(true)
	_ = l.outer.SetWriteDeadline(time.Now().Add(leaveTime)) // a writer that hangs lets go
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over, l.cause = true, c
	_ = l.outer.SetWriteDeadline(time.Now().Add(leaveTime))
	if n != nil {
		_, _ = l.outer.Write(n.bytes()) // who does not take it, does not
	}
	if half, ok := l.outer.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // likewise
	}
	_ = l.outer.SetReadDeadline(time.Now().Add(leaveTime))
	close(l.ended)
}

// toPeer writes what the server says.
func (l *line) toPeer(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return errOver
	}
	wait := max(leastSendHold, 2*l.spec.Hold)
	_ = l.outer.SetWriteDeadline(time.Now().Add(wait)) // a closed connection fails in Write
	if l.ending.Load() {
		_ = l.outer.SetWriteDeadline(time.Now().Add(leaveTime))
	}
	if _, err := l.outer.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func (l *line) fromPeer() {
	buf := make([]byte, maxMessage)
	r := bufio.NewReaderSize(l.outer, 16<<10)
	p := progress{state: OpenSent}
	for {
		m, err := readMessage(r, buf)
		if err == nil {
			err = l.hear(&p, m)
		}
		if err == nil {
			continue
		}
		l.blame(err, p.state)
		// What still comes is not for us, but must be read for the peer to read our last words.
		_, _ = io.Copy(io.Discard, r)
		return
	}
}

// progress is how far a peer has come.
type progress struct {
	state State
	// heard is when the server last heard a KEEPALIVE.
	heard time.Time
	// greeting is what its OPEN said.
	greeting greeting
}

// errDone says that the peer has said its last word; blame was laid.
var errDone = errors.New("the peer ended the session")

// hear handles one message of the peer.
func (l *line) hear(p *progress, m []byte) error {
	kind := m[18]
	if kind == gobgp.BGP_MSG_NOTIFICATION {
		n := notificationOf(m)
		l.end(nil, cause{reasonOf(n, p.state), "the peer ended it: " + n.String()})
		return errDone
	}
	switch p.state {
	case OpenSent:
		return l.hearOpen(p, m)
	case OpenConfirm:
		if kind != gobgp.BGP_MSG_KEEPALIVE {
			return &fault{notification{code: codeFSM, subcode: 2}, "sends no KEEPALIVE after its OPEN"}
		}
		return l.establish(p, m)
	default:
		return l.hearEstablished(p, m)
	}
}

func (l *line) hearOpen(p *progress, m []byte) error {
	if m[18] != gobgp.BGP_MSG_OPEN {
		return &fault{notification{code: codeFSM, subcode: 1}, "does not begin with an OPEN"}
	}
	g, err := readOpen(m, l.spec)
	if err != nil {
		return err
	}
	if l.spec.Hold == 0 {
		m[22], m[23] = 0, 0 // the smaller of both holds, also for the server (RFC 4271 §4.2)
	}
	if err := l.opened(g); err != nil {
		return err
	}
	p.state, p.greeting = OpenConfirm, g
	l.reached(OpenConfirm)
	return l.toServer(m)
}

func (l *line) establish(p *progress, m []byte) error {
	p.state, p.heard = Established, time.Now()
	_ = l.outer.SetReadDeadline(time.Time{}) // the server's hold timer takes over
	if l.ending.Load() {
		_ = l.outer.SetReadDeadline(time.Now().Add(leaveTime))
	}
	if err := l.toServer(m); err != nil {
		return err
	}
	select {
	case <-l.answered: // else only the peer's half were up
	case <-l.ended:
		return errOver
	}
	l.reached(Established)
	if !l.spec.GracefulRestart {
		return nil
	}
	// The server would wait for the peer's routes before it tells its own (RFC 4724 §4.1), but
	// ours do not depend on them.
	for _, f := range families(l.spec) {
		if f == gobgp.RF_IPv4_UC && !p.greeting.v4 || f == gobgp.RF_IPv6_UC && !p.greeting.v6 {
			continue
		}
		if err := l.toServer(endOfRIB(f)); err != nil {
			return err
		}
	}
	return nil
}

func (l *line) hearEstablished(p *progress, m []byte) error {
	switch m[18] {
	case gobgp.BGP_MSG_OPEN:
		return &fault{notification{code: codeFSM, subcode: 3}, "sends a second OPEN"}
	case gobgp.BGP_MSG_ROUTE_REFRESH:
		// Only the plain one (RFC 2918), of a family that is ours, is the server's business.
		f := gobgp.NewFamily(uint16(m[19])<<8|uint16(m[20]), m[22])
		for _, own := range families(l.spec) {
			if own == f && m[21] == 0 && len(m) == 23 {
				return l.toServer(m)
			}
		}
		return nil
	case gobgp.BGP_MSG_UPDATE:
		// It counts as a sign of life (RFC 4271 §8.2.2), for which one each second is enough.
		if now := time.Now(); now.Sub(p.heard) >= time.Second {
			p.heard = now
			return l.toServer(keepalive())
		}
		return nil
	default:
		p.heard = time.Now()
		return l.toServer(m)
	}
}

func (l *line) toServer(b []byte) error {
	if _, err := l.inner.Write(b); err != nil {
		return errServer
	}
	return nil
}

// errServer says that the server ended, of which fromServer knows why.
var errServer = errors.New("the BGP server closed the connection")

// blame ends the connection for what the peer did, or did not.
func (l *line) blame(err error, at State) {
	if f, ok := errors.AsType[*fault](err); ok {
		why := reason.NotEstablished
		if f.code == codeOpen && f.subcode == badPeerAS {
			why = reason.WrongASN
		}
		l.end(&f.notification, cause{why, fmt.Sprintf("the peer %s; told it %s", f.why, f.notification)})
		return
	}
	why := "the connection broke: " + err.Error()
	switch {
	case errors.Is(err, errDone), errors.Is(err, errServer), errors.Is(err, errOver):
		why = "the connection ended"
	case errors.Is(err, io.EOF):
		why = "the peer closed the connection"
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = fmt.Sprintf("the peer did not come past %s in %s", at, greetTime)
		l.end(&notification{code: codeFSM}, cause{reason.NotEstablished, why})
		return
	}
	if at != Established && !errors.Is(err, errDone) {
		why += " in " + string(at)
	}
	l.end(nil, cause{reason.NotEstablished, why})
}

func (l *line) fromServer() {
	buf := make([]byte, maxMessage)
	r := bufio.NewReaderSize(l.inner, 64<<10)
	answered := false
	for {
		m, err := readMessage(r, buf)
		if err != nil {
			l.end(nil, cause{reason.NotEstablished, "the BGP server ended it"})
			return
		}
		l.said.Add(1)
		switch m[18] {
		case gobgp.BGP_MSG_NOTIFICATION:
			n := notificationOf(m)
			l.end(&n, cause{reasonOf(n, OpenSent), "we ended it: " + n.String()})
		case gobgp.BGP_MSG_OPEN:
			if l.spec.Hold == 0 {
				m[22], m[23] = 0, 0
			}
		}
		err = l.toPeer(m)
		if err == nil && m[18] == gobgp.BGP_MSG_KEEPALIVE && !answered {
			answered = true
			close(l.answered)
		}
		if err == nil || errors.Is(err, errOver) {
			continue
		}
		why := "the connection broke: " + err.Error()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			why = "the peer takes nothing any more: " + notification{code: sendHold}.String()
		}
		l.end(nil, cause{reason.NotEstablished, why})
	}
}

// errOver says that the peer is not to hear more.
var errOver = errors.New("the connection is over")

// reasonOf a NOTIFICATION in one word.
func reasonOf(n notification, at State) reason.Reason {
	if at != Established && n.code == codeOpen && n.subcode == badPeerAS {
		return reason.WrongASN
	}
	return reason.NotEstablished
}
