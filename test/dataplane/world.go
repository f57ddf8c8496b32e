// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/vm"
)

// The addresses of Services, in the nodes' network.
const (
	pool4 = "10.30.64.0/18"
	pool6 = "fd00:30::1:0/112"
)

// Options of a world.
type Options struct {
	// Root of the repository; bin/ below it holds the programs.
	Root string
	// Outside is the file that command outside wrote, Host where its loopback is.
	Outside, Host string
	// Dir gets every file that is written. It must exist and be empty.
	Dir string
	// Progress gets a line per step.
	Progress io.Writer
}

// World is three nodes: pods a and b serve on the first two. Other pods and hosts ask.
type World struct {
	Rig *rig.Rig
	// A and B serve everything; Far, on the third node, only Services that name it; Near is
	// a pod beside A that serves nothing.
	A, B, Near, Far *Pod
	// Client finds addresses by ARP and NDP; Via[i] sends everything for Services, and for
	// pods, to node i, whoever announces it.
	Client *rig.Host
	Via    []*rig.Host
	// Proxies by node.
	Proxies []*Proxy

	o           Options
	began       time.Time
	kubeProxy   string
	proxyConfig string
	// removed are cluster IPs of Services that are gone.
	removed []string
}

// nodes of a world.
const nodes = 3

// Start brings everything up but kube-proxy; see [World.Use]. Call Stop also when it failed.
func Start(ctx context.Context, o Options) (*World, error) {
	w := &World{o: o, began: time.Now()}
	if o.Host == vm.Outside {
		if err := warm(ctx); err != nil {
			return w, err
		}
	}
	p, err := plane.Attach(plane.Options{Root: o.Root, Progress: o.Progress}, o.Outside, o.Host)
	if err != nil {
		return w, fmt.Errorf("start the world: %w", err)
	}
	w.Rig, err = rig.Start(ctx, rig.Options{
		Root: o.Root, Dir: o.Dir, Nodes: nodes, Plane: p, Progress: o.Progress,
		AgentProgram: filepath.Join(o.Root, "bin", harness.AgentProgram),
		AgentArgs:    []string{"--sysctl-root=/proc/sys", "--v=2"},
	})
	if err != nil {
		return w, fmt.Errorf("start the world: %w", err)
	}
	w.say("%d agents see each other", nodes)
	for _, step := range []func(context.Context) error{w.plugClients, w.makePods, w.Rig.ApplyScenario, w.prepareProxies} {
		if err := step(ctx); err != nil {
			return w, fmt.Errorf("start the world: %w", err)
		}
	}
	w.say("pods, clients and the pool are there")
	return w, nil
}

func (w *World) say(format string, args ...any) {
	_, _ = fmt.Fprintf(w.o.Progress, "[%5.1f s] "+format+"\n", append([]any{time.Since(w.began).Seconds()}, args...)...)
}

func (w *World) plugClients(context.Context) error {
	var err error
	if w.Client, err = w.Rig.AddHost(); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if err := w.Client.Do(func() error { return inherit("0") }); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	for _, n := range w.Rig.Nodes() {
		h, err := w.Rig.AddHost()
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		w.Via = append(w.Via, h)
		err = h.Do(func() error {
			pods4, pods6 := rig.PodRanges()
			return errors.Join(inherit("0"), route(pool4, n.IPv4()), route(pool6, n.IPv6()),
				route(pods4.String(), n.IPv4()), route(pods6.String(), n.IPv6()))
		})
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
	}
	return nil
}

// route is called on a thread in the namespace that it is for.
func route(to string, via netip.Addr) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return fmt.Errorf("route %s: %w", to, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("route %s via %s: %w", to, via, err)
	}
	return nil
}

// makePods also routes the nodes' ranges, as a network without overlay does.
func (w *World) makePods(ctx context.Context) error {
	all := w.Rig.Nodes()
	for _, n := range all {
		err := n.Do(func() error {
			if err := inherit("1"); err != nil {
				return err
			}
			for _, peer := range all {
				if peer == n {
					continue
				}
				r4, r6 := peer.PodRanges()
				if err := errors.Join(route(r4.String(), peer.IPv4()), route(r6.String(), peer.IPv6())); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("prepare node %s: %w", n.Name(), err)
		}
	}
	for _, p := range []struct {
		to          **Pod
		name        string
		node, index int
	}{{&w.A, "a", 0, 0}, {&w.B, "b", 1, 0}, {&w.Near, "near", 0, 1}, {&w.Far, "far", 2, 0}} {
		pod, err := NewPod(p.name, all[p.node], p.index)
		if err != nil {
			return err
		}
		*p.to = pod
	}
	return errors.Join(w.A.Serve(ctx), w.B.Serve(ctx), w.Far.Serve(ctx))
}

// Stop ends everything.
func (w *World) Stop() error {
	var errs []error
	for _, p := range w.Proxies {
		if p.proc != nil {
			errs = append(errs, p.Stop())
		}
	}
	for _, p := range []*Pod{w.A, w.B, w.Near, w.Far} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if w.Rig != nil {
		errs = append(errs, w.Rig.Stop())
	}
	return errors.Join(errs...)
}

// dialer connects from somewhere.
func dialer(from Place) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = from.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// NodeAddresses are all that a pod may see when a node speaks for somebody else: the
// node's own and the first of its pods' range.
func NodeAddresses(n *rig.Node) []netip.Addr {
	r4, r6 := n.PodRanges()
	return []netip.Addr{n.IPv4(), n.IPv6(), nth(r4, 1), nth(r6, 1)}
}
