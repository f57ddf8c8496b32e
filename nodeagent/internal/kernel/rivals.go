// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// linux/netfilter/nfnetlink.h and nf_tables.h: the group that is told of changes, the
// message that ends each transaction, and the question for the last one.
const (
	groupNFT    = 7          // NFNLGRP_NFTABLES
	newGen      = 10<<8 | 15 // NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
	getGen      = 10<<8 | 16 // NFT_MSG_GETGEN
	genID       = 1          // NFTA_GEN_ID
	sizeofNFGen = 4          // struct nfgenmsg
)

// NFTGeneration is the number of the last transaction that changed nftables, whoever's it
// was: as long as it stays, nothing of them changed. It is one request.
func (k *Kernel) NFTGeneration() (uint32, error) {
	req := nl.NewNetlinkRequest(getGen, 0)
	req.AddRawData(make([]byte, sizeofNFGen))
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, newGen)
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", err)
	}
	for _, m := range msgs {
		if len(m) < sizeofNFGen {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[sizeofNFGen:])
		if err != nil {
			return 0, fmt.Errorf("read the generation of nftables: %w", err)
		}
		if id := attributesOf(attrs)[genID]; len(id) == 4 {
			return binary.BigEndian.Uint32(id), nil
		}
	}
	return 0, errors.New("read the generation of nftables: it is not in the reply")
}

// WatchNFT calls notify after every transaction that changed nftables, our own included,
// until ctx ends, and once at the start; notify must not block. Whoever empties the table of
// virtual servers often begins so: kube-proxy's start does. It returns an error when the
// kernel cannot tell of changes. It needs CAP_NET_ADMIN.
func (k *Kernel) WatchNFT(ctx context.Context, notify func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables")
	defer func() { _ = f.Close() }() // nothing was written
	if err := subscribeNFT(fd); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) }) // cannot fail on a socket
	defer stop()
	klog.FromContext(ctx).V(4).Info("Watching nftables")
	notify()
	buf := make([]byte, 4096)
	for {
		_, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS), err == nil:
			notify()
		default:
			return fmt.Errorf("watch nftables: %w", err)
		}
	}
}

// subscribeNFT has the socket told of ends of transactions only: one transaction of
// kube-proxy's can have ten thousand messages before it.
func subscribeNFT(fd int) error {
	// The filter reads in network byte order what the kernel wrote in the machine's.
	kind := uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, newGen)))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // nlmsg_type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: kind, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 4096},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} //nolint:gosec // four
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach a filter: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupNFT - 1)}); err != nil {
		return fmt.Errorf("join the group: %w", err)
	}
	return nil
}

// LinkNames are the names of all links, sorted: what network plugins and kube-proxy call
// theirs tells of them.
func (k *Kernel) LinkNames() ([]string, error) {
	links, err := retry(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make([]string, 0, len(links))
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	slices.Sort(out)
	return out, nil
}
