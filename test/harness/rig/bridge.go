// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
)

// bridgeName of the only bridge, in its own namespace.
const bridgeName = "br0"

// The network. Nodes are .0.10 and up, the addresses of Services [Pool4] and [Pool6].
//
//nolint:gochecknoglobals // constants of a type that Go has no constants of
var (
	gateway4 = netip.MustParsePrefix("10.30.0.1/16")
	gateway6 = netip.MustParsePrefix("fd00:30::1/64")
	client4  = netip.MustParsePrefix("10.30.0.2/16")
	client6  = netip.MustParsePrefix("fd00:30::2/64")
)

// rules of the switch: what is cut, and what each port sends. Bytes are counted without
// the Ethernet header of 14.
const rules = `table bridge rig {
  set cut { type ifname . ifname; }
  set noapi { type ifname; }
  set gossip { type ifname; size 1024; flags dynamic; counter; }
  set pulse { type ifname; size 1024; flags dynamic; counter; }
  set every { type ifname; size 1024; flags dynamic; counter; }
  chain count {
    type filter hook prerouting priority -300;
    update @every { iifname }
    ether type { ip, ip6 } meta l4proto { tcp, udp } th dport %[1]d update @gossip { iifname }
    ether type { ip, ip6 } meta l4proto tcp th sport %[1]d update @gossip { iifname }
    ether type arp ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 update @pulse { iifname }
    ether type ip6 ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } update @pulse { iifname }
  }
  chain forward { type filter hook forward priority 0; iifname . oifname @cut drop; }
  chain input { type filter hook input priority 0; iifname @noapi ether type { ip, ip6 } drop; }
}
`

// bridge is the switch that everything is plugged into, and the gateway.
type bridge struct{ ns *namespace }

func newBridge(ctx context.Context, gossipPort int) (*bridge, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	b := &bridge{ns: ns}
	err = ns.links(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = bridgeName, []byte{2, 0xfa, 0xff, 0, 0, 1}
		snooping := false
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return fmt.Errorf("add the bridge: %w", err)
		}
		return configure(h, bridgeName, gateway4, gateway6)
	})
	if err != nil {
		return b, err
	}
	_, err = b.nft(ctx, fmt.Sprintf(rules, gossipPort), "-f", "-")
	return b, err
}

// plug connects a namespace, in which the port is eth0.
func (b *bridge) plug(to *namespace, port string, mac [6]byte, addresses ...netip.Prefix) error {
	err := b.ns.links(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: eth0, PeerHardwareAddr: mac[:], PeerNamespace: netlink.NsFd(int(to.file.Fd())),
		}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add port %s: %w", port, err)
		}
		br, err := h.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find the bridge: %w", err)
		}
		l, err := h.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find port %s: %w", port, err)
		}
		return errors.Join(h.LinkSetMaster(l, br), h.LinkSetUp(l))
	})
	if err != nil {
		return err
	}
	return to.links(func(h *netlink.Handle) error {
		if err := configure(h, eth0, addresses...); err != nil {
			return err
		}
		if err := h.RouteAdd(&netlink.Route{Gw: gateway4.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("add the default route: %w", err)
		}
		return nil
	})
}

// unplug removes a port at both ends.
func (b *bridge) unplug(port string) error {
	return b.ns.links(func(h *netlink.Handle) error {
		l, err := h.LinkByName(port)
		if err == nil {
			err = h.LinkDel(l)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("remove port %s: %w", port, err)
		}
		return nil
	})
}

// set takes the switch's side of a port up or down; the other side sees its carrier go.
func (b *bridge) set(port string, on bool) error {
	return b.ns.links(func(h *netlink.Handle) error {
		l, err := h.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find port %s: %w", port, err)
		}
		if on {
			err = h.LinkSetUp(l)
		} else {
			err = h.LinkSetDown(l)
		}
		if err != nil {
			return fmt.Errorf("switch port %s: %w", port, err)
		}
		return nil
	})
}

// nft runs the program of that name on the switch.
func (b *bridge) nft(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	var out, errOut bytes.Buffer
	err := b.ns.do(func() error {
		cmd := exec.CommandContext(ctx, "nft", args...) //nolint:gosec // arguments are this package's own
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
		return cmd.Run()
	})
	if err != nil {
		return nil, fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.Bytes(), nil
}

// cut drops what the ports of a and b send each other, besides what is cut already.
func (b *bridge) cut(ctx context.Context, from, to []string) error {
	var elements []string
	for _, x := range from {
		for _, y := range to {
			elements = append(elements, fmt.Sprintf("%q . %q", x, y), fmt.Sprintf("%q . %q", y, x))
		}
	}
	_, err := b.nft(ctx, "", "add", "element", "bridge", "rig", "cut", "{ "+strings.Join(elements, ", ")+" }")
	return err
}

// cutAPI drops what ports send to the gateway, where the API server is.
func (b *bridge) cutAPI(ctx context.Context, ports []string) error {
	_, err := b.nft(ctx, "", "add", "element", "bridge", "rig", "noapi", "{ "+strings.Join(ports, ", ")+" }")
	return err
}

func (b *bridge) heal(ctx context.Context) error {
	_, err := b.nft(ctx, "flush set bridge rig cut\nflush set bridge rig noapi\n", "-f", "-")
	return err
}

// Count is a number of frames and their bytes without Ethernet headers.
type Count struct{ Packets, Bytes int }

// counters reads one set, by port.
func (b *bridge) counters(ctx context.Context, set string) (map[string]Count, error) {
	out, err := b.nft(ctx, "", "-j", "list", "set", "bridge", "rig", set)
	if err != nil {
		return nil, err
	}
	var doc struct {
		NFTables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val     string `json:"val"`
						Counter struct{ Packets, Bytes int }
					} `json:"elem"`
				} `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("read the counters of %s: %w", set, err)
	}
	counts := map[string]Count{}
	for _, n := range doc.NFTables {
		for _, e := range n.Set.Elem {
			counts[e.Elem.Val] = Count(e.Elem.Counter)
		}
	}
	return counts, nil
}
