// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// The states of a TCP connection that has no answer yet, of
// linux/netfilter/nf_conntrack_tcp.h.
const (
	synSent = 1 // TCP_CONNTRACK_SYN_SENT
	synRecv = 2 // TCP_CONNTRACK_SYN_RECV
)

// ForgetHalfOpen deletes the TCP connections to the addresses that were begun and not
// answered from connection tracking, and returns how many. What NAT decided for their first
// packet holds for every repetition of it; a forgotten one is decided on anew. Those that
// are masqueraded stay: their answers come back here, and one that has come since they were
// listed would find its client's source gone.
func (k *Kernel) ForgetHalfOpen(addrs []netip.Addr) (int, error) {
	to := make(halfOpen, len(addrs))
	for _, a := range addrs {
		to[a] = struct{}{}
	}
	var count uint
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, to)
		if err != nil {
			return int(count), fmt.Errorf("delete from connection tracking: %w", err)
		}
		count += n
	}
	return int(count), nil
}

// halfOpen matches TCP connections to these addresses that have no answer yet and keep
// their client's address.
type halfOpen map[netip.Addr]struct{}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (h halfOpen) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	info, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	if !ok || loadbalancer.Protocol(flow.Forward.Protocol) != loadbalancer.TCP || info.State != synSent && info.State != synRecv {
		return false
	}
	if !flow.Reverse.DstIP.Equal(flow.Forward.SrcIP) {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	_, ours := h[to.Unmap()]
	return ok && ours
}
