// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// floodRoutes are told to every node, who wants none.
	floodRoutes = 100_000
	// floodMemory is how much larger an agent may be for it at any time, in KiB.
	floodMemory = 32 << 10
)

const flooding = `
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: flood}
spec: {myASN: 64512, peerASN: 64514, peerAddress: %q, holdTime: 30s, connectTime: 1s}
`

// flood is a router that tells far more than anybody wants. Nothing becomes of it, here or
// in other sessions.
func flood(b *bed) {
	nodes := b.Nodes()
	c := b.config(thirdPeer, thirdASN)
	var static strings.Builder
	static.WriteString("protocol static { ipv4;\n")
	for a, i := netip.MustParseAddr("10.64.0.0"), 0; i < floodRoutes; a, i = a.Next(), i+1 {
		fmt.Fprintf(&static, "route %s/32 blackhole;\n", a)
	}
	c.Lines = static.String() + "}\n"
	third, err := routers.NewBIRD(b.hosts[thirdPeer], b.Path(""), "flood", c)
	b.must(err)
	b.t.Cleanup(func() { _ = third.Close() })
	b.must(third.Start(b.t.Context()))
	before, sizes := b.dropped(), map[string]int{}
	for _, n := range nodes {
		sizes[n.Name()] = b.memory(n, "VmRSS")
		// From now on the peak is that of what follows (proc(5), clear_refs).
		b.must(os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", n.Agent().PID()), []byte("5"), 0o600))
	}
	s := b.streamTo(web, 5*time.Millisecond)
	b.apply(fmt.Sprintf(flooding, b.hosts[thirdPeer].IPv4()))
	b.established(third, nodes...)
	took := b.eventually(func(ctx context.Context) error {
		text, err := third.Show(ctx, "show protocols all")
		if err == nil && strings.Count(text, fmt.Sprintf(" %d exported", floodRoutes+len(c.Origin))) < len(nodes) {
			err = errors.New("BIRD has not told everything")
		}
		return err
	})
	b.must(harness.Pause(b.t.Context(), time.Second)) // what is on its way
	b.established(third, nodes...)
	for _, n := range nodes {
		peak := b.memory(n, "VmHWM")
		b.t.Logf("%d routes told to %s in %s: its memory was %d KiB, and at most %d KiB since", floodRoutes, n.Name(), took.Round(time.Millisecond), sizes[n.Name()], peak)
		if peak-sizes[n.Name()] > floodMemory {
			b.t.Errorf("100,000 routes made %s grow from %d to %d KiB", n.Name(), sizes[n.Name()], peak)
		}
		b.must(n.Do(func() error { return noRoute("10.64.0.1/32") }))
	}
	b.kubectl("delete", "bgppeer", "flood")
	b.undisturbed(before)
	b.established(b.bird, nodes...)
	b.lossless(s.stop(), "100,000 routes that nobody wants")
}

// memory of a node's agent, in KiB, by its name in /proc/PID/status.
func (b *bed) memory(n *rig.Node, name string) int {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Agent().PID()))
	b.must(err)
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			b.must(err)
			return kib
		}
	}
	b.t.Fatalf("no %s in %s", name, text)
	return 0
}

// resets are sessions that end by the routers: one that is cleared, and routers that crash.
// How long it takes until all is told again is reported.
func resets(b *bed) {
	n := b.Nodes()
	flaps := b.flaps(n)
	_, err := b.frr.Show(b.t.Context(), "clear bgp *")
	b.must(err)
	began := time.Now()
	b.again(flaps, frrPeer)
	b.kernel(web, alike(n...))
	b.t.Logf("after \"clear bgp *\" FRR's kernel had all next hops again in %s", time.Since(began).Round(time.Millisecond))
	for _, r := range []struct {
		peer string
		routers.Router
	}{{frrPeer, b.frr}, {birdPeer, b.bird}} {
		flaps = b.flaps(n)
		b.must(r.Stop())
		b.must(r.Start(b.t.Context()))
		began := time.Now()
		b.again(flaps, r.peer)
		b.established(r, n...)
		b.paths(r, web, n, nil)
		b.t.Logf("after a crash of %s it had all routes again %s after its start", r.peer, time.Since(began).Round(time.Millisecond))
	}
	b.kernel(web, alike(n...))
}

// flaps of all nodes' sessions with both routers, by peer.
func (b *bed) flaps(nodes []*rig.Node) map[string][]int {
	b.t.Helper()
	out := map[string][]int{}
	for _, peer := range []string{frrPeer, birdPeer} {
		for _, n := range nodes {
			s, err := b.now(b.t.Context(), n, peer)
			b.must(err)
			out[peer] = append(out[peer], s.Flaps)
		}
	}
	return out
}

// again waits until every node's session with a peer has ended once more and is up.
func (b *bed) again(before map[string][]int, peer string) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error {
		for i, n := range b.Nodes() {
			s, err := b.now(ctx, n, peer)
			if err != nil {
				return err
			}
			if s.Flaps <= before[peer][i] || s.State != "Established" {
				return fmt.Errorf("%s says %+v", n.Name(), s)
			}
		}
		return nil
	})
}
