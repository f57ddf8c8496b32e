// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridgeName is the switch's bridge, inside the switch's namespace.
const bridgeName = "br0"

// Interface is a host's network port.
type Interface struct {
	// Name is the port's name on the switch; the host calls it eth0.
	Name      string
	MAC       [6]byte
	Addresses []netip.Prefix
	// Gateways are the default routes, at most one of each family.
	Gateways []netip.Addr
}

// Route sends a prefix through a neighbour.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Via         netip.Addr   `json:"via"`
}

// inNetwork calls f with a netlink handle on the network namespace of a
// process. No thread changes its namespace for good.
func inNetwork(pid int, f func(h *netlink.Handle, ns int) error) error {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer file.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	return f(h, int(file.Fd()))
}

//nolint:forbidigo // netlink takes it
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// MakeSwitch turns the host with that PID 1 into the switch: a bridge that has
// the gateway's addresses.
func MakeSwitch(pid int, mac [6]byte, addresses []netip.Prefix) error {
	return inNetwork(pid, func(h *netlink.Handle, _ int) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = bridgeName, mac[:]
		snooping := false
		br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return configure(h, bridgeName, addresses)
	})
}

func configure(h *netlink.Handle, name string, addresses []netip.Prefix) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, a := range addresses {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			// Nobody else has it, and it is wanted at once.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	return errors.Join(h.LinkSetUp(lo), h.LinkSetUp(link))
}

// Plug connects a host to the switch as eth0. A port of that name that is left
// from an earlier life of the host is removed first.
func Plug(switchPid, hostPid int, port *Interface) error {
	return inNetwork(hostPid, func(hh *netlink.Handle, hostNs int) error {
		if err := inNetwork(switchPid, func(sh *netlink.Handle, _ int) error {
			return addPort(sh, hostNs, port)
		}); err != nil {
			return fmt.Errorf("port %s: %w", port.Name, err)
		}
		if err := configure(hh, "eth0", port.Addresses); err != nil {
			return err
		}
		for _, g := range port.Gateways {
			if err := hh.RouteReplace(&netlink.Route{Gw: g.AsSlice()}); err != nil {
				return fmt.Errorf("default route: %w", err)
			}
		}
		return nil
	})
}

func addPort(sh *netlink.Handle, hostNs int, port *Interface) error {
	if old, err := sh.LinkByName(port.Name); err == nil {
		if err := sh.LinkDel(old); err != nil {
			return fmt.Errorf("remove the old one: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port.Name
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: port.MAC[:], PeerNamespace: netlink.NsFd(hostNs),
	}
	if err := sh.LinkAdd(veth); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	br, err := sh.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	link, err := sh.LinkByName(port.Name)
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	return errors.Join(sh.LinkSetMaster(link, br), sh.LinkSetUp(link))
}

// Unplug removes a host's port; one that is not there is no error.
func Unplug(switchPid int, name string) error {
	return inNetwork(switchPid, func(h *netlink.Handle, _ int) error {
		link, err := h.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
		return h.LinkDel(link)
	})
}

// SetLink takes the switch's side of a host's port up or down: the host sees
// its carrier come and go, as with a cable.
func SetLink(switchPid int, name string, up bool) error {
	return inNetwork(switchPid, func(h *netlink.Handle, _ int) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
		if up {
			return h.LinkSetUp(link)
		}
		return h.LinkSetDown(link)
	})
}

// LinkUp says whether the switch's side of a host's port is up.
func LinkUp(switchPid int, name string) (bool, error) {
	up := false
	err := inNetwork(switchPid, func(h *netlink.Handle, _ int) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
		up = link.Attrs().Flags&net.FlagUp != 0
		return nil
	})
	return up, err
}

// SetRoutes adds or replaces routes of a host.
func SetRoutes(pid int, routes []Route) error {
	return inNetwork(pid, func(h *netlink.Handle, _ int) error {
		for _, r := range routes {
			nr := &netlink.Route{Dst: ipNet(r.Destination), Gw: r.Via.AsSlice()}
			if err := h.RouteReplace(nr); err != nil {
				return fmt.Errorf("route %s via %s: %w", r.Destination, r.Via, err)
			}
		}
		return nil
	})
}

// Neighbour is what a host knows about another one's address.
type Neighbour struct {
	Address netip.Addr
	MAC     [6]byte
	// Permanent keeps the kernel from ever asking for it; else it asks before
	// long.
	Permanent bool
}

// SetNeighbours adds or replaces entries of a host's neighbour tables.
func SetNeighbours(pid int, neighbours []Neighbour) error {
	return inNetwork(pid, func(h *netlink.Handle, _ int) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("eth0: %w", err)
		}
		for _, n := range neighbours {
			state := netlink.NUD_STALE
			if n.Permanent {
				state = netlink.NUD_PERMANENT
			}
			entry := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: state, IP: n.Address.AsSlice(), HardwareAddr: n.MAC[:]}
			if err := h.NeighSet(entry); err != nil {
				return fmt.Errorf("neighbour %s: %w", n.Address, err)
			}
		}
		return nil
	})
}
