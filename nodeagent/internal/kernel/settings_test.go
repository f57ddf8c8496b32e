// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestARPSettings(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "s0", "192.0.2.1/24", "s1", "")
	proc := func(name string) string {
		t.Helper()
		b, err := os.ReadFile("/proc/sys/net/ipv4/conf/s0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	before, err := k.ARPSettings()
	if err != nil {
		t.Fatal(err)
	}
	s, ok := before["s0"]
	if !ok || s.Index == 0 || s.Ignore != 0 || s.Announce != 0 {
		t.Fatalf("s0 has %+v, %t at first", s, ok)
	}
	s.Ignore, s.Announce = 1, 2
	if err := k.SetARP(s); err != nil {
		t.Fatal(err)
	}
	if got := proc("arp_ignore") + proc("arp_announce"); got != "12" {
		t.Errorf("the kernel has %s, want 12", got)
	}
	after, err := k.ARPSettings()
	if err != nil || after["s0"] != s || after["s1"] != before["s1"] {
		t.Errorf("read back %+v, %v", after, err)
	}
	s.Index = 1 << 20
	if err := k.SetARP(s); err == nil {
		t.Error("a link that is not there was set")
	}
}

func TestLocalIPv4(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "i0", "192.0.2.1/24", "i1", "192.0.2.1/24")
	defer netns.AddAddr(t, "lo", "192.0.2.200/32")()
	got, err := k.LocalIPv4()
	if err != nil {
		t.Fatal(err)
	}
	both := got[netip.MustParseAddr("192.0.2.1")]
	slices.Sort(both)
	if strings.Join(both, ",") != "i0,i1" || strings.Join(got[netip.MustParseAddr("192.0.2.200")], ",") != "lo" {
		t.Errorf("got %v", got)
	}
}

// An address on loopback is answered for, as on every node that kube-proxy's ipvs mode put
// it on; with the settings it is not, and as they were it is again.
func TestSettingsSilenceTheKernel(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "q0", "192.0.2.1/24", "q1", "")
	defer netns.AddAddr(t, "lo", "192.0.2.200/32")()
	client := netns.NewOther(t)
	client.Take("q1")
	client.Run("ip", "link", "set", "lo", "up")
	client.Run("ip", "link", "set", "q1", "up")
	client.Run("ip", "addr", "add", "192.0.2.9/24", "dev", "q1")
	client.Run("ping", "-c", "1", "-w", "10", "192.0.2.1")
	answers := func() bool {
		client.Run("ip", "neigh", "flush", "dev", "q1")
		_, err := client.Try("ping", "-c", "1", "-W", "1", "192.0.2.200")
		return err == nil
	}
	if !answers() {
		t.Fatal("the address is silent at first")
	}
	before, err := k.ARPSettings()
	if err != nil {
		t.Fatal(err)
	}
	silent := before["q0"]
	silent.Ignore, silent.Announce = 1, 2
	if err := k.SetARP(silent); err != nil {
		t.Fatal(err)
	}
	if answers() {
		t.Error("the kernel answers for an address on loopback")
	}
	client.Run("ping", "-c", "1", "-w", "10", "192.0.2.1")
	if err := k.SetARP(before["q0"]); err != nil {
		t.Fatal(err)
	}
	if !answers() {
		t.Error("the address is silent although all is as it was")
	}
}
