// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// maxNodes that the addresses have room for.
const maxNodes = 200

// healthURL of every agent, on the loopback of its own namespace.
const healthURL = "http://127.0.0.1:7957"

// MAC is a hardware address.
type MAC [6]byte

// String is lower case with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Node is one node: a Node object, a network namespace and an agent.
type Node struct {
	r     *Rig
	name  string
	port  string
	mac   MAC
	ip4   netip.Prefix
	ip6   netip.Prefix
	ns    *namespace
	agent *plane.Process
}

// AddNode makes a node and starts its agent. It does not wait until the others see it;
// [Rig.WaitSettled] does.
func (r *Rig) AddNode(ctx context.Context) (*Node, error) {
	i := r.made
	r.made++
	n := &Node{
		r: r, name: fmt.Sprintf("n%03d", i+1), port: fmt.Sprintf("p%03d", i+1), mac: MAC{2, 0xfa, 0, 0, 0, byte(i + 1)}, //nolint:gosec // at most 200
		ip4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 30, 0, byte(i + 10)}), gateway4.Bits()),                     //nolint:gosec // at most 210
		ip6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x30, 14: 1, 15: byte(i + 10)}), gateway6.Bits()), //nolint:gosec // at most 210
	}
	if i >= maxNodes {
		return nil, fmt.Errorf("add a node: there is room for %d", maxNodes)
	}
	r.nodes = append(r.nodes, n)
	if err := n.plug(); err != nil {
		return nil, fmt.Errorf("add node %s: %w", n.name, err)
	}
	if err := r.createNode(ctx, n); err != nil {
		return nil, fmt.Errorf("add node %s: %w", n.name, err)
	}
	if err := r.writeIdentity(ctx, n); err != nil {
		return nil, fmt.Errorf("add node %s: %w", n.name, err)
	}
	return n, n.StartAgent(ctx)
}

// plug gives the node a fresh network.
func (n *Node) plug() error {
	var err error
	if n.ns, err = newNamespace(); err != nil {
		return err
	}
	if err := n.r.bridge.plug(n.ns, n.port, n.mac, n.ip4, n.ip6); err != nil {
		return err
	}
	if max(n.r.o.Nodes, len(n.r.nodes)) <= manyNodes {
		return nil
	}
	for _, peer := range n.r.nodes {
		if peer == n || peer.ns == nil {
			continue
		}
		if err := errors.Join(n.knows(peer), peer.knows(n)); err != nil {
			return err
		}
	}
	return nil
}

// knows makes a permanent neighbour entry, which does not count for the kernel's limit.
func (n *Node) knows(peer *Node) error {
	return n.ns.links(func(h *netlink.Handle) error {
		l, err := h.LinkByName(eth0)
		if err != nil {
			return fmt.Errorf("find %s of %s: %w", eth0, n.name, err)
		}
		err = h.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: peer.ip4.Addr().AsSlice(), HardwareAddr: peer.mac[:],
		})
		if err != nil {
			return fmt.Errorf("tell %s of %s: %w", n.name, peer.name, err)
		}
		return nil
	})
}

// Name of the Node object.
func (n *Node) Name() string { return n.name }

// MAC of the node's eth0.
func (n *Node) MAC() MAC { return n.mac }

// IPv4 is the node's InternalIP, for which its kernel answers.
func (n *Node) IPv4() netip.Addr { return n.ip4.Addr() }

// IPv6 is the node's other InternalIP.
func (n *Node) IPv6() netip.Addr { return n.ip6.Addr() }

// Agent is the process of the node's agent, the last one if it ended.
func (n *Node) Agent() *plane.Process { return n.agent }

// PowerCut takes the node from the network and kills its agent, in this order, because a
// node without power says no goodbye. It returns the instant before. The Node object stays
// Ready: nobody here would change it.
func (n *Node) PowerCut() (time.Time, error) {
	cut := time.Now()
	return cut, errors.Join(n.r.bridge.set(n.port, false), n.agent.Kill())
}

// PowerOn gives a node after PowerCut a fresh network, as a boot does, and starts its agent.
func (n *Node) PowerOn(ctx context.Context) error {
	if err := n.unplug(); err != nil {
		return err
	}
	if err := n.plug(); err != nil {
		return fmt.Errorf("boot %s: %w", n.name, err)
	}
	return n.StartAgent(ctx)
}

func (n *Node) unplug() error {
	err := errors.Join(n.r.bridge.unplug(n.port), n.ns.close())
	n.ns = nil
	return err
}

// LinkDown pulls the cable at the switch and returns the instant before.
func (n *Node) LinkDown() (time.Time, error) {
	cut := time.Now()
	return cut, n.r.bridge.set(n.port, false)
}

// LinkUp plugs it in again.
func (n *Node) LinkUp() error { return n.r.bridge.set(n.port, true) }

// Kill ends the agent with SIGKILL; the node stays.
func (n *Node) Kill() error { return n.agent.Kill() }

// Terminate ends the agent with SIGTERM and waits until it has ended, at most 15 s, after
// which it is killed.
func (n *Node) Terminate() error { return n.agent.Stop() }

// Pause stops the agent with SIGSTOP.
func (n *Node) Pause() error { return n.agent.Signal(syscall.SIGSTOP) }

// Continue lets the agent go on after Pause.
func (n *Node) Continue() error { return n.agent.Signal(syscall.SIGCONT) }

// RemoveNode deletes the Node object, ends the agent with SIGTERM, as a drained node's is,
// and removes the node from the network.
func (r *Rig) RemoveNode(ctx context.Context, n *Node) error {
	if err := r.deleteNode(ctx, n); err != nil {
		return err
	}
	err := n.destroy()
	for i, x := range r.nodes {
		if x == n {
			r.nodes = append(r.nodes[:i:i], r.nodes[i+1:]...)
			break
		}
	}
	return err
}

func (n *Node) destroy() error {
	var errs []error
	if n.agent != nil {
		errs = append(errs, n.agent.Stop())
	}
	if n.ns != nil {
		errs = append(errs, n.unplug())
	}
	return errors.Join(errs...)
}

// Get fetches a path of the agent's health server: /debug/state, /readyz.
func (n *Node) Get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = n.ns.do(func() error {
			c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, healthURL+path, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("ask the agent of %s: %w", n.name, err)
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the agent of %s: %w", n.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("ask the agent of %s: %s: %s", n.name, resp.Status, body)
	}
	return string(body), err
}

// Addresses returns the addresses on the node's eth0 besides its own two: those that an
// agent left there for the time of its restart.
func (n *Node) Addresses() ([]netip.Addr, error) {
	var out []netip.Addr
	err := n.ns.links(func(h *netlink.Handle) error {
		l, err := h.LinkByName(eth0)
		if err != nil {
			return fmt.Errorf("find %s of %s: %w", eth0, n.name, err)
		}
		list, err := h.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", n.name, err)
		}
		for i := range list {
			a, ok := netip.AddrFromSlice(list[i].IPNet.IP) //nolint:forbidigo // netlink gives it
			if a = a.Unmap(); ok && a != n.ip4.Addr() && a != n.ip6.Addr() && !a.IsLinkLocalUnicast() {
				out = append(out, a)
			}
		}
		return nil
	})
	return out, err
}
