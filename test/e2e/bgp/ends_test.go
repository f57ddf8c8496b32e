// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// rigNamespace of the Services.
const rigNamespace = rig.Namespace

// gracefulShutdown is the community that asks for the least preference (RFC 8326).
const gracefulShutdown = "65535:0"

// node is short.
type node = rig.Node

// noRoute fails if the kernel of the calling thread's namespace has a route.
func noRoute(prefix string) error {
	list, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].Dst != nil && list[i].Dst.String() == prefix {
			return fmt.Errorf("the node imported %s", &list[i])
		}
	}
	return nil
}

// dropped is how often FRR's sessions ended, by node.
func (b *bed) dropped() map[netip.Addr]int {
	b.t.Helper()
	all, err := b.frr.Sessions(b.t.Context())
	b.must(err)
	out := map[netip.Addr]int{}
	for _, s := range all {
		out[s.Neighbor] = s.Dropped
	}
	return out
}

// undisturbed fails if a session with FRR ended since.
func (b *bed) undisturbed(before map[netip.Addr]int) {
	b.t.Helper()
	for n, now := range b.dropped() {
		if was, there := before[n]; there && now != was {
			b.t.Errorf("FRR's session with %s ended %d times meanwhile", n, now-was)
		}
	}
}

// keeps watches FRR's kernel and what BIRD knows until the function that it returns is
// called: the route must have all next hops all the time.
func (b *bed) keeps(prefix netip.Prefix, nodes ...*rig.Node) (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	looks := 0
	go func() {
		done <- harness.Always(ctx, time.Hour, func(ctx context.Context) error {
			looks++
			all, err := b.bird.Paths(ctx, prefix)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				_, err = inOrder(all, nodes)
			}
			return errors.Join(err, b.inKernel(prefix, alike(nodes...)))
		})
	}()
	return func() {
		b.t.Helper()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("look %d: %v", looks, err)
		}
	}
}

// killed is an agent that crashes and comes back, without a packet lost.
func killed(b *bed) {
	n := b.Nodes()
	stop, s := b.keeps(web, n...), b.streamTo(web, 5*time.Millisecond)
	b.must(n[0].Kill())
	b.stale(n[0])
	b.must(n[0].StartAgent(b.t.Context()))
	b.back(n[0])
	stop()
	b.lossless(s.stop(), "a crash of an agent")
}

// restarted is an agent that ends because a new one comes.
func restarted(b *bed) {
	n := b.Nodes()
	stop, s := b.keeps(web, n...), b.streamTo(web, 5*time.Millisecond)
	b.must(n[1].Terminate())
	b.stale(n[1])
	b.must(n[1].StartAgent(b.t.Context()))
	b.back(n[1])
	stop()
	b.lossless(s.stop(), "a restart of an agent")
}

// stale waits until FRR keeps a node's route though its session is gone.
func (b *bed) stale(n *rig.Node) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error {
		s, err := routers.SessionOf(ctx, b.frr, n.IPv4())
		if err == nil && s.Established {
			err = errors.New("the session is still up")
		}
		return err
	})
	b.paths(b.frr, web, b.Nodes(), func(p *routers.Path) error {
		if p.Stale != (p.From == n.IPv4()) {
			return errors.New("stale")
		}
		return nil
	})
}

// back waits until a node's sessions are up and its routes are its own again.
func (b *bed) back(n *rig.Node) {
	b.t.Helper()
	b.established(b.frr, n)
	b.established(b.bird, n)
	fresh := func(p *routers.Path) error {
		if p.Stale {
			return errors.New("stale")
		}
		return nil
	}
	b.paths(b.frr, web, b.Nodes(), fresh)
	b.paths(b.bird, web, b.Nodes(), fresh)
	b.must(b.WaitSettled(b.t.Context()))
}

func (b *bed) lossless(s seen, what string) {
	b.t.Helper()
	b.t.Logf("%s: %d of %d packets lost, longest gap %s", what, s.lost, s.asked, s.gap.Round(time.Millisecond))
	if s.lost > 0 || s.asked < 50 {
		b.t.Errorf("%s: %d of %d packets lost", what, s.lost, s.asked)
	}
}

// drains waits until both routers were asked by each of some nodes, and by no other, for the
// least preference, the nodes said why, and FRR's kernel has the others alone.
func (b *bed) drains(why map[*rig.Node]string) {
	b.t.Helper()
	var others []*rig.Node
	for _, o := range b.Nodes() {
		if why[o] == "" {
			others = append(others, o)
		}
	}
	type sight struct {
		router string
		node   *rig.Node
	}
	// Each for itself: one node's drain may be over when another's begins.
	seen := map[sight]bool{}
	look := func(ctx context.Context, name string, r routers.Router, asks func(p *routers.Path) bool) error {
		all, err := r.Paths(ctx, web)
		if err != nil {
			return err
		}
		for _, n := range b.Nodes() {
			i := slices.IndexFunc(all, func(p routers.Path) bool { return p.From == n.IPv4() })
			switch {
			case i < 0 && why[n] == "":
				return fmt.Errorf("%s has no path by %s: %+v", name, n.Name(), all)
			case i < 0 || !slices.Contains(all[i].Communities, gracefulShutdown):
			case why[n] == "" || !asks(&all[i]):
				return fmt.Errorf("%s has by %s %+v", name, n.Name(), all[i])
			default:
				seen[sight{name, n}] = true
			}
		}
		return nil
	}
	b.eventually(func(ctx context.Context) error {
		err := errors.Join(
			look(ctx, birdPeer, b.bird, func(p *routers.Path) bool { return p.LocalPref == 0 }),
			look(ctx, frrPeer, b.frr, func(p *routers.Path) bool { return len(p.ASPath) == 4 }))
		if err == nil && len(seen) < 2*len(why) {
			err = fmt.Errorf("routers were asked %d times", len(seen))
		}
		return err
	})
	b.kernel(web, alike(others...))
	for n, reason := range why {
		b.eventually(func(ctx context.Context) error {
			s, err := b.session(ctx, n, frrPeer)
			if err == nil && s.Draining != reason {
				err = fmt.Errorf("%s says %+v, want draining %s", n.Name(), s, reason)
			}
			return err
		})
	}
}

// undone runs kubectl after the part, whatever became of it: the next one shall not fail by it.
func (b *bed) undone(args ...string) {
	b.t.Cleanup(func() {
		if _, err := b.Plane().Kubectl(context.WithoutCancel(b.t.Context()), "", args...); err != nil {
			b.t.Error(err)
		}
	})
}

// cordoned is a node that shall get no more pods: it stays the last resort. Here and below it
// is one whose agent began lately: to the API agents tell changes calmly, and the others have
// told many.
func cordoned(b *bed) {
	n, s := b.Nodes(), b.streamTo(web, 5*time.Millisecond)
	b.undone("patch", "node", n[0].Name(), "-p", `{"spec":{"unschedulable":null}}`)
	b.kubectl("patch", "node", n[0].Name(), "-p", `{"spec":{"unschedulable":true}}`)
	b.drains(map[*rig.Node]string{n[0]: "NodeCordoned"})
	b.must(harness.Pause(b.t.Context(), drain+time.Second))
	b.drains(map[*rig.Node]string{n[0]: "NodeCordoned"}) // never over
	b.kubectl("patch", "node", n[0].Name(), "-p", `{"spec":{"unschedulable":null}}`)
	b.kernel(web, alike(n...))
	b.lossless(s.stop(), "a cordon")
}

// shutDown is how a kubelet says that its node is shutting down, or that it is not.
const shutDown = `{"status":{"conditions":[{"type":"Ready","status":%q,"reason":%q,"message":%q}]}}`

// excluded is a node that shall not announce, while another one is shutting down: both are
// drained first, then their routes are withdrawn.
func excluded(b *bed) {
	n, s := b.Nodes(), b.streamTo(web, 5*time.Millisecond)
	ready := []string{"patch", "node", n[1].Name(), "--subresource=status", "-p", fmt.Sprintf(shutDown, "True", "KubeletReady", "")}
	b.undone("label", "node", n[0].Name(), harness.ExcludeLabel+"-")
	b.undone(ready...)
	b.kubectl("label", "node", n[0].Name(), harness.ExcludeLabel+"=")
	b.kubectl("patch", "node", n[1].Name(), "--subresource=status", "-p", fmt.Sprintf(shutDown, "False", "KubeletNotReady", "node is shutting down"))
	b.drains(map[*rig.Node]string{n[1]: "NodeShuttingDown", n[0]: "NodeExcluded"})
	b.paths(b.frr, web, n[2:], nil)
	b.paths(b.bird, web, n[2:], nil)
	b.kubectl("label", "node", n[0].Name(), harness.ExcludeLabel+"-")
	b.kubectl(ready...)
	b.paths(b.frr, web, n, nil)
	b.kernel(web, alike(n...))
	b.lossless(s.stop(), "an exclusion and a shutdown")
}

// left is an agent that does not come back: it drains, withdraws, and closes its sessions.
func left(b *bed) {
	n, s := b.Nodes(), b.streamTo(web, 5*time.Millisecond)
	b.must(b.Kube().AppsV1().DaemonSets(harness.Namespace).Delete(b.t.Context(), harness.AgentProgram, metav1.DeleteOptions{}))
	ended := make(chan error, 1)
	go func() { ended <- n[0].Terminate() }()
	b.eventually(func(ctx context.Context) error {
		all, err := b.bird.Paths(ctx, web)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.From == n[0].IPv4() && slices.Contains(p.Communities, gracefulShutdown) {
				return nil
			}
		}
		return fmt.Errorf("nobody drains: %+v", all)
	})
	b.paths(b.frr, web, n[1:], nil)
	b.must(<-ended)
	b.kernel(web, alike(n[1:]...))
	closed, err := routers.SessionOf(b.t.Context(), b.bird, n[0].IPv4())
	b.must(err)
	b.t.Logf("BIRD says of the session: %s, %q", closed.State, closed.LastError)
	if closed.Established || !strings.Contains(closed.LastError, "hutdown") && !strings.Contains(closed.LastError, "deconfigured") {
		b.t.Errorf("BIRD says of the session that ended: %+v", closed)
	}
	b.lossless(s.stop(), "a node that leaves")
}
