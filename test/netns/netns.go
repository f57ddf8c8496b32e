// SPDX-License-Identifier: Apache-2.0

// Package netns is the harness of tests that need a real kernel: it runs a test binary
// in a network namespace of its own, so that nothing of the host's network is seen or
// changed, and makes links in there. Only tests of the node agent use it.
//
// It needs root. Where it cannot run, tests are skipped loudly, and in CI (CI=true)
// that is a failure: a skipped kernel test must not look like a passed one.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// marker tells the copy of the test binary that it is inside.
const marker = "FAIRLEAD_TEST_NETNS"

// Main is for TestMain: it returns the exit status. Outside, it runs this test binary
// again in a new network namespace; inside, it runs the tests with loopback up. The
// functions in checks run after the tests and can fail them, for example for goroutine
// leaks.
func Main(m *testing.M, checks ...func() error) int {
	if os.Getenv(marker) == "" {
		return outside()
	}
	if err := upLoopback(); err != nil {
		fmt.Fprintln(os.Stderr, "netns:", err)
		return 1
	}
	status := m.Run()
	for _, check := range checks {
		if err := check(); err != nil && status == 0 {
			fmt.Fprintln(os.Stderr, "netns:", err)
			status = 1
		}
	}
	return status
}

func outside() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "SKIPPED: kernel tests need root for a network namespace; run them as root")
		if os.Getenv("CI") == "true" {
			return 1
		}
		return 0
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...) //nolint:gosec // this very binary
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "netns: cannot run in a new network namespace:", err)
		return 1
	}
	return 0
}

func upLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// AddVeth makes a pair of connected links, both up, with addresses in CIDR notation
// (empty: none); they are removed at the end of the test.
func AddVeth(tb testing.TB, name, addr, peer, peerAddr string) {
	tb.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
	if err := netlink.LinkAdd(v); err != nil {
		tb.Fatalf("add veth %s: %v", name, err)
	}
	tb.Cleanup(func() {
		if err := netlink.LinkDel(v); err != nil {
			tb.Logf("delete veth %s: %v", name, err)
		}
	})
	up(tb, name, addr)
	up(tb, peer, peerAddr)
	waitRunning(tb, name, true)
	waitRunning(tb, peer, true)
}

// waitRunning waits for the kernel to notice a carrier, which it does in its own time.
func waitRunning(tb testing.TB, name string, want bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if link(tb, name).Attrs().RawFlags&syscall.IFF_RUNNING != 0 == want {
			return
		}
		<-tick.C
	}
	tb.Fatalf("link %s: running is not %t after 5 s", name, want)
}

func up(tb testing.TB, name, addr string) {
	tb.Helper()
	l := link(tb, name)
	if addr != "" {
		AddAddr(tb, name, addr)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		tb.Fatalf("set %s up: %v", name, err)
	}
}

// SetMAC changes a link's Ethernet address, which takes it down for a moment.
func SetMAC(tb testing.TB, name string, mac [6]byte) {
	tb.Helper()
	l := link(tb, name)
	for _, err := range []error{
		netlink.LinkSetDown(l), netlink.LinkSetHardwareAddr(l, mac[:]), netlink.LinkSetUp(l),
	} {
		if err != nil {
			tb.Fatalf("set the address of %s: %v", name, err)
		}
	}
	waitRunning(tb, name, true)
}

// PullPlug takes peer down and waits until name has no carrier.
func PullPlug(tb testing.TB, name, peer string) {
	tb.Helper()
	if err := netlink.LinkSetDown(link(tb, peer)); err != nil {
		tb.Fatalf("set %s down: %v", peer, err)
	}
	waitRunning(tb, name, false)
}

// AddAddr adds an address in CIDR notation to a link. The function that it returns
// takes it away again, which cuts off whoever uses it without a word to anybody.
func AddAddr(tb testing.TB, name, addr string) (remove func()) {
	tb.Helper()
	l := link(tb, name)
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		tb.Fatalf("parse %q: %v", addr, err)
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		tb.Fatalf("add %s to %s: %v", addr, name, err)
	}
	return func() {
		tb.Helper()
		if err := netlink.AddrDel(l, a); err != nil {
			tb.Fatalf("take %s from %s: %v", addr, name, err)
		}
	}
}

// AddRoute routes a prefix through a link.
func AddRoute(tb testing.TB, name, prefix string) {
	tb.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		tb.Fatalf("parse %q: %v", prefix, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link(tb, name).Attrs().Index, Dst: dst}); err != nil {
		tb.Fatalf("add a route to %s: %v", prefix, err)
	}
}

// AddRouteVia routes a prefix through a link and gateways, which need not answer.
func AddRouteVia(tb testing.TB, name, prefix string, metric int, gateways ...string) {
	tb.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		tb.Fatalf("parse %q: %v", prefix, err)
	}
	r := &netlink.Route{LinkIndex: link(tb, name).Attrs().Index, Dst: dst, Priority: metric}
	for _, gw := range gateways {
		hop := &netlink.NexthopInfo{LinkIndex: r.LinkIndex, Gw: netip.MustParseAddr(gw).AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		r.MultiPath = append(r.MultiPath, hop)
	}
	if len(gateways) == 1 {
		r.Gw, r.Flags, r.MultiPath = r.MultiPath[0].Gw, r.MultiPath[0].Flags, nil
	}
	if err := netlink.RouteAdd(r); err != nil {
		tb.Fatalf("add a route to %s via %v: %v", prefix, gateways, err)
	}
}

func link(tb testing.TB, name string) netlink.Link {
	tb.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		tb.Fatalf("find link %s: %v", name, err)
	}
	return l
}
