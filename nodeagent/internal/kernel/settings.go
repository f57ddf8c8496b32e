// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ARPSettings are what a link's kernel answers by ARP and says about itself: arp_ignore and
// arp_announce of Documentation/networking/ip-sysctl.rst. The kernel goes by the higher one
// of the link's and of conf/all's.
type ARPSettings struct {
	// Index of the link.
	Index int
	// Ignore is 0 where it answers for addresses of any link, 1 where for those of the link
	// that was asked.
	Ignore int32
	// Announce is 0 where it uses any address of its own to ask, 2 where the best one for
	// the target.
	Announce int32
}

// linux/inetdevice.h: IFLA_INET_CONF, and IPV4_DEVCONF_ARP_ANNOUNCE and _ARP_IGNORE.
const (
	iflaInetConf      = 1
	devconfAnnounce   = 18
	devconfIgnore     = 19
	sizeofIfInfomsg   = unix.SizeofIfInfomsg
	iflaAFSpec        = unix.IFLA_AF_SPEC | unix.NLA_F_NESTED
	nestedInet        = unix.AF_INET | unix.NLA_F_NESTED
	nestedInetConf    = iflaInetConf | unix.NLA_F_NESTED
	attributeTypeMask = 0x3fff // linux/netlink.h: NLA_TYPE_MASK
)

// ARPSettings reads the settings of all links that speak IPv4, by name.
func (k *Kernel) ARPSettings() (map[string]ARPSettings, error) {
	msgs, err := retry(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make(map[string]ARPSettings, len(msgs))
	for _, m := range msgs {
		if name, s, ok := parseSettings(m); ok {
			out[name] = s
		}
	}
	return out, nil
}

// parseSettings reads one link; false if it has no IPv4 or is not understood.
func parseSettings(m []byte) (string, ARPSettings, bool) {
	if len(m) < sizeofIfInfomsg {
		return "", ARPSettings{}, false
	}
	attrs, err := nl.ParseRouteAttr(m[sizeofIfInfomsg:])
	if err != nil {
		return "", ARPSettings{}, false
	}
	s := ARPSettings{Index: int(nl.DeserializeIfInfomsg(m).Index)}
	name, found := "", false
	for _, a := range attrs {
		switch a.Attr.Type & attributeTypeMask {
		case unix.IFLA_IFNAME:
			name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_AF_SPEC:
			conf := nested(nested(a.Value, unix.AF_INET), iflaInetConf)
			// What is number n to set is at n-1 in what is read.
			if len(conf) >= 4*devconfIgnore {
				s.Announce, s.Ignore, found = setting(conf, devconfAnnounce), setting(conf, devconfIgnore), true
			}
		}
	}
	return name, s, found && name != ""
}

func setting(conf []byte, number int) int32 {
	return int32(binary.NativeEndian.Uint32(conf[4*(number-1):])) //nolint:gosec // the kernel's int
}

// nested returns the value of an attribute in b, nil if there is none.
func nested(b []byte, kind uint16) []byte {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Attr.Type&attributeTypeMask == kind {
			return a.Value
		}
	}
	return nil
}

// SetARP sets both settings of the link with s.Index. It goes through netlink, because a
// container's /proc/sys is read-only; it needs CAP_NET_ADMIN.
func (k *Kernel) SetARP(s ARPSettings) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(s.Index) //nolint:gosec // an index
	req.AddData(msg)
	spec := nl.NewRtAttr(iflaAFSpec, nil)
	conf := spec.AddRtAttr(nestedInet, nil).AddRtAttr(nestedInetConf, nil)
	conf.AddRtAttr(devconfAnnounce, nl.Uint32Attr(uint32(s.Announce))) //nolint:gosec // the kernel's int
	conf.AddRtAttr(devconfIgnore, nl.Uint32Attr(uint32(s.Ignore)))     //nolint:gosec // the kernel's int
	req.AddData(spec)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set arp_ignore and arp_announce of link %d: %w", s.Index, err)
	}
	return nil
}

// LocalIPv4 lists the IPv4 addresses of all links but link-local ones, also of those that cannot announce, by
// address; where several links have one, all are there.
func (k *Kernel) LocalIPv4() (map[netip.Addr][]string, error) {
	addrs, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	links, err := retry(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	out := make(map[netip.Addr][]string, len(addrs))
	for i := range addrs {
		if p, ok := prefixOf(&addrs[i]); ok {
			out[p.Addr()] = append(out[p.Addr()], names[addrs[i].LinkIndex])
		}
	}
	return out, nil
}
