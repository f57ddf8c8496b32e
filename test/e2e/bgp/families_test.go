// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// six is a Service of both families, and whom it is told to.
const six = `
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: six}
spec: {addresses: [198.51.100.128/29, "2001:db8:98::/120"], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: six}
spec: {ipAddressPools: [six], peers: [%s]}
---
apiVersion: v1
kind: Service
metadata: {name: six, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.129,2001:db8:98::1"}}
spec: {type: LoadBalancer, selector: {app: none}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, protocol: UDP}]}
---
`

const overSix = `
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: frr6}
spec: {myASN: 64512, peerASN: 64513, peerAddress: %[1]q, connectTime: 1s, dualStackAddressFamily: true, ttlSecurityHops: 2, bfdProfile: hops}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: hops}
spec: {receiveInterval: 500, transmitInterval: 500, detectMultiplier: 3}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: bird6}
spec: {myASN: 64512, peerASN: 64512, peerAddress: %[2]q, connectTime: 1s, dualStackAddressFamily: true}
`

// frrSix is what FRR has in addition for the nodes' IPv6 addresses. It checks TTLs.
func (b *bed) frrSix() string {
	c := routers.Config{ASN: frrASN, RouterID: b.hosts[frrPeer].IPv4(), MaxPaths: 16}
	for _, n := range b.Nodes() {
		c.Neighbors = append(c.Neighbors, routers.Neighbor{Addr: n.IPv6(), ASN: nodesASN, ExtendedNextHop: true, TTLSecurity: true})
	}
	return c.FRR()
}

// families are sessions by IPv6 that carry both: routers get IPv4 routes by the nodes' IPv6
// addresses (RFC 8950), and forward by them. FRR checks that nodes are two hops away at most,
// and what checks TTLs is over several hops for its BFD, whatever their number.
func families(b *bed) {
	nodes, before := b.Nodes(), b.dropped()
	plain := b.bird.Config()
	conf := plain
	conf.Neighbors = slices.Clone(conf.Neighbors)
	head := fmt.Sprintf("router bgp %d\n", frrASN)
	on, off := b.frrSix()+head, head
	for _, n := range nodes {
		conf.Neighbors = append(conf.Neighbors, routers.Neighbor{Addr: n.IPv6(), ASN: nodesASN})
		on += fmt.Sprintf(" neighbor %[1]s ttl-security hops 2\n neighbor %[1]s bfd\n", n.IPv6())
		off += fmt.Sprintf(" no neighbor %s bfd\n", n.IPv6())
	}
	b.must(errors.Join(b.frr.Configure(b.t.Context(), on+"exit\n"), b.bird.Configure(b.t.Context(), conf)))
	b.apply(fmt.Sprintf(six, "frr6, bird6") + fmt.Sprintf(overSix, b.hosts[frrPeer].IPv6(), b.hosts[birdPeer].IPv6()))
	for _, r := range []routers.Router{b.frr, b.bird} {
		for _, prefix := range []netip.Prefix{six4, six6} {
			for i, p := range b.paths(r, prefix, nodes, nil) {
				if p.NextHop != nodes[i].IPv6() {
					b.t.Errorf("%T has %s by %s with next hop %s, want %s", r, prefix, nodes[i].Name(), p.NextHop, nodes[i].IPv6())
				}
			}
		}
	}
	for _, prefix := range []netip.Prefix{six4, six6} {
		b.kernel(prefix, alike(nodes...))
		got := b.spread(prefix, 60)
		b.t.Logf("%s by IPv6 next hops: 60 flows reached %v", prefix, got)
		if len(got) != len(nodes) {
			b.t.Errorf("%s reached %v, want every node", prefix, got)
		}
	}
	b.paths(b.bird, web, nodes, nil) // the other sessions' routes are theirs
	for _, n := range nodes {
		b.eventually(func(ctx context.Context) error {
			all, err := b.frrBFD(ctx)
			s, serr := b.now(ctx, n, "frr6")
			up := slices.ContainsFunc(all, func(w frrWatch) bool { return w.Peer == n.IPv6() && w.MultiHop && w.Status == "up" })
			if err = errors.Join(err, serr); err == nil && (!up || s.BFD != "Up") {
				err = fmt.Errorf("FRR says %+v, %s says %+v", all, n.Name(), s)
			}
			return err
		})
	}
	b.kubectl("delete", "bgppeer", "frr6", "bird6")
	b.paths(b.frr, six4, nil, nil)
	b.paths(b.bird, six6, nil, nil)
	b.must(errors.Join(b.bird.Configure(b.t.Context(), plain), b.frr.Configure(b.t.Context(), off+"exit\n")))
	b.undisturbed(before)
}

const selecting = `
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: together, labels: {told: together}}
spec: {addresses: [198.51.100.192/26, "2001:db8:97::/120"], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: chosen}
spec: {addresses: [198.51.100.136/29], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: together}
spec:
  ipAddressPoolSelectors: [{matchLabels: {told: together}}]
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n001}}, {matchLabels: {kubernetes.io/hostname: n002}}]
  peers: [frr]
  aggregationLength: 26
  aggregationLengthV6: 120
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: chosen-a}
spec: {ipAddressPools: [chosen], serviceSelectors: [{matchLabels: {tell: "yes"}}], peers: [frr, bird], med: 5, communities: ["65000:1"]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: chosen-b}
spec: {ipAddressPools: [chosen], serviceSelectors: [{matchLabels: {tell: "yes"}}], peers: [frr, bird], med: 6, communities: ["65000:2"]}
---
apiVersion: v1
kind: Service
metadata: {name: together1, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.193,2001:db8:97::1"}}
spec: {type: LoadBalancer, selector: {app: none}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: together2, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.194,2001:db8:97::2"}}
spec: {type: LoadBalancer, selector: {app: none}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.195"}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: chosen, namespace: rig, labels: {tell: "yes"}, annotations: {fairlead.dev/addresses: "198.51.100.137"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: passed-over, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.138"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
`

// selectors are whose addresses are told, by whom, to whom, and how many at once.
func selectors(b *bed) {
	n := b.Nodes()
	b.must(b.SetEndpoints(b.t.Context(), "alone", n[0], n[2]))
	b.apply(selecting)
	for _, want := range []struct {
		field  string
		prefix string
		at     []routers.Router
		nodes  []*node
	}{
		{"aggregationLength of Cluster Services, ipAddressPoolSelectors, nodeSelectors", "198.51.100.192/26", []routers.Router{b.frr}, n[:2]},
		{"aggregationLengthV6", "2001:db8:97::/120", []routers.Router{b.frr}, n[:2]},
		{"an address of an aggregate", "198.51.100.193/32", []routers.Router{b.frr, b.bird}, nil},
		{"an address of an aggregate", "2001:db8:97::1/128", []routers.Router{b.frr, b.bird}, nil},
		{"a Local Service is no part of an aggregate, and told where it is served", "198.51.100.195/32", []routers.Router{b.frr}, n[:1]},
		{"peers", "198.51.100.192/26", []routers.Router{b.bird}, nil},
		{"serviceSelectors", "198.51.100.137/32", []routers.Router{b.frr, b.bird}, n},
		{"serviceSelectors", "198.51.100.138/32", []routers.Router{b.frr, b.bird}, nil},
	} {
		for _, r := range want.at {
			b.t.Logf("%s: %s", want.field, want.prefix)
			b.paths(r, netip.MustParsePrefix(want.prefix), want.nodes, nil)
		}
	}
	// Of two that contradict each other the one whose name comes first counts, and it is told.
	for _, r := range []routers.Router{b.frr, b.bird} {
		b.paths(r, netip.MustParsePrefix("198.51.100.137/32"), n, func(p *routers.Path) error {
			if p.MED != 5 || !slices.Equal(p.Communities, []string{"65000:1", "65000:2"}) {
				return errors.New("want MED 5 and the communities of both")
			}
			return nil
		})
	}
	b.eventually(func(ctx context.Context) error {
		ad, err := b.API().BGPAdvertisements().Get(ctx, "chosen-b", metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready, why := harness.Condition(ad.Status.Conditions, v1alpha1.ConditionReady)
		if ready != metav1.ConditionFalse || why != reason.ConflictingAdvertisements.String() {
			err = fmt.Errorf("BGPAdvertisement chosen-b is ready %s (%s)", ready, why)
		}
		return err
	})
	b.kubectl("delete", "-n", rigNamespace, "service", "together1", "together2", "alone", "chosen", "passed-over")
	b.paths(b.frr, netip.MustParsePrefix("198.51.100.192/26"), nil, nil)
	b.paths(b.frr, netip.MustParsePrefix("198.51.100.195/32"), nil, nil)
	b.kubectl("delete", "bgpadvertisements.fairlead.dev", "together", "chosen-a", "chosen-b")
}
