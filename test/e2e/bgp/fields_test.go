// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// fieldsASN of the router that has a session for each field, localASN and otherASN what
	// some of them are of.
	fieldsASN, localASN, otherASN = 64515, 64598, 64599
	// knockPort is where a router listens that answers nobody.
	knockPort = 2179
)

// source is an address that n001 has besides its own.
var source = netip.MustParseAddr("10.30.0.240")

// field is one field of BGPPeer, in a session of its own between n001 and a BIRD.
type field struct {
	name string
	// spec is what the peer says besides its address, myASN and connectTime.
	spec string
	// at is the router's end of it.
	at routers.Neighbor
	// check what the router says, of the session and of the route to web, or web6.
	check func(s *routers.Session, p *routers.Path) error
}

// fieldTable is what is established.
func fieldTable(n *rig.Node) []field {
	ok := func(*routers.Session, *routers.Path) error { return nil }
	path := func(as ...uint32) func(*routers.Session, *routers.Path) error {
		return func(_ *routers.Session, p *routers.Path) error {
			if !slices.Equal(p.ASPath, as) {
				return fmt.Errorf("the AS path is %v, want %v", p.ASPath, as)
			}
			return nil
		}
	}
	four := routers.Neighbor{Addr: n.IPv4(), ASN: nodesASN}
	with := func(change func(r *routers.Neighbor)) routers.Neighbor {
		r := four
		change(&r)
		return r
	}
	return []field{
		{"node-selectors", "peerASN: 64515", four, path(nodesASN)},
		{"router-id", "peerASN: 64515, routerID: 192.0.2.77", four, func(s *routers.Session, _ *routers.Path) error {
			if s.RouterID != netip.MustParseAddr("192.0.2.77") {
				return fmt.Errorf("the router id is %s", s.RouterID)
			}
			return nil
		}},
		{"hold-time", "peerASN: 64515, holdTime: 9s, keepaliveTime: 1s, idleHoldTime: 4s", four, func(s *routers.Session, _ *routers.Path) error {
			if s.Hold != 9*time.Second {
				return fmt.Errorf("the hold time is %s", s.Hold)
			}
			return nil
		}},
		{
			"source", "peerASN: 64515, sourceAddress: " + source.String(), with(func(r *routers.Neighbor) { r.Addr = source }),
			func(_ *routers.Session, p *routers.Path) error {
				if p.NextHop != source {
					return fmt.Errorf("the next hop is %s", p.NextHop)
				}
				return nil
			},
		},
		{"port", "peerASN: 64515, peerPort: 1179", with(func(r *routers.Neighbor) { r.Port = 1179 }), ok},
		{"ttl-security", "peerASN: 64515, ttlSecurityHops: 1", with(func(r *routers.Neighbor) { r.TTLSecurity = true }), ok},
		{"password", "peerASN: 64515, password: word", with(func(r *routers.Neighbor) { r.Password = "word" }), ok},
		{"local-asn", "peerASN: 64515, localASN: 64598", with(func(r *routers.Neighbor) { r.ASN = localASN }), path(localASN, nodesASN)},
		{"external", "dynamicASN: external", with(func(r *routers.Neighbor) { r.LocalASN = otherASN }), path(nodesASN)},
		{"internal", "dynamicASN: internal", with(func(r *routers.Neighbor) { r.LocalASN = nodesASN }), path()},
		{"strict", "peerASN: 64515, bfdProfile: strict", four, ok},
		// Of another address: BIRD has one BFD session with each.
		{"quiet", "peerASN: 64515, bfdProfile: quiet, sourceAddress: " + source.String(), with(func(r *routers.Neighbor) { r.Addr = source }), ok},
		{"passive", "peerASN: 64515, passive: true, password: door", with(func(r *routers.Neighbor) { r.Connects, r.Password = true, "door" }), path(nodesASN)},
		{"disable-mp", "peerASN: 64515, disableMP: true, dualStackAddressFamily: true", four, path(nodesASN)},
		{"six", "peerASN: 64515", with(func(r *routers.Neighbor) { r.Addr = n.IPv6() }), func(_ *routers.Session, p *routers.Path) error {
			if p.NextHop != n.IPv6() {
				return fmt.Errorf("the next hop is %s", p.NextHop)
			}
			return nil
		}},
	}
}

// fieldHost gives the router an address for each session, and n001 its other one.
func (b *bed) fieldHost(rows []field) {
	b.t.Helper()
	for i := range rows {
		r := &rows[i].at
		if r.Name = "f" + strings.ReplaceAll(rows[i].name, "-", "_"); r.Addr.Is6() {
			r.Local = b.hosts[thirdPeer].IPv6()
			continue
		}
		r.Local = netip.AddrFrom4([4]byte{10, 30, 0, byte(220 + i)})
		b.must(b.hosts[thirdPeer].Do(func() error { return addAddress(r.Local) }))
	}
	b.must(b.Nodes()[0].Do(func() error { return addAddress(source) }))
}

// addAddress to eth0 of the calling thread's namespace.
func addAddress(a netip.Addr) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	to, err := netlink.ParseAddr(netip.PrefixFrom(a, 16).String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, to); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s: %w", to, err)
	}
	return nil
}

const fieldObjects = `
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: strict}
spec: {receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3, strict: true}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: quiet}
spec: {passiveMode: true, echoMode: true, echoInterval: 50}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: far}
spec: {receiveInterval: 300, transmitInterval: 400, detectMultiplier: 4, minimumTtl: 60}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: fields}
spec: {ipAddressPools: [plain], peers: [%s]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: racks, labels: {part: fields}}
spec:
  myASNFrom: {annotation: bgp.example.com/asn}
  peerASNFrom: {label: example.com/router-asn}
  peerAddressFrom: {label: example.com/router}
  connectTime: 1s
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: eager, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[2]s, peerPort: 2179, connectTime: 2s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n001}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: vrf, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[2]s, vrf: red, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n001}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: closed, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[2]s, passive: true, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n003}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: near, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[2]s, ttlSecurityHops: 1, connectTime: 1s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n002}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: far, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[3]s, ebgpMultiHop: true, bfdProfile: far, connectTime: 1s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n001}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: too-far, labels: {part: fields}}
spec: {myASN: 64512, peerASN: 64515, peerAddress: %[3]s, connectTime: 1s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n002}}]}
`

const fieldPeer = `---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: %s, labels: {part: fields}}
spec: {myASN: 64512, peerAddress: %q, %s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: n001}}]}
`

// fields of BGPPeer, each by what a router says of the session that has it.
func fields(b *bed) {
	n, before := b.Nodes(), b.dropped()
	rows := fieldTable(n[0])
	b.fieldHost(rows)
	many, far := b.fieldRouters(rows)
	knocks := b.knocks(b.hosts[thirdPeer])
	capture, err := routers.StartCapture(b.t.Context(), b.hosts[thirdPeer], "eth0", b.Path("fields.txt"))
	b.must(err)
	b.t.Cleanup(func() { _ = capture.Stop() })
	for i, node := range n[:2] {
		b.kubectl("label", "node", node.Name(), "example.com/router="+rackRouter(i).String(), "example.com/router-asn=64515")
		b.kubectl("annotate", "node", node.Name(), fmt.Sprintf("bgp.example.com/asn=%d", rackASN(i)))
	}
	names := []string{"racks", "far", "too-far", "near"}
	for _, r := range rows {
		names = append(names, r.name)
	}
	text := fmt.Sprintf(fieldObjects, strings.Join(names, ", "), b.hosts[thirdPeer].IPv4(), b.far.IPv4())
	for _, r := range rows {
		if spec := r.spec; r.at.Connects {
			text += fmt.Sprintf(fieldPeer, r.name, r.at.Local, spec)
		} else { // whoever waits for the router has no time between attempts
			text += fmt.Sprintf(fieldPeer, r.name, r.at.Local, spec+", connectTime: 1s")
		}
	}
	b.undone("delete", "bgppeer", "-l", "part=fields")
	b.apply(text)
	b.fieldsEstablished(many, rows)
	b.templates(many)
	b.strict(many, capture, rows)
	b.attempts(knocks)
	b.keepalives(capture, rows)
	b.idle(many)
	b.distance(many, far, capture) // those that cannot be have had their time
	b.refused()
	b.kubectl("delete", "bgpadvertisements.fairlead.dev", "fields")
	b.undisturbed(before)
}

func rackRouter(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 30, 0, byte(245 + i)}) }

func rackASN(i int) int { return 64611 + i }

// fieldRouters are the one on the nodes' network, which all rows are about, and one behind
// it. Each has a session with n002 that cannot be, for its TTL.
func (b *bed) fieldRouters(rows []field) (many, far *routers.BIRD) {
	b.t.Helper()
	n := b.Nodes()
	c := b.config(thirdPeer, fieldsASN)
	c.Neighbors = nil
	for _, r := range rows {
		c.Neighbors = append(c.Neighbors, r.at)
	}
	for i, node := range n[:2] {
		b.must(b.hosts[thirdPeer].Do(func() error { return addAddress(rackRouter(i)) }))
		c.Neighbors = append(c.Neighbors, routers.Neighbor{Name: fmt.Sprintf("rack%d", i), Addr: node.IPv4(), ASN: uint32(rackASN(i)), Local: rackRouter(i)})
	}
	c.Neighbors = append(c.Neighbors, routers.Neighbor{Name: "near", Addr: n[1].IPv4(), ASN: nodesASN, Local: b.hosts[thirdPeer].IPv4()})
	var err error
	many, err = routers.NewBIRD(b.hosts[thirdPeer], b.Path(""), "many", c)
	b.must(err)
	b.t.Cleanup(func() { _ = many.Close() })
	c = b.config(thirdPeer, fieldsASN)
	c.RouterID, c.Neighbors = b.far.IPv4(), nil
	gateway := b.far.IPv4().As4()
	gateway[3] = 1
	// By which the next hops are reached.
	c.Lines = fmt.Sprintf("protocol static { ipv4; route 10.30.0.0/16 via %s; }\n", netip.AddrFrom4(gateway))
	for i, node := range n[:2] {
		c.Neighbors = append(c.Neighbors, routers.Neighbor{Addr: node.IPv4(), ASN: nodesASN, Local: b.far.IPv4(), MultiHop: true, BFD: i == 0})
	}
	far, err = routers.NewBIRD(b.far, b.Path(""), "far", c)
	b.must(err)
	b.t.Cleanup(func() { _ = far.Close() })
	b.must(errors.Join(many.Start(b.t.Context()), far.Start(b.t.Context())))
	return many, far
}

// named waits until a BIRD has a session of this name, established, and its route.
func (b *bed) named(r *routers.BIRD, name string, prefix netip.Prefix, check func(s *routers.Session, p *routers.Path) error) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error {
		sessions, err := r.Sessions(ctx)
		if err != nil {
			return err
		}
		paths, err := r.Paths(ctx, prefix)
		if err != nil {
			return err
		}
		s := slices.IndexFunc(sessions, func(s routers.Session) bool { return s.Name == name })
		p := slices.IndexFunc(paths, func(p routers.Path) bool { return p.Session == name })
		if s < 0 || p < 0 || !sessions[s].Established {
			return fmt.Errorf("%s: session %+v, paths %+v", name, sessions[max(s, 0)], paths)
		}
		if err := check(&sessions[s], &paths[p]); err != nil {
			return fmt.Errorf("%s: %w (%+v, %+v)", name, err, sessions[s], paths[p])
		}
		return nil
	})
}

// fieldsEstablished checks all rows but the one that waits for BFD.
func (b *bed) fieldsEstablished(many *routers.BIRD, rows []field) {
	b.t.Helper()
	for _, r := range rows {
		if r.name == "strict" {
			continue
		}
		prefix := web
		if r.at.Addr.Is6() {
			prefix = web6
		}
		b.named(many, r.at.Name, prefix, r.check)
	}
	// The session by IPv6 carries IPv6 alone: dualStackAddressFamily is off.
	paths, err := many.Paths(b.t.Context(), web)
	b.must(err)
	if slices.ContainsFunc(paths, func(p routers.Path) bool { return p.Session == "fsix" }) {
		b.t.Errorf("the session by IPv6 carries %s: %+v", web, paths)
	}
	// disableMP is read, and changes nothing.
	b.named(many, "fdisable_mp", web6, func(*routers.Session, *routers.Path) error { return nil })
	b.eventually(func(ctx context.Context) error { // which AS number a peer of any has is said
		s, err := b.now(ctx, b.Nodes()[0], "external")
		if err == nil && s.ASN != otherASN {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

// templates of values that the Nodes have; one that has none is told so.
func (b *bed) templates(many *routers.BIRD) {
	b.t.Helper()
	for i := range 2 {
		b.named(many, fmt.Sprintf("rack%d", i), web, func(_ *routers.Session, p *routers.Path) error {
			if !slices.Equal(p.ASPath, []uint32{uint32(rackASN(i))}) {
				return fmt.Errorf("the AS path is %v", p.ASPath)
			}
			return nil
		})
	}
}

// distance of routers: the one behind another is reached by who may, and watched by BFD, and
// one on the link that does not send TTL 255, as it may be anywhere, is not heard.
func (b *bed) distance(many, far *routers.BIRD, capture *routers.Capture) {
	b.t.Helper()
	n := b.Nodes()
	b.named(far, "n1", web, func(_ *routers.Session, p *routers.Path) error {
		if p.NextHop != n[0].IPv4() {
			return fmt.Errorf("the next hop is %s", p.NextHop)
		}
		return nil
	})
	b.overHops(far, n[0], "far", routers.BFDSession{Interval: 300 * time.Millisecond, Timeout: 1600 * time.Millisecond})
	b.eventually(func(context.Context) error {
		single, err := capture.Packets(n[0].IPv4(), b.far.IPv4(), 3784)
		multi, merr := capture.Packets(n[0].IPv4(), b.far.IPv4(), 4784)
		if err = errors.Join(err, merr); err == nil && (single > 0 || multi == 0) {
			err = fmt.Errorf("on the way to the router behind another there are %d packets for port 3784 and %d for 4784", single, multi)
		}
		return err
	})
	for peer, r := range map[string]*routers.BIRD{"too-far": far, "near": many} {
		b.says(n[1], peer, "NotEstablished")
		sessions, err := r.Sessions(b.t.Context())
		b.must(err)
		for _, s := range sessions {
			if s.Neighbor == n[1].IPv4() && s.Established && s.Name != "rack1" {
				b.t.Errorf("%s: the router has %+v", peer, s)
			}
		}
	}
}

// strict has no session before BFD is up, quiet has one; but it does not begin with BFD.
func (b *bed) strict(many *routers.BIRD, capture *routers.Capture, rows []field) {
	b.t.Helper()
	n := b.Nodes()[0]
	at := func(name string) int { return slices.IndexFunc(rows, func(f field) bool { return f.name == name }) }
	b.says(n, "strict", "BFDDown", "strict")
	b.eventually(func(context.Context) error {
		loud, err := capture.Packets(n.IPv4(), rows[at("strict")].at.Local, 3784)
		quiet, qerr := capture.Packets(source, rows[at("quiet")].at.Local, 3784)
		if quiet > 0 {
			b.t.Errorf("in passiveMode the node began: %d packets", quiet)
		}
		if err = errors.Join(err, qerr); err == nil && loud == 0 {
			err = errors.New("no BFD packet was captured")
		}
		return err
	})
	paths, err := many.Paths(b.t.Context(), web)
	b.must(err)
	if slices.ContainsFunc(paths, func(p routers.Path) bool { return p.Session == "fstrict" }) {
		b.t.Errorf("before BFD is up there is %+v", paths)
	}
	c := many.Config()
	c.Neighbors = slices.Clone(c.Neighbors)
	c.Neighbors[at("strict")].BFD, c.Neighbors[at("quiet")].BFD = true, true
	b.must(many.Configure(b.t.Context(), c))
	b.named(many, "fstrict", web, func(*routers.Session, *routers.Path) error { return nil })
	b.eventually(func(ctx context.Context) error {
		s, err := b.now(ctx, n, "strict")
		q, qerr := b.now(ctx, n, "quiet")
		all, berr := many.BFD(ctx)
		up := 0
		for _, x := range all {
			if (x.Neighbor == n.IPv4() || x.Neighbor == source) && x.Up && !x.MultiHop {
				up++
			}
		}
		if err = errors.Join(err, qerr, berr); err == nil && (s.BFD != "Up" || q.BFD != "Up" || up != 2) {
			err = fmt.Errorf("the node says %+v and %+v, BIRD %+v", s, q, all)
		}
		return err
	})
}

// refused are peers that cannot be, and what of a profile cannot.
func (b *bed) refused() {
	b.t.Helper()
	n := b.Nodes()
	b.says(n[0], "vrf", "VRFNotSupported", "red")
	b.says(n[2], "racks", "InvalidPeer", "example.com/router")
	b.eventually(func(ctx context.Context) error {
		s, err := b.session(ctx, n[0], "quiet")
		if err == nil && (s.Reason != "FieldNotSupported" || !strings.Contains(s.Message, "echoMode")) {
			err = fmt.Errorf("of echoMode the node says %+v", s)
		}
		return err
	})
	b.eventually(func(ctx context.Context) error {
		p, err := b.peer(ctx, "closed")
		if err != nil {
			return err
		}
		if ready, why := harness.Condition(p.Status.Conditions, v1alpha1.ConditionReady); ready != metav1.ConditionFalse || why != "PassiveNotEnabled" {
			err = fmt.Errorf("BGPPeer closed is ready %s (%s)", ready, why)
		}
		return err
	})
	for peer, nodes := range map[string]int32{"node-selectors": 1, "source": 1, "racks": 3} {
		b.eventually(func(ctx context.Context) error {
			p, err := b.peer(ctx, peer)
			if err == nil && p.Status.Nodes != nodes {
				err = fmt.Errorf("BGPPeer %s says %+v, want %d nodes", peer, p.Status, nodes)
			}
			return err
		})
	}
}
