// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// maxHosts that the addresses have room for.
const maxHosts = 7

// Host is a machine on the bridge that is no node and runs nothing of itself.
type Host struct {
	ns       *namespace
	ip4, ip6 netip.Prefix
	// behind are the networks that it is the router of.
	behind []netip.Prefix
}

// AddHost plugs one in, with addresses of the nodes' network.
func (r *Rig) AddHost() (*Host, error) {
	i := len(r.hosts)
	if i >= maxHosts {
		return nil, fmt.Errorf("add a host: there is room for %d", maxHosts)
	}
	h := &Host{
		ip4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 30, 0, byte(i + 3)}), gateway4.Bits()),
		ip6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x30, 15: byte(i + 3)}), gateway6.Bits()),
	}
	var err error
	if h.ns, err = newNamespace(); err != nil {
		return nil, fmt.Errorf("add a host: %w", err)
	}
	r.hosts = append(r.hosts, h)
	mac := MAC{2, 0xfa, 0xff, 0, 1, byte(i)}
	if err := r.bridge.plug(h.ns, fmt.Sprintf("h%d", i), mac, h.ip4, h.ip6); err != nil {
		return nil, fmt.Errorf("add a host: %w", err)
	}
	return h, nil
}

// Do calls f on a thread that is in the host's network. Sockets that f opens stay there.
func (h *Host) Do(f func() error) error { return h.ns.do(f) }

// IPv4 of the host.
func (h *Host) IPv4() netip.Addr { return h.ip4.Addr() }

// IPv6 of the host.
func (h *Host) IPv6() netip.Addr { return h.ip6.Addr() }

// Enter moves the calling thread into the host's network, for programs that run there.
func (h *Host) Enter() error { return h.ns.enter() }

// behindBits is the length of the prefix of a network behind a host.
const behindBits = 24

// AddBehind makes a machine that has no port on the bridge but a cable to a host, which is
// its router. Nodes send what is for it to that host; a node that is added or switched on
// later does not, until [Host.Back] is called.
func (r *Rig) AddBehind(router *Host) (*Host, error) {
	i := len(r.hosts)
	if i >= maxHosts {
		return nil, fmt.Errorf("add a host: there is room for %d", maxHosts)
	}
	at := func(last byte) (v4, v6 netip.Prefix) {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 31, byte(i), last}), behindBits), //nolint:gosec // at most 7
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x31, 5: byte(i), 15: last}), gateway6.Bits()) //nolint:gosec // at most 7
	}
	h := &Host{}
	h.ip4, h.ip6 = at(2)
	near4, near6 := at(1)
	router.behind = append(router.behind, near4.Masked(), near6.Masked())
	var err error
	if h.ns, err = newNamespace(); err != nil {
		return nil, fmt.Errorf("add a host: %w", err)
	}
	r.hosts = append(r.hosts, h)
	port := fmt.Sprintf("b%d", i)
	err = router.ns.links(func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: eth0, PeerNamespace: netlink.NsFd(int(h.ns.file.Fd()))}); err != nil {
			return fmt.Errorf("add a cable: %w", err)
		}
		return configure(nl, port, near4, near6)
	})
	if err != nil {
		return nil, fmt.Errorf("add a host: %w", err)
	}
	err = h.ns.links(func(nl *netlink.Handle) error {
		return errors.Join(configure(nl, eth0, h.ip4, h.ip6),
			nl.RouteAdd(&netlink.Route{Gw: near4.Addr().AsSlice()}), nl.RouteAdd(&netlink.Route{Gw: near6.Addr().AsSlice()}))
	})
	if err != nil {
		return nil, fmt.Errorf("add a host: %w", err)
	}
	for _, n := range r.nodes {
		if err := router.Back(n); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Back makes a node send what is for the machines behind the host to it.
func (h *Host) Back(n *Node) error {
	return n.ns.links(func(nl *netlink.Handle) error {
		for _, p := range h.behind {
			via := h.ip4
			if p.Addr().Is6() {
				via = h.ip6
			}
			if err := nl.RouteReplace(&netlink.Route{Dst: ipNet(p), Gw: via.Addr().AsSlice()}); err != nil {
				return fmt.Errorf("route %s of %s: %w", p, n.name, err)
			}
		}
		return nil
	})
}

// Do calls f on a thread that is in the node's network. Sockets that f opens stay there.
func (n *Node) Do(f func() error) error { return n.ns.do(f) }

// Enter moves the calling thread into the node's network, for programs that run there
// beside the agent.
func (n *Node) Enter() error { return n.ns.enter() }

// PodRanges are the node's spec.podCIDRs; nothing here routes them.
func (n *Node) PodRanges() (v4, v6 netip.Prefix) {
	i := n.ip4.Addr().As4()[3]
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, i, 0}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x02, 3: 0x44, 7: i}), 64)
}

// PodRanges of all nodes together.
func PodRanges() (v4, v6 netip.Prefix) {
	return netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/56")
}

// Path is a file of this name in the rig's directory.
func (r *Rig) Path(name string) string { return r.path(name) }

// WriteKubeconfig writes NAME.kubeconfig into the rig's directory, for a program on a node
// that acts as a service account, and returns its path. A token may be bound to an object.
func (r *Rig) WriteKubeconfig(ctx context.Context, name, namespace, account string, bound *authenticationv1.BoundObjectReference) (string, error) {
	life := int64(tokenSeconds)
	token, err := r.Kube().CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &life, BoundObjectRef: bound},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	_, _, authority := r.plane.ServingPair()
	b, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "rig",
		"clusters": []any{map[string]any{"name": "rig", "cluster": map[string]any{
			"server":                fmt.Sprintf("https://%s:%d", gateway4.Addr(), relayPort),
			"certificate-authority": authority, "tls-server-name": "localhost",
		}}},
		"users":    []any{map[string]any{"name": name, "user": map[string]any{"token": token.Status.Token}}},
		"contexts": []any{map[string]any{"name": "rig", "context": map[string]any{"cluster": "rig", "user": name}}},
	})
	if err != nil {
		return "", fmt.Errorf("write the kubeconfig: %w", err)
	}
	path := r.path(name + ".kubeconfig")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return "", fmt.Errorf("write the kubeconfig: %w", err)
	}
	return path, nil
}

func (r *Rig) closeHosts() error {
	var errs []error
	for _, h := range r.hosts {
		errs = append(errs, h.ns.close())
	}
	return errors.Join(errs...)
}
