// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// testRoundRobin is the tutorial's count: 1,000 requests to three pods.
func testRoundRobin(t *testing.T, w *World) {
	s := &Service{Name: "round-robin", Pods: []*Pod{w.A, w.B, w.Far}, Annotations: map[string]string{v1alpha1.AnnotationScheduler: "rr"}}
	to := w.serve(t, s)
	count := map[string]int{}
	err := w.Client.Do(func() error {
		for range 1000 {
			a, err := Ask(t.Context(), here{}, TCP, netip.AddrPortFrom(to, servicePort))
			if err != nil {
				return err
			}
			count[a.Pod]++
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	var got []int
	for _, n := range count {
		got = append(got, n)
	}
	slices.Sort(got)
	if !slices.Equal(got, []int{333, 333, 334}) {
		t.Errorf("1,000 requests went to %v, want 334, 333 and 333", count)
	}
	w.say("1,000 requests went to %v", count)
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// flows of testMaglev, each from an address of its own.
const flows = 300

// testMaglev asks from many addresses through one node, and again through another, into
// which the same pods came in another order.
func testMaglev(t *testing.T, w *World) {
	s := &Service{Name: "maglev", Annotations: map[string]string{v1alpha1.AnnotationScheduler: "mh"}}
	var to netip.Addr
	for i, p := range []*Pod{w.Far, w.B, w.A} {
		s.Pods = append(s.Pods, p)
		if i == 0 {
			to = w.serve(t, s)
		} else if err := w.SetEndpoints(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := w.programmed(t.Context(), to, i+1); err != nil {
			t.Fatal(err)
		}
	}
	// The second node forgets all and gets them in the order of its plan.
	second := w.Rig.Nodes()[1]
	if err := run(t.Context(), second, "ipvsadm", "-C"); err != nil {
		t.Fatal(err)
	}
	if err := w.programmed(t.Context(), to, len(s.Pods)); err != nil {
		t.Fatal(err)
	}
	from := w.Via[0]
	if err := from.Do(addFlows); err != nil {
		t.Fatal(err)
	}
	first, err := askFlows(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	// The same addresses now go through the second node.
	reroute := func(to *rig.Node) error {
		return from.Do(func() error { return replaceRoute(pool4, to.IPv4()) })
	}
	if err := reroute(second); err != nil {
		t.Fatal(err)
	}
	again, err := askFlows(t.Context(), from, to)
	if err := errors.Join(err, reroute(w.Rig.Nodes()[0])); err != nil {
		t.Fatal(err)
	}
	differ, count := 0, map[string]int{}
	for i := range first {
		count[first[i]]++
		if first[i] != again[i] {
			differ++
		}
	}
	w.say("mh: %d flows went to %v, %d differ through another node", flows, count, differ)
	if differ > 0 || len(count) != len(s.Pods) {
		t.Errorf("%d of %d flows differ; they went to %v", differ, flows, count)
	}
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// programmed waits until every node has so many real servers for an address.
func (w *World) programmed(ctx context.Context, to netip.Addr, reals int) error {
	_, err := harness.Eventually(ctx, serveTimeout, func(ctx context.Context) error {
		var errs []error
		for _, n := range w.Rig.Nodes() {
			k, err := ReadKernel(ctx, n)
			if err != nil {
				return err
			}
			if got := len(slices.Collect(realsOf(k.Ours, to))); got != reals {
				errs = append(errs, fmt.Errorf("%s has %d real servers for %s, want %d:\n%s", n.Name(), got, to, reals, k.Ours))
			}
		}
		return errors.Join(errs...)
	})
	return err //nolint:wrapcheck // says what it is
}

// flowAddress is a free one of the nodes' network.
func flowAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 30, byte(2 + i/250), byte(i%250 + 1)})
}

// addFlows is called on a thread in the client's network.
func addFlows() error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	for i := range flows {
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: single(flowAddress(i))}); err != nil {
			return fmt.Errorf("add %s: %w", flowAddress(i), err)
		}
	}
	return nil
}

// replaceRoute is called on a thread in the client's network.
func replaceRoute(to string, via netip.Addr) error {
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return fmt.Errorf("route %s: %w", to, err)
	}
	return netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: via.AsSlice()})
}

// askFlows returns the pod that each flow reaches.
func askFlows(ctx context.Context, from Place, to netip.Addr) ([]string, error) {
	var out []string
	err := from.Do(func() error {
		for i := range flows {
			a, err := askFrom(ctx, flowAddress(i), netip.AddrPortFrom(to, servicePort))
			if err != nil {
				return err
			}
			out = append(out, a.Pod)
		}
		return nil
	})
	return out, err
}

// askFrom asks once by TCP with a source address of the calling thread's network.
func askFrom(ctx context.Context, source netip.Addr, to netip.AddrPort) (Answer, error) {
	d := net.Dialer{Timeout: askTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return Answer{}, classify(to, err)
	}
	defer conn.Close()
	return newConn(conn, TCP, askTimeout).Ask()
}
