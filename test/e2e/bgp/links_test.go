// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const door = `
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: door}
spec: {myASN: 64512, peerASN: 64513, peerAddress: %q, passive: true, dualStackAddressFamily: true, ttlSecurityHops: 1}
`

// passive are sessions that FRR begins, with the nodes that are allowed to listen. BIRD begins
// one among the fields, where there is also a peer that no node is allowed to listen for.
func passive(b *bed) {
	n, before := b.Nodes(), b.dropped()
	b.overlay()
	b.must(b.frr.Configure(b.t.Context(), b.frrSix()))
	b.undone("delete", "bgppeer", "door", "--ignore-not-found")
	b.apply(fmt.Sprintf(six, "door") + fmt.Sprintf(door, b.hosts[frrPeer].IPv6()))
	for _, prefix := range []netip.Prefix{six4, six6} {
		b.paths(b.frr, prefix, n[:2], nil)
		b.kernel(prefix, alike(n[:2]...))
		got := b.spread(prefix, 30)
		b.t.Logf("%s by nodes that FRR connected to: 30 flows reached %v", prefix, got)
		if len(got) != 2 || got[n[2].Name()] > 0 {
			b.t.Errorf("%s reached %v, want both nodes that listen", prefix, got)
		}
	}
	for _, node := range n[:2] {
		s, err := routers.SessionOf(b.t.Context(), b.frr, node.IPv6())
		if b.must(err); s.Port != 179 {
			b.t.Errorf("FRR did not connect to %s: %+v", node.Name(), s)
		}
	}
	b.says(n[2], "door", "PassiveNotEnabled", "bgp-listen")
	b.undisturbed(before)
	b.kubectl("delete", "bgppeer", "door")
	b.paths(b.frr, six4, nil, nil)
}

// overlay is what agents are deployed with that may listen.
func (b *bed) overlay() {
	b.t.Helper()
	dir := filepath.Join("..", "..", "..", "deploy", "kustomize", "overlays", "bgp-listen")
	for doc := range strings.SplitSeq(b.kubectl("kustomize", dir), "\n---\n") {
		var d appsv1.DaemonSet
		if yaml.Unmarshal([]byte(doc), &d) != nil || d.Kind != "DaemonSet" {
			continue
		}
		c := d.Spec.Template.Spec.Containers[0]
		if !slices.Contains(c.Args, listenArg) || !slices.Contains(c.SecurityContext.Capabilities.Add, corev1.Capability("NET_BIND_SERVICE")) {
			b.t.Errorf("the overlay has arguments %q and capabilities %q", c.Args, c.SecurityContext.Capabilities.Add)
		}
		return
	}
	b.t.Errorf("the overlay has no DaemonSet")
}

const withoutAddress = `
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: cable}
spec: {myASN: 64512, dynamicASN: external, interface: fab0, connectTime: 1s}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: no-cable}
spec: {myASN: 64512, dynamicASN: external, interface: fab1, connectTime: 1s}
`

// birdLink has BIRD advertise itself on a link and take whoever it finds there.
const birdLink = `
protocol radv { interface "swp3" { min ra interval 3; max ra interval 4; default lifetime 30; }; }
protocol bgp swp3 {
  local as 64517; neighbor range fe80::/10 external; interface "swp3"; direct; hold time 30;
  error wait time 1,2; error forget time 10;
  ipv4 { import all; export none; extended next hop on; };
  ipv6 { import all; export none; };
}
`

// unnumbered are routers without an address, by a cable to each node: two of FRR's, one of
// BIRD's. IPv4 packets go by IPv6 next hops that nobody configured.
func unnumbered(b *bed) {
	n, before := b.Nodes(), b.dropped()
	frr, bird := b.cable(n[0], frrPeer, "swp1"), b.cable(n[2], birdPeer, "swp3")
	frrs := []netip.Addr{frr, b.cable(n[1], frrPeer, "swp2")}
	plain := b.bird.Config()
	conf := plain
	conf.Lines += birdLink
	on, off := frrLinks("swp1", "swp2")
	b.must(errors.Join(b.frr.Configure(b.t.Context(), on), b.bird.Configure(b.t.Context(), conf)))
	b.t.Cleanup(func() {
		ctx := context.WithoutCancel(b.t.Context())
		b.must(errors.Join(b.frr.Configure(ctx, off), b.bird.Configure(ctx, plain)))
	})
	b.undone("delete", "bgppeer", "cable", "no-cable")
	b.apply(fmt.Sprintf(six, "cable") + withoutAddress)
	for _, prefix := range []netip.Prefix{six4, six6} {
		b.pathsBy(b.frr, prefix, frrs)
		b.kernelBy(frrPeer, prefix, frrs)
		b.pathsBy(b.bird, prefix, []netip.Addr{bird})
		b.kernelBy(birdPeer, prefix, []netip.Addr{bird})
		got := b.spread(prefix, 30)
		name, err := b.askFrom(b.hosts[birdPeer], prefix, 2*time.Second)
		b.must(err)
		b.t.Logf("%s by cables without addresses: 30 flows reached %v, one of BIRD's %s", prefix, got, name)
		if len(got) != 2 || got[n[2].Name()] > 0 || name != n[2].Name() {
			b.t.Errorf("%s reached %v and %s, want the nodes at the other ends", prefix, got, name)
		}
	}
	sessions, err := b.frr.Sessions(b.t.Context())
	b.must(err)
	for i, link := range []string{"swp1", "swp2"} {
		if !slices.ContainsFunc(sessions, func(s routers.Session) bool {
			return s.Name == link && s.Neighbor.WithZone("") == frrs[i] && s.Established && s.ASN == nodesASN
		}) {
			b.t.Errorf("FRR's sessions are %+v, want one with %s on %s", sessions, frrs[i], link)
		}
	}
	b.says(n[0], "no-cable", "NotEstablished", "no link fab1")
	b.undisturbed(before)
}

// cable connects a node's fab0 with a router until the part ends, and returns the node's
// address there.
func (b *bed) cable(n *node, peer, far string) netip.Addr {
	b.t.Helper()
	b.must(b.Cable(n, "fab0", b.hosts[peer], far))
	b.t.Cleanup(func() { b.must(n.Disconnect("fab0")) })
	at, err := n.LinkLocal("fab0")
	b.must(err)
	return at
}

// frrLinks is what FRR has in addition for neighbours that are known by their links, and how
// it is taken away.
func frrLinks(links ...string) (on, off string) {
	family := ""
	for _, l := range links {
		on += fmt.Sprintf(" neighbor %[1]s interface remote-as external\n neighbor %[1]s timers connect 1\n", l)
		off += fmt.Sprintf(" no neighbor %s interface\n", l)
		family += fmt.Sprintf("  neighbor %s activate\n", l)
	}
	for _, f := range []string{"ipv4", "ipv6"} {
		on += fmt.Sprintf(" address-family %s unicast\n%s exit-address-family\n", f, family)
	}
	head := fmt.Sprintf("router bgp %d\n", frrASN)
	return head + on + "exit\n", head + off + "exit\n"
}

// pathsBy waits until a router has a path by each of some addresses, and no other.
func (b *bed) pathsBy(r routers.Router, prefix netip.Prefix, by []netip.Addr) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error {
		all, err := r.Paths(ctx, prefix)
		if err != nil {
			return err
		}
		var from []netip.Addr
		for i := range all {
			from = append(from, all[i].From.WithZone(""))
			if hop := all[i].NextHop; hop.IsValid() && hop.WithZone("") != from[i] {
				return fmt.Errorf("%s by %s with next hop %s", prefix, from[i], hop)
			}
		}
		return same(fmt.Sprintf("%s of %T", prefix, r), from, by)
	})
}

// kernelBy waits until a router's kernel has next hops with these addresses and no others.
func (b *bed) kernelBy(peer string, prefix netip.Prefix, by []netip.Addr) {
	b.t.Helper()
	b.eventually(func(context.Context) error {
		all, err := routers.Kernel(b.hosts[peer])
		if err != nil {
			return err
		}
		var via []netip.Addr
		for _, h := range all[prefix] {
			via = append(via, h.Via)
		}
		return same(fmt.Sprintf("%s in the kernel of %s", prefix, peer), via, by)
	})
}

// same compares addresses in any order.
func same(what string, got, want []netip.Addr) error {
	got, want = slices.SortedFunc(slices.Values(got), netip.Addr.Compare), slices.SortedFunc(slices.Values(want), netip.Addr.Compare)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: by %v, want %v", what, got, want)
	}
	return nil
}
