// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// port of the Services.
const port = 80

// echo answers on a node for every Service, with the node's name, in place of pods and of
// what forwards to them: which node a packet reaches is all that is asked.
type echo struct{ conns []*net.UDPConn }

// serve begins to answer on a node; one that was there before its power cut is forgotten.
func (b *bed) serve(n *rig.Node) {
	b.t.Helper()
	e := &echo{}
	err := n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, p := range []netip.Prefix{web, web6, local, said, six4, six6} {
			dst, err := netlink.ParseIPNet(p.String())
			if err != nil {
				return err
			}
			// Not an address: nobody shall answer ARP for it.
			err = netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST})
			if err != nil {
				return fmt.Errorf("route %s: %w", p, err)
			}
			// One socket per address: an answer must come from where it was asked.
			c, err := listen(b.t.Context(), netip.AddrPortFrom(p.Addr(), port))
			if err != nil {
				return err
			}
			e.conns = append(e.conns, c)
		}
		return nil
	})
	b.must(err)
	for _, c := range e.conns {
		go answer(c, n.Name())
	}
	b.echoes[n.Name()] = e
	b.whole.Cleanup(func() {
		for _, c := range e.conns {
			_ = c.Close()
		}
	})
}

// listen at an address that the node does not have.
func listen(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctl := raw.Control(func(fd uintptr) {
			if at.Addr().Is6() {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			}
		})
		return errors.Join(ctl, err)
	}}
	c, err := lc.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("listen at %s: %T", at, c)
	}
	return u, nil
}

func answer(c *net.UDPConn, name string) {
	buf := make([]byte, 64)
	for {
		_, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort([]byte(name), from) // the client counts what is lost
		}
	}
}

// spread sends one packet on each of so many flows from the client behind FRR and counts
// the answers by node.
func (b *bed) spread(prefix netip.Prefix, flows int) map[string]int {
	b.t.Helper()
	out := map[string]int{}
	for range flows {
		name, err := b.ask(prefix, 2*time.Second)
		b.must(err)
		out[name]++
	}
	return out
}

// ask sends one packet from a port of the client's own and returns who answers.
func (b *bed) ask(prefix netip.Prefix, timeout time.Duration) (string, error) {
	return b.askFrom(b.client, prefix, timeout)
}

func (b *bed) askFrom(h *rig.Host, prefix netip.Prefix, timeout time.Duration) (string, error) {
	var c *net.UDPConn
	err := h.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(prefix.Addr(), port)))
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// stream asks every interval, on a new flow each time, without waiting for answers.
type stream struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex
	// asked at these times; answered says which of them were, and by whom.
	asked    []time.Time
	answered []string
}

// streamTo begins to ask.
func (b *bed) streamTo(prefix netip.Prefix, interval time.Duration) *stream {
	ctx, cancel := context.WithCancel(b.t.Context())
	s := &stream{cancel: cancel}
	s.wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s.mu.Lock()
			i := len(s.asked)
			s.asked, s.answered = append(s.asked, time.Now()), append(s.answered, "")
			s.mu.Unlock()
			s.wg.Go(func() {
				name, err := b.ask(prefix, 500*time.Millisecond)
				if err != nil {
					return // it stays without an answer
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				s.answered[i] = name
			})
		}
	})
	return s
}

// seen is what a stream saw: how many were lost of how many, and from the first loss to the
// end of the last one.
type seen struct {
	asked, lost int
	gap         time.Duration
}

func (s *stream) stop() seen {
	s.cancel()
	s.wg.Wait()
	out := seen{asked: len(s.asked)}
	first := -1
	for i, by := range s.answered {
		if by != "" {
			continue
		}
		out.lost++
		if first < 0 {
			first = i
		}
		if i+1 < len(s.asked) {
			out.gap = s.asked[i+1].Sub(s.asked[first])
		}
	}
	return out
}
