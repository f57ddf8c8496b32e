// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func kept(t *testing.T, k *kernel.Kernel) []string {
	t.Helper()
	list, err := k.Kept()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		out = append(out, a.Link+" "+a.Addr.String())
	}
	return out
}

func both(link string) []kernel.Kept {
	return []kernel.Kept{{Link: link, Addr: netip.MustParseAddr("192.0.2.7")}, {Link: link, Addr: netip.MustParseAddr("2001:db8::7")}}
}

func TestKeep(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "ke0", "192.0.2.1/24", "ke1", "")
	netns.AddAddr(t, "ke0", "2001:db8::1/64")
	netns.AddRouteVia(t, "ke0", "0.0.0.0/0", 10, "192.0.2.254")
	netns.AddRouteVia(t, "ke0", "::/0", 10, "2001:db8::fe")
	before, routes := hosts(t, k, "ke0")
	if err := k.Keep(both("ke0"), time.Minute); err != nil {
		t.Fatal(err)
	}
	want := []string{"ke0 192.0.2.7", "ke0 2001:db8::7"}
	if diff := cmp.Diff(want, kept(t, k)); diff != "" {
		t.Errorf("Kept (-want +got):\n%s", diff)
	}
	// They are not the node's own.
	after, routesAfter := hosts(t, k, "ke0")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("prefixes (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(routes, routesAfter); diff != "" {
		t.Errorf("addresses on the default routes (-before +after):\n%s", diff)
	}
	// Programs that take the first address of a link find the node's.
	if list := listed(t, "ke0"); list[0] != "192.0.2.1/24" {
		t.Errorf("ke0 has %v", list)
	}
	if err := k.Keep(both("ke0"), time.Minute); err != nil {
		t.Errorf("keep again: %v", err)
	}
	for range 2 {
		if err := k.Drop(both("ke0")); err != nil {
			t.Errorf("drop: %v", err)
		}
	}
	if got := kept(t, k); len(got) > 0 {
		t.Errorf("after the drop: %v", got)
	}
}

// listed are all addresses of a link in the kernel's order.
func listed(t *testing.T, name string) []string {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func hosts(t *testing.T, k *kernel.Kernel, name string) (own, routes []string) {
	t.Helper()
	l, ok := linkNamed(t, k, name)
	if !ok {
		t.Fatalf("%s is not listed", name)
	}
	r, err := k.DefaultRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Addrs {
		routes = append(routes, a.String())
	}
	return prefixes(l), routes
}

// What cannot be kept in full is not kept at all, and other's addresses are left alone.
func TestKeepAllOrNothing(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "kn0", "192.0.2.1/24", "kn1", "")
	netns.AddAddr(t, "kn0", "2001:db8::7/128")
	if err := k.Keep(both("kn0"), time.Minute); err == nil {
		t.Error("an address that is the node's own was kept")
	}
	if err := k.Keep(append(both("kn1"), kernel.Kept{Link: "none", Addr: netip.MustParseAddr("192.0.2.8")}), time.Minute); err == nil {
		t.Error("an address was kept on a link that is not there")
	}
	if got := kept(t, k); len(got) > 0 {
		t.Errorf("kept %v", got)
	}
	if l, _ := linkNamed(t, k, "kn0"); !slices.Contains(prefixes(l), "2001:db8::7/128") {
		t.Error("the node's own address is gone")
	}
}

// The kernel answers for what is kept, and falls silent by itself.
func TestKernelAnswersForItsTime(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "ka0", "192.0.2.1/24", "ka1", "")
	target, peer := both("ka0")[0].Addr, netip.MustParseAddr("192.0.2.99")
	l, ok := linkNamed(t, k, "ka1")
	if !ok {
		t.Fatal("ka1 is not listed")
	}
	conn, err := k.OpenARP(l)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			n, err := conn.ReadFrame(buf)
			if err != nil {
				return
			}
			if from := target.As4(); n >= 42 && binary.BigEndian.Uint16(buf[20:]) == 2 && [4]byte(buf[28:32]) == from {
				answers <- struct{}{}
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	answered := func() bool {
		for len(answers) > 0 {
			<-answers
		}
		if err := conn.WriteFrame(arpRequest(l.MAC, peer, target), kernel.MAC{255, 255, 255, 255, 255, 255}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-answers:
			return true
		case <-time.After(200 * time.Millisecond):
			return false
		}
	}
	if answered() {
		t.Fatal("answered before")
	}
	const lifetime = 2 * time.Second
	begin := time.Now()
	if err := k.Keep(both("ka0"), lifetime); err != nil {
		t.Fatal(err)
	}
	if !answered() {
		t.Error("the kernel does not answer")
	}
	for answered() || len(kept(t, k)) > 0 {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the kernel still answers")
		}
	}
	if took := time.Since(begin); took < lifetime {
		t.Errorf("silent after %s already", took)
	}
}

// arpRequest is who-has target tell sender, broadcast (RFC 826).
func arpRequest(mac kernel.MAC, sender, target netip.Addr) []byte {
	s, d := sender.As4(), target.As4()
	return slices.Concat([]byte{255, 255, 255, 255, 255, 255}, mac[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac[:], s[:], make([]byte, 6), d[:])
}

// A thousand addresses must not cost a stop its second.
func TestKeepThousands(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "kt0", "192.0.2.1/24", "kt1", "")
	var list []kernel.Kept
	for i := range 5000 {
		list = append(list, kernel.Kept{Link: "kt0", Addr: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})})
	}
	begin := time.Now()
	if err := k.Keep(list, time.Minute); err != nil {
		t.Fatal(err)
	}
	added := time.Now()
	if got := len(kept(t, k)); got != len(list) {
		t.Errorf("kept %d of %d", got, len(list))
	}
	listed := time.Now()
	if err := k.Drop(list); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d addresses: added in %s, listed in %s, dropped in %s", len(list), added.Sub(begin), listed.Sub(added), time.Since(listed))
	if got := kept(t, k); len(got) > 0 {
		t.Errorf("%d are left", len(got))
	}
}
