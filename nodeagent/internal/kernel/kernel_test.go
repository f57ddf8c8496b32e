// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func open(t *testing.T) *kernel.Kernel {
	t.Helper()
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func linkNamed(t *testing.T, k *kernel.Kernel, name string) (kernel.Link, bool) {
	t.Helper()
	links, err := k.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == name {
			return l, true
		}
	}
	return kernel.Link{}, false
}

func TestLinks(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "up0", "192.0.2.1/24", "up1", "")
	got, ok := linkNamed(t, k, "up0")
	if !ok {
		t.Fatal("up0 is not listed")
	}
	if diff := cmp.Diff([]string{"192.0.2.1/24"}, prefixes(got)); diff != "" {
		t.Errorf("prefixes of up0 (-want +got):\n%s", diff)
	}
	if _, ok := linkNamed(t, k, "lo"); ok {
		t.Error("loopback is listed")
	}
	netns.PullPlug(t, "up0", "up1")
	if _, ok := linkNamed(t, k, "up0"); ok {
		t.Error("up0 is listed without carrier")
	}
}

func prefixes(l kernel.Link) []string {
	var out []string
	for _, p := range l.Prefixes {
		out = append(out, p.String())
	}
	return out
}

func TestDefaultRoutes(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "dr0", "192.0.2.1/24", "dr1", "198.51.100.1/24")
	netns.AddAddr(t, "dr1", "fd00:1::1/64")
	if got, err := k.DefaultRoutes(); err != nil || len(got.Addrs)+len(got.Gateways) != 0 {
		t.Fatalf("without a default route: %v, %v", got, err)
	}
	netns.AddRoute(t, "dr1", "0.0.0.0/0")
	netns.AddRouteVia(t, "dr0", "0.0.0.0/0", 10, "192.0.2.254")
	netns.AddRouteVia(t, "dr0", "203.0.113.0/24", 0, "192.0.2.253")
	netns.AddRouteVia(t, "dr1", "::/0", 0, "fe80::1", "fe80::2")
	got, err := k.DefaultRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if want := "{[198.51.100.1 fd00:1::1] [192.0.2.254 fe80::1 fe80::2]}"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestWatchTellsOfAChangedLink(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "w0", "", "w1", "")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- k.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	told := func(within time.Duration) bool {
		timer := time.NewTimer(within)
		defer timer.Stop()
		select {
		case <-changed:
			return true
		case <-timer.C:
			return false
		}
	}
	// The subscription starts some time after Watch is called: go on changing things.
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	for ; ; mac[5]++ {
		netns.SetMAC(t, "w0", mac)
		if told(100 * time.Millisecond) {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("a change of address went unnoticed")
		}
	}
	for told(300 * time.Millisecond) {
		continue // What the change of address brings along.
	}
	netns.AddRoute(t, "w0", "203.0.113.0/24")
	if told(300 * time.Millisecond) {
		t.Error("a route to somewhere was told")
	}
	netns.AddRoute(t, "w0", "0.0.0.0/0")
	if !told(5 * time.Second) {
		t.Error("a new default route went unnoticed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

// The filter passes requests and replies from the wire, and nothing that the host sent.
func TestARPConnReadsOnlyWhatOthersSent(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "a0", "", "a1", "")
	var conns [2]*kernel.ARPConn
	var links [2]kernel.Link
	for i, name := range []string{"a0", "a1"} {
		l, ok := linkNamed(t, k, name)
		if !ok {
			t.Fatalf("%s is not listed", name)
		}
		c, err := k.OpenARP(l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns[i], links[i] = c, l
	}
	frame := func(from kernel.MAC, op byte) []byte {
		b := append([]byte{255, 255, 255, 255, 255, 255}, from[:]...)
		b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
		b = append(b, from[:]...)
		b = append(b, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1)
		return append(b, make([]byte, 18)...)
	}
	all := kernel.MAC{255, 255, 255, 255, 255, 255}
	// Operation 3 (RARP) must not arrive; were it to, it would come first.
	for _, op := range []byte{3, 2, 1} {
		if err := conns[0].WriteFrame(frame(links[0].MAC, op), all); err != nil {
			t.Fatal(err)
		}
	}
	if err := conns[1].WriteFrame(frame(links[1].MAC, 1), all); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 128)
	read := func(c *kernel.ARPConn) (kernel.MAC, byte) {
		n, err := c.ReadFrame(buf)
		if err != nil || n < 42 {
			t.Fatalf("read %d bytes: %v", n, err)
		}
		return kernel.MAC(buf[6:12]), buf[21]
	}
	for _, want := range []byte{2, 1} {
		if mac, op := read(conns[1]); mac != links[0].MAC || op != want {
			t.Errorf("a1 read operation %d from %s, want %d from %s", op, mac, want, links[0].MAC)
		}
	}
	if mac, _ := read(conns[0]); mac != links[1].MAC {
		t.Errorf("a0 read a frame from %s, want one from %s", mac, links[1].MAC)
	}
}
