// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// genl is a socket for the commands of one family of generic netlink, in the network
// namespace of the thread that opened it. It is safe for concurrent use: the library locks
// it for the time of a request and its replies.
type genl struct {
	family uint16
	socket *nl.SocketHandle
	// sent counts requests.
	sent *atomic.Uint64
}

// openGenl finds the family, for which the kernel loads the module if it can.
func openGenl(name string, sent *atomic.Uint64) (*genl, error) {
	family, err := netlink.GenlFamilyGet(name)
	if err != nil {
		return nil, fmt.Errorf("find the netlink family %s: %w", name, err)
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	g := &genl{family: family.ID, socket: &nl.SocketHandle{Socket: socket}, sent: sent}
	if err := socket.SetSendTimeout(&nl.SocketTimeoutTv); err != nil {
		g.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := socket.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		g.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return g, nil
}

func (g *genl) close() { g.socket.Socket.Close() }

// get returns the attributes of each reply to a command; with [unix.NLM_F_DUMP] in flags
// those of all that there are. A dump that a change interrupted is repeated, where the kernel
// says so: what it returns then is what there was at one time.
func (g *genl) get(command uint8, flags int, data ...nl.NetlinkRequestData) ([][]syscall.NetlinkRouteAttr, error) {
	msgs, err := retry(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(int(g.family), flags)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_GENERIC: g.socket}
		req.AddData(&nl.Genlmsg{Command: command, Version: 1})
		for _, d := range data {
			req.AddData(d)
		}
		g.sent.Add(1)
		return req.Execute(unix.NETLINK_GENERIC, g.family)
	})
	if err != nil {
		return nil, err
	}
	out := make([][]syscall.NetlinkRouteAttr, 0, len(msgs))
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			return nil, fmt.Errorf("a reply of %d bytes", len(m))
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return nil, fmt.Errorf("parse a reply: %w", err)
		}
		out = append(out, attrs)
	}
	return out, nil
}

// attributes are those of a netlink message or of one nested in it, by number. Values are
// the kernel's: an attribute that is missing or too short reads as 0.
type attributes map[uint16][]byte

func attributesOf(list []syscall.NetlinkRouteAttr) attributes {
	out := make(attributes, len(list))
	for _, a := range list {
		out[a.Attr.Type&attributeTypeMask] = a.Value
	}
	return out
}

// nested returns the attributes within one, none if there is none.
func (a attributes) nested(kind uint16) attributes {
	list, err := nl.ParseRouteAttr(a[kind])
	if err != nil {
		return nil
	}
	return attributesOf(list)
}

// number reads one in the machine's byte order, of 2, 4 or 8 bytes.
func (a attributes) number(kind uint16) uint64 {
	switch b := a[kind]; {
	case len(b) >= 8:
		return binary.NativeEndian.Uint64(b)
	case len(b) >= 4:
		return uint64(binary.NativeEndian.Uint32(b))
	case len(b) >= 2:
		return uint64(binary.NativeEndian.Uint16(b))
	default:
		return 0
	}
}

func (a attributes) uint16(kind uint16) uint16 { return uint16(a.number(kind)) } //nolint:gosec // what the kernel has there
func (a attributes) uint32(kind uint16) uint32 { return uint32(a.number(kind)) } //nolint:gosec // what the kernel has there

// port reads one, which is in network byte order.
func (a attributes) port(kind uint16) uint16 {
	if b := a[kind]; len(b) >= 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// text reads a string that ends with a zero byte.
func (a attributes) text(kind uint16) string { return unix.ByteSliceToString(a[kind]) }
