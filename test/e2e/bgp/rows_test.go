// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// sessions are up, external to FRR and internal to BIRD, and everybody says so.
func sessions(b *bed) {
	b.established(b.frr, b.Nodes()...)
	b.established(b.bird, b.Nodes()...)
	for _, n := range b.Nodes() {
		for peer, asn := range map[string]int64{frrPeer: frrASN, birdPeer: nodesASN} {
			b.eventually(func(ctx context.Context) error {
				s, err := b.session(ctx, n, peer)
				if err == nil && (s.State != v1alpha1.BGPEstablished || s.ASN != asn || s.Since == nil) {
					err = fmt.Errorf("%s says %+v", n.Name(), s)
				}
				return err
			})
		}
	}
	b.eventually(func(ctx context.Context) error {
		p, err := b.peer(ctx, frrPeer)
		if err != nil {
			return err
		}
		ready, why := harness.Condition(p.Status.Conditions, v1alpha1.ConditionReady)
		if p.Status.Nodes != 3 || p.Status.Established != 3 || ready != metav1.ConditionTrue {
			err = fmt.Errorf("BGPPeer says %+v (%s)", p.Status, why)
		}
		return err
	})
}

// peer by its name.
func (b *bed) peer(ctx context.Context, name string) (*v1alpha1.BGPPeer, error) {
	return b.API().BGPPeers().Get(ctx, name, metav1.GetOptions{})
}

// equalPaths has every node tell a Cluster Service's addresses, of both families, and
// packets reach all of them.
func equalPaths(b *bed) {
	nodes := b.Nodes()
	b.paths(b.frr, web, nodes, func(p *routers.Path) error {
		if !slices.Equal(p.ASPath, []uint32{nodesASN}) || p.NextHop != p.From {
			return errors.New("AS path or next hop")
		}
		return nil
	})
	// IPv6 over the session of IPv4: the next hop is the node's own address, never a mapped one.
	for i, p := range b.paths(b.frr, web6, nodes, nil) {
		if p.NextHop != nodes[i].IPv6() {
			b.t.Errorf("FRR has %s by %s with next hop %s, want %s", web6, nodes[i].Name(), p.NextHop, nodes[i].IPv6())
		}
	}
	b.paths(b.bird, web, nodes, func(p *routers.Path) error {
		if len(p.ASPath) > 0 || p.LocalPref != 100 {
			return errors.New("AS path or local preference")
		}
		return nil
	})
	b.kernel(web, alike(nodes...))
	b.kernel(web6, alike(nodes...))
	for _, prefix := range []struct {
		name string
		got  map[string]int
	}{{"IPv4", b.spread(web, 90)}, {"IPv6", b.spread(web6, 90)}} {
		b.t.Logf("%s: 90 flows reached %v", prefix.name, prefix.got)
		if len(prefix.got) != len(nodes) {
			b.t.Errorf("%s reached %v, want every node", prefix.name, prefix.got)
		}
	}
	// Nothing is imported.
	for _, n := range nodes {
		b.must(n.Do(func() error { return noRoute("203.0.113.0/24") }))
	}
	b.eventually(func(ctx context.Context) error {
		r, err := b.API().LoadBalancers(rigNamespace).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s, why := harness.Condition(r.Status.Conditions, v1alpha1.ConditionAnnounced); s != metav1.ConditionTrue {
			return fmt.Errorf("Announced is %s (%s)", s, why)
		}
		return nil
	})
}

const attributed = `
apiVersion: fairlead.dev/v1alpha1
kind: Community
metadata: {name: site}
spec: {communities: [{name: customers, value: "64512:100"}, {name: everywhere, value: "large:64512:9:9"}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: said}
spec:
  ipAddressPools: [said]
  localPref: 150
  med: 7
  asPathPrepend: 2
  communities: [customers, everywhere, no-export, "65000:1", "large:65000:1:2", "target:65000:7", "origin:65000:8"]
  serviceOverrides: [med, asPathPrepend, communities]
---
apiVersion: v1
kind: Service
metadata: {name: said, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.65"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
`

// attributes are what routes say, by the advertisement and by the Service.
func attributes(b *bed) {
	capture, err := routers.StartCapture(b.t.Context(), b.hosts[frrPeer], "eth0", b.Path("attributes.txt"))
	b.must(err)
	b.apply(attributed)
	communities := []string{"64512:100", "64512:9:9", "65000:1", "65000:1:2", "65535:65281", "ro:65000:8", "rt:65000:7"}
	b.paths(b.frr, said, b.Nodes(), func(p *routers.Path) error {
		if p.MED != 7 || !slices.Equal(p.ASPath, []uint32{nodesASN, nodesASN, nodesASN}) || !slices.Equal(p.Communities, communities) {
			return fmt.Errorf("want MED 7, three times the AS number and %v", communities)
		}
		return nil
	})
	b.paths(b.bird, said, b.Nodes(), func(p *routers.Path) error {
		if p.MED != 7 || p.LocalPref != 150 || len(p.ASPath) > 0 || !slices.Equal(p.Communities, communities) {
			return fmt.Errorf("want MED 7, local preference 150, no AS path and %v", communities)
		}
		return nil
	})
	update := ""
	b.eventually(func(context.Context) (err error) { // tcpdump prints a moment later
		update, err = capture.Update(said.String())
		return err
	})
	b.must(capture.Stop())
	b.t.Logf("the UPDATE that FRR got:\n%s", update)
	b.overridden(communities)
	b.kubectl("delete", "-n", rigNamespace, "service", "said")
	b.paths(b.frr, said, nil, nil)
	b.paths(b.bird, said, nil, nil)
}

// overridden is the Service with words of its own: what is left to it counts, the local
// preference is not.
func (b *bed) overridden(communities []string) {
	b.t.Helper()
	b.kubectl("annotate", "-n", rigNamespace, "service", "said", "fairlead.dev/bgp-med=9", "fairlead.dev/bgp-local-pref=300",
		"fairlead.dev/bgp-as-path-prepend=1", "fairlead.dev/bgp-communities=65000:3")
	communities = append(slices.Clone(communities), "65000:3")
	slices.Sort(communities)
	b.paths(b.frr, said, b.Nodes(), func(p *routers.Path) error {
		if p.MED != 9 || !slices.Equal(p.ASPath, []uint32{nodesASN, nodesASN}) || !slices.Equal(p.Communities, communities) {
			return fmt.Errorf("want MED 9, twice the AS number and %v", communities)
		}
		return nil
	})
	b.paths(b.bird, said, b.Nodes(), func(p *routers.Path) error {
		if p.MED != 9 || p.LocalPref != 150 || !slices.Equal(p.Communities, communities) {
			return fmt.Errorf("want MED 9, local preference 150 and %v", communities)
		}
		return nil
	})
	b.kubectl("patch", "bgpadvertisements.fairlead.dev", "said", "--type=merge", "-p", `{"spec":{"serviceOverrides":["localPref"]}}`)
	b.paths(b.bird, said, b.Nodes(), func(p *routers.Path) error {
		if p.MED != 7 || p.LocalPref != 300 {
			return errors.New("want MED 7, local preference 300")
		}
		return nil
	})
}

// localPolicy has nodes with endpoints alone tell a Local Service, with weights.
func localPolicy(b *bed) {
	n := b.Nodes()
	b.paths(b.frr, local, nil, nil)
	b.must(b.SetEndpoints(b.t.Context(), "local", n[0], n[0], n[0], n[1]))
	got := b.paths(b.frr, local, n[:2], nil)
	for i, want := range []string{"lb:375000", "lb:125000"} {
		if !slices.Contains(got[i].Communities, want) {
			b.t.Errorf("%s says %v, want %s", n[i].Name(), got[i].Communities, want)
		}
	}
	b.paths(b.bird, local, n[:2], nil)
	b.kernel(local, map[*node]int{n[0]: 3, n[1]: 1})
	const flows = 2000
	spread := b.spread(local, flows)
	share := float64(spread[n[0].Name()]) / flows
	b.t.Logf("3 endpoints beside 1: %d flows reached %v", flows, spread)
	if share < 0.70 || share > 0.80 {
		b.t.Errorf("%s has %.1f %% of the flows, want 75 %% within 5", n[0].Name(), share*100)
	}
	b.must(b.SetEndpoints(b.t.Context(), "local", n[0], n[0]))
	b.kernel(local, alike(n[0]))
	b.paths(b.frr, local, n[:1], nil)
	b.must(b.SetEndpoints(b.t.Context(), "local"))
	b.paths(b.frr, local, nil, nil)
	b.paths(b.bird, local, nil, nil)
}

// wrongASN has BIRD expect another AS number of one node: that session says so, and no
// other one notices.
func wrongASN(b *bed) {
	n, before := b.Nodes(), b.dropped()
	good := b.bird.Config()
	bad := good
	bad.Neighbors = slices.Clone(good.Neighbors)
	bad.Neighbors[2].ASN = 64999
	b.must(b.bird.Configure(b.t.Context(), bad))
	b.says(n[2], birdPeer, "WrongASN", "AS")
	b.paths(b.bird, web, n[:2], nil)
	b.must(b.bird.Configure(b.t.Context(), good))
	b.established(b.bird, n...)
	b.paths(b.bird, web, n, nil)
	b.undisturbed(before)
}

const passwordSecret = `
apiVersion: v1
kind: Secret
metadata: {name: bird, namespace: fairlead-system}
type: kubernetes.io/basic-auth
stringData: {username: "", password: %q}
`

// password is missing, comes, and changes: only the session that has it begins anew.
func password(b *bed) {
	before := b.dropped()
	b.kubectl("patch", "bgppeer", birdPeer, "--type=merge", "-p", `{"spec":{"passwordSecret":{"name":"bird"}}}`)
	b.says(b.Nodes()[1], birdPeer, "NoPassword", "bird")
	b.setPassword("first")
	b.apply(fmt.Sprintf(passwordSecret, "first"))
	b.established(b.bird, b.Nodes()...)
	b.setPassword("second")
	b.eventually(func(ctx context.Context) error {
		if err := routers.WantEstablished(ctx, b.bird, b.Nodes()[0].IPv4()); err == nil {
			return errors.New("the session is up with the old password")
		}
		return nil
	})
	b.apply(fmt.Sprintf(passwordSecret, "second"))
	b.established(b.bird, b.Nodes()...)
	b.kubectl("patch", "bgppeer", birdPeer, "--type=merge", "-p", `{"spec":{"passwordSecret":null}}`)
	b.setPassword("")
	b.established(b.bird, b.Nodes()...)
	b.paths(b.bird, web, b.Nodes(), nil)
	b.undisturbed(before)
}

func (b *bed) setPassword(word string) {
	b.t.Helper()
	c := b.bird.Config()
	c.Neighbors = slices.Clone(c.Neighbors)
	for i := range c.Neighbors {
		c.Neighbors[i].Password = word
	}
	b.must(b.bird.Configure(b.t.Context(), c))
}

const metallb = `
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: third, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64514, peerAddress: %q, holdTime: 30s, connectTime: 1s, ebgpMultiHop: true, bfdProfile: third}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: third, namespace: metallb-system}
spec: {receiveInterval: 300, transmitInterval: 400, detectMultiplier: 5, minimumTtl: 60}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: third, namespace: metallb-system}
spec: {communities: [{name: third, value: "64514:3"}]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: third, namespace: metallb-system}
spec: {ipAddressPools: [plain], peers: [third], communities: [third]}
`

// mirrored is a router that MetalLB's own kinds configure, in both versions that they have.
func mirrored(b *bed) {
	c := b.config(thirdPeer, thirdASN)
	for i := range c.Neighbors {
		c.Neighbors[i].MultiHop, c.Neighbors[i].BFD, c.Neighbors[i].Local = true, true, b.hosts[thirdPeer].IPv4()
	}
	third, err := routers.NewBIRD(b.hosts[thirdPeer], b.Path(""), "third", c)
	b.must(err)
	b.t.Cleanup(func() { _ = third.Close() })
	b.must(third.Start(b.t.Context()))
	b.apply(fmt.Sprintf(metallb, b.hosts[thirdPeer].IPv4()))
	b.established(third, b.Nodes()...)
	b.paths(third, web, b.Nodes(), func(p *routers.Path) error {
		if !slices.Contains(p.Communities, "64514:3") {
			return errors.New("want 64514:3")
		}
		return nil
	})
	// BFD over several hops, as the peer may be that far away.
	for _, n := range b.Nodes() {
		b.overHops(third, n, thirdPeer, routers.BFDSession{Interval: 300 * time.Millisecond, Timeout: 2 * time.Second})
	}
	for _, kind := range []string{"bgpadvertisement", "bgppeer", "bfdprofile", "community"} {
		b.kubectl("delete", "-n", "metallb-system", kind+".metallb.io", "third")
	}
	b.eventually(func(ctx context.Context) error {
		s, err := routers.SessionOf(ctx, third, b.Nodes()[0].IPv4())
		if err == nil && s.Established {
			err = errors.New("the session is still up")
		}
		return err
	})
	b.eventually(func(ctx context.Context) error {
		out, err := b.Plane().Kubectl(ctx, "", "get", "bgppeers.fairlead.dev,bfdprofiles.fairlead.dev", "-o", "name")
		if err == nil && strings.Contains(out, "third") {
			err = fmt.Errorf("a copy is left: %s", out)
		}
		return err
	})
}
