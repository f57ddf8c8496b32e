// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// profile is that of all sessions, by its intervals in milliseconds.
const profile = `
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: watch}
spec: {receiveInterval: %[1]d, transmitInterval: %[1]d, detectMultiplier: 3}
`

// A machine that runs several labs stalls for longer than fast intervals allow: only who
// measures has them. Those of the routers are 100 ms or less.
const fast, patient = 100, 1000

// pace has BFD of all nodes watch at intervals, which FRR has heard of.
func (b *bed) pace(ms int) {
	b.t.Helper()
	b.apply(fmt.Sprintf(profile, ms))
	n := b.Nodes()
	b.eventually(func(ctx context.Context) error {
		peers, err := b.frrBFD(ctx)
		if err != nil {
			return err
		}
		heard := 0
		for _, p := range peers {
			if slices.Contains(addresses(n), p.Peer) && p.Interval == ms {
				heard++
			}
		}
		if heard < len(n) {
			return fmt.Errorf("%d nodes' BFD is at %d ms: %+v", heard, ms, peers)
		}
		return nil
	})
	b.watch(n...)
}

// watched has BFD watch the sessions with both routers, who both say that it is up. Both
// are set as their manuals say, without a word on graceful restart.
func watched(b *bed) {
	n := b.Nodes()
	b.apply(fmt.Sprintf(profile, patient))
	for _, peer := range []string{frrPeer, birdPeer} {
		b.kubectl("patch", "bgppeer", peer, "--type=merge", "-p", `{"spec":{"bfdProfile":"watch"}}`)
	}
	c := fmt.Sprintf("router bgp %d\n", frrASN)
	for _, a := range addresses(n) {
		c += fmt.Sprintf(" neighbor %s bfd\n neighbor %s bfd profile x\n", a, a)
	}
	b.must(b.frr.Configure(b.t.Context(), c+"exit\n"))
	conf := b.bird.Config()
	conf.Neighbors = slices.Clone(conf.Neighbors)
	for i := range conf.Neighbors {
		conf.Neighbors[i].BFD = true
	}
	b.must(b.bird.Configure(b.t.Context(), conf))
	b.watch(n...)
	b.kernel(web, alike(n...))
	b.paths(b.bird, web, n, nil)
}

// watch waits until both ends of nodes' sessions say that BFD is up.
func (b *bed) watch(nodes ...*rig.Node) {
	b.t.Helper()
	for peer, r := range map[string]routers.Router{frrPeer: b.frr, birdPeer: b.bird} {
		for _, n := range nodes {
			b.eventually(func(ctx context.Context) error {
				s, err := routers.SessionOf(ctx, r, n.IPv4())
				if err != nil {
					return err
				}
				a, err := b.now(ctx, n, peer)
				if err == nil && (!s.Established || s.BFD != "Up" || a.State != v1alpha1.BGPEstablished || a.BFD != "Up") {
					err = fmt.Errorf("%s says %+v, %s says %+v", peer, s, n.Name(), a)
				}
				return err
			})
		}
	}
}

// overHops waits until a BIRD and a node both say that BFD between them, over several hops,
// is up, with times that BIRD has of the node's profile.
func (b *bed) overHops(r *routers.BIRD, n *rig.Node, peer string, want routers.BFDSession) {
	b.t.Helper()
	want.Neighbor, want.MultiHop, want.Up = n.IPv4(), true, true
	b.eventually(func(ctx context.Context) error {
		all, err := r.BFD(ctx)
		if err != nil {
			return err
		}
		s, err := b.now(ctx, n, peer)
		if err == nil && (s.BFD != "Up" || !slices.Contains(all, want)) {
			err = fmt.Errorf("BFD with %s: BIRD says %+v, want %+v; the node says %+v", peer, all, want, s)
		}
		return err
	})
}

// hostileBFD sends a node what would end its session with FRR if it came from FRR: it has
// been through a router, by its TTL.
func hostileBFD(b *bed) {
	n, before := b.Nodes()[0], b.dropped()
	s, err := b.now(b.t.Context(), n, frrPeer)
	b.must(err)
	mine, yours := b.discriminators(n)
	for range 50 {
		b.must(b.forge(n, mine, yours, 254))
	}
	b.must(harness.Pause(b.t.Context(), 500*time.Millisecond))
	b.undisturbed(before)
	still, err := b.now(b.t.Context(), n, frrPeer)
	b.must(err)
	if still.BFD != "Up" || still.Flaps != s.Flaps {
		b.t.Errorf("after packets of TTL 254 %s says %+v, want it as before: %+v", n.Name(), still, s)
	}
	// With TTL 255 it is believed, so that nothing but the TTL was wrong.
	b.must(b.forge(n, mine, yours, 255))
	b.eventually(func(ctx context.Context) error {
		s, err := b.now(ctx, n, frrPeer)
		if err == nil && s.Flaps == still.Flaps {
			err = errors.New("a packet with TTL 255 is not believed")
		}
		return err
	})
	began := time.Now()
	b.watch(n)
	b.t.Logf("after BFD fell the session was back in %s", time.Since(began).Round(time.Millisecond))
	b.back(n)
}

// frrWatch is what FRR says of BFD with a neighbour.
type frrWatch struct {
	Peer     netip.Addr `json:"peer"`
	MultiHop bool       `json:"multihop"`
	Status   string     `json:"status"`
	ID       uint32     `json:"id"`
	Remote   uint32     `json:"remote-id"`
	Interval int        `json:"remote-transmit-interval"`
}

func (b *bed) frrBFD(ctx context.Context) ([]frrWatch, error) {
	text, err := b.frr.Show(ctx, "show bfd peers json")
	if err != nil {
		return nil, err
	}
	var out []frrWatch
	return out, json.Unmarshal([]byte(text), &out)
}

// discriminators of FRR's BFD session with a node: FRR's and the node's.
func (b *bed) discriminators(n *rig.Node) (frr, node uint32) {
	b.t.Helper()
	peers, err := b.frrBFD(b.t.Context())
	b.must(err)
	for _, p := range peers {
		if p.Peer == n.IPv4() && p.ID != 0 && p.Remote != 0 {
			return p.ID, p.Remote
		}
	}
	b.t.Fatalf("FRR knows no discriminators of %s: %+v", n.Name(), peers)
	return 0, 0
}

// forge sends a BFD control packet that says Down (RFC 5880 §4.1) from FRR's address.
func (b *bed) forge(n *rig.Node, mine, yours uint32, ttl int) error {
	const version, down, multiplier, length, interval = 1 << 5, 1 << 6, 3, 24, 100_000
	p := []byte{version | 1, down, multiplier, length}
	for _, word := range []uint32{mine, yours, interval, interval, 0} {
		p = binary.BigEndian.AppendUint32(p, word)
	}
	return b.hosts[frrPeer].Do(func() error {
		// RFC 5881 §4: the source port is one of these.
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.hosts[frrPeer].IPv4(), 65000)), Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			ctl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl) })
			return errors.Join(ctl, err)
		}}
		c, err := d.DialContext(b.t.Context(), "udp4", netip.AddrPortFrom(n.IPv4(), 3784).String())
		if err != nil {
			return err
		}
		_, err = c.Write(p)
		return errors.Join(err, c.Close())
	})
}

// powerCut is a node that falls silent, which BFD notices.
func powerCut(b *bed) {
	n := b.Nodes()
	b.pace(fast)
	s := b.streamTo(web, 5*time.Millisecond)
	b.must(harness.Pause(b.t.Context(), time.Second))
	cut, err := n[1].PowerCut()
	b.must(err)
	b.kernel(web, alike(n[0], n[2]))
	b.t.Logf("FRR's kernel was without the node %s after the cut", time.Since(cut).Round(time.Millisecond))
	b.paths(b.bird, web, []*rig.Node{n[0], n[2]}, nil)
	b.must(harness.Pause(b.t.Context(), time.Second))
	lost := s.stop()
	b.t.Logf("a power cut with BFD 100 ms x 3: %d of %d packets lost, longest gap %s", lost.lost, lost.asked, lost.gap.Round(time.Millisecond))
	if lost.gap > 3*time.Second {
		b.t.Errorf("the gap is %s", lost.gap)
	}
	b.must(n[1].PowerOn(b.t.Context()))
	b.serve(n[1])
	b.must(b.hosts[frrPeer].Back(n[1]))
	b.back(n[1])
	b.pace(patient)
	b.kernel(web, alike(n...))
	if got := b.spread(web, 60); got[n[1].Name()] == 0 {
		b.t.Errorf("after the boot 60 flows reached %v", got)
	}
}
