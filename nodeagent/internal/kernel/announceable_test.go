// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Which links announce, with those kinds of which a test's kernel may have none.
func TestAnnounceable(t *testing.T) {
	t.Parallel()
	kinds := map[int]string{1: "bridge", 2: "bond", 3: "vrf", 4: "team", 5: "openvswitch"}
	const up = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for name, tt := range map[string]struct {
		a    netlink.LinkAttrs
		want bool
	}{
		"plain, also a bond, a bridge or a VLAN": {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac}, true},
		"VLAN on top of another":                 {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, ParentIndex: 1}, true},
		"port of a VRF":                          {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, MasterIndex: 3}, true},
		"port of a bridge":                       {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, MasterIndex: 1}, false},
		"port of a bond":                         {netlink.LinkAttrs{RawFlags: up | unix.IFF_SLAVE, HardwareAddr: mac, MasterIndex: 2}, false},
		"port of a team":                         {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, MasterIndex: 4}, false},
		"port of Open vSwitch":                   {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, MasterIndex: 5}, false},
		"port of what is not listed":             {netlink.LinkAttrs{RawFlags: up, HardwareAddr: mac, MasterIndex: 9}, false},
		"slave without a master":                 {netlink.LinkAttrs{RawFlags: up | unix.IFF_SLAVE, HardwareAddr: mac}, false},
		"down":                                   {netlink.LinkAttrs{RawFlags: unix.IFF_BROADCAST, HardwareAddr: mac}, false},
		"without carrier":                        {netlink.LinkAttrs{RawFlags: unix.IFF_UP, HardwareAddr: mac}, false},
		"without ARP":                            {netlink.LinkAttrs{RawFlags: up | unix.IFF_NOARP, HardwareAddr: mac}, false},
		"loopback":                               {netlink.LinkAttrs{RawFlags: up | unix.IFF_LOOPBACK, HardwareAddr: make([]byte, 6)}, false},
		"tunnel":                                 {netlink.LinkAttrs{RawFlags: up}, false},
		"InfiniBand":                             {netlink.LinkAttrs{RawFlags: up, HardwareAddr: make([]byte, 20)}, false},
	} {
		if got := announceable(&tt.a, kinds); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// vrfPort is what the netlink library says of a port of a VRF.
type vrfPort struct{}

func (vrfPort) SlaveType() string { return kindVRF }

func TestLapses(t *testing.T) {
	t.Parallel()
	const up = unix.IFF_UP | unix.IFF_RUNNING
	k := &Kernel{lapses: make(map[int]uint64)}
	update := func(kind uint16, family uint8, a netlink.LinkAttrs) {
		u := &netlink.LinkUpdate{Link: &netlink.Device{LinkAttrs: a}}
		u.Header.Type, u.Family = kind, family
		k.noteLapse(u)
	}
	attrs := []netlink.LinkAttrs{
		{Index: 7, RawFlags: up},
		{Index: 8, RawFlags: unix.IFF_UP},
		{Index: 8, RawFlags: up},
		{Index: 9, RawFlags: up, MasterIndex: 3},
		{Index: 10, RawFlags: up, MasterIndex: 3, Slave: vrfPort{}},
	}
	for _, a := range attrs {
		update(unix.RTM_NEWLINK, unix.AF_UNSPEC, a)
	}
	if len(k.lapses) != 2 || k.lapses[8] != 1 || k.lapses[9] != 1 {
		t.Errorf("lapses %v, want one of the link without carrier and one of the port", k.lapses)
	}
	// A bridge tells of a port that leaves it as of a link that goes.
	update(unix.RTM_DELLINK, unix.AF_BRIDGE, netlink.LinkAttrs{Index: 9, RawFlags: up, MasterIndex: 3})
	update(unix.RTM_DELLINK, unix.AF_UNSPEC, netlink.LinkAttrs{Index: 8})
	if len(k.lapses) != 1 || k.lapses[9] != 2 {
		t.Errorf("lapses %v, want two of the port", k.lapses)
	}
}
