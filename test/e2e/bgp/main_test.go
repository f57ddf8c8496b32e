// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// patience bounds what takes a second or two, on a busy machine.
	patience = 40 * time.Second
	// drain of the agents, shorter than the default to be seen in time.
	drain = 3 * time.Second

	nodesASN, frrASN, thirdASN = 64512, 64513, 64514

	// listenArg lets agents listen for routers.
	listenArg = "--bgp-listen-port=179"

	// Routers, by the name of their BGPPeer.
	frrPeer, birdPeer, thirdPeer = "frr", "bird", "third"
)

// The Services' addresses.
var (
	web   = netip.MustParsePrefix("198.51.100.1/32")
	web6  = netip.MustParsePrefix("2001:db8:99::1/128")
	local = netip.MustParsePrefix("198.51.100.2/32")
	said  = netip.MustParsePrefix("198.51.100.65/32")
	six4  = netip.MustParsePrefix("198.51.100.129/32")
	six6  = netip.MustParsePrefix("2001:db8:98::1/128")
)

const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: rig}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: plain}
spec: {addresses: [198.51.100.0/26, "2001:db8:99::/112"], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: said}
spec: {addresses: [198.51.100.64/26], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: plain}
spec: {ipAddressPools: [plain], peers: [frr, bird]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: frr}
spec:
  {myASN: 64512, peerASN: 64513, peerAddress: %[1]s, holdTime: 30s, connectTime: 1s, enableGracefulRestart: true, dualStackAddressFamily: true}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: bird}
spec:
  {myASN: 64512, peerASN: 64512, peerAddress: %[2]s, holdTime: 30s, connectTime: 1s, enableGracefulRestart: true, dualStackAddressFamily: true}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.1,2001:db8:99::1"}}
spec: {type: LoadBalancer, selector: {app: none}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.2"}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
`

// bed is a rig with routers.
type bed struct {
	*rig.Rig

	// t is of the part that runs, whole of all of them.
	t, whole *testing.T
	// hosts of the routers, by peer; client is behind FRR.
	hosts  map[string]*rig.Host
	client *rig.Host
	// far is behind the third router's host.
	far  *rig.Host
	frr  *routers.FRR
	bird *routers.BIRD
	// echoes by node, who answer for every Service as pods would.
	echoes map[string]*echo
}

// TestBGP is one rig and everything that happens on it: its start is most of the cost.
// Parts run one after the other; the last one takes a node away for good. Those that ask the
// API for sessions come before those that do not: agents tell it calmly of many changes.
func TestBGP(t *testing.T) {
	runtime.LockOSThread() // servers die with the thread that started them
	b := start(t)
	for _, part := range []struct {
		name string
		run  func(b *bed)
	}{
		{"sessions", sessions},
		{"equal paths", equalPaths},
		{"families", families},
		{"attributes", attributes},
		{"selectors", selectors},
		{"fields", fields},
		{"local", localPolicy},
		{"wrong ASN", wrongASN},
		{"password", password},
		{"flood", flood},
		{"resets", resets},
		{"killed", killed},
		{"restarted", restarted},
		{"cordoned", cordoned},
		{"excluded", excluded},
		{"BFD", watched},
		{"restarted with BFD", restarted},
		{"hostile BFD", hostileBFD},
		{"power cut", powerCut},
		{"passive", passive},
		{"unnumbered", unnumbered},
		{"MetalLB", mirrored},
		{"left", left},
	} {
		t.Run(part.name, func(t *testing.T) {
			inner := *b
			inner.t = t
			began := time.Now()
			part.run(&inner)
			t.Logf("took %s", time.Since(began).Round(100*time.Millisecond))
		})
	}
}

func start(t *testing.T) *bed {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &bed{t: t, whole: t, hosts: map[string]*rig.Host{}, echoes: map[string]*echo{}}
	t.Cleanup(func() { showLogs(t, dir) })
	b.Rig, err = rig.Start(t.Context(), rig.Options{
		Root: root, Dir: dir, Nodes: 3, AgentArgs: []string{"--v=2", "--bgp-drain=" + drain.String()}, Progress: t.Output(),
		// Two nodes as the overlay bgp-listen has all of them, one as shipped.
		NodeArgs:     map[string][]string{"n001": {listenArg}, "n002": {listenArg}},
		AgentProgram: os.Getenv("FAIRLEAD_AGENT"), ControllerProgram: os.Getenv("FAIRLEAD_CONTROLLER"),
	})
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	b.must(err)
	for _, peer := range []string{frrPeer, birdPeer, thirdPeer} {
		h, err := b.AddHost()
		b.must(err)
		b.must(routers.Forward(h))
		b.hosts[peer] = h
	}
	b.client, err = b.AddBehind(b.hosts[frrPeer])
	b.must(err)
	b.far, err = b.AddBehind(b.hosts[thirdPeer])
	b.must(err)
	b.frr, err = routers.NewFRR(b.hosts[frrPeer], dir, "frr", b.config(frrPeer, frrASN))
	b.must(err)
	t.Cleanup(func() { _ = b.frr.Close() })
	b.bird, err = routers.NewBIRD(b.hosts[birdPeer], dir, "bird", b.config(birdPeer, nodesASN))
	b.must(err)
	t.Cleanup(func() { _ = b.bird.Close() })
	b.must(errors.Join(b.frr.Start(t.Context()), b.bird.Start(t.Context())))
	for _, n := range b.Nodes() {
		b.serve(n)
	}
	// The controller looks for MetalLB's kinds once a minute: it will have found them when
	// their part comes.
	b.kubectl("apply", "--server-side", "-k", filepath.Join("..", "..", "..", "deploy", "metallb-compat"))
	b.apply(fmt.Sprintf(objects, b.hosts[frrPeer].IPv4(), b.hosts[birdPeer].IPv4()))
	return b
}

// config of a router that all nodes are neighbours of.
func (b *bed) config(peer string, asn uint32) routers.Config {
	c := routers.Config{
		ASN: asn, RouterID: b.hosts[peer].IPv4(), MaxPaths: 16,
		BFD: routers.BFD{Interval: 100 * time.Millisecond, Multiplier: 3},
		// Nothing of what a router tells may reach a node's kernel.
		Origin: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
	}
	for _, n := range b.Nodes() {
		c.Neighbors = append(c.Neighbors, routers.Neighbor{Addr: n.IPv4(), ASN: nodesASN, Hold: 30 * time.Second})
	}
	return c
}

// showLogs prints the end of every log of a test that failed.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || !t.Failed() {
		return
	}
	if keep := os.Getenv("FAIRLEAD_KEEP_LOGS"); keep != "" {
		t.Log(os.CopyFS(keep, os.DirFS(dir)))
	}
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			t.Logf("the end of %s:\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
		}
	}
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) kubectl(args ...string) string {
	b.t.Helper()
	out, err := b.Plane().Kubectl(b.t.Context(), "", args...)
	b.must(err)
	return out
}

func (b *bed) apply(manifest string) {
	b.t.Helper()
	_, err := b.Plane().Kubectl(b.t.Context(), manifest, "apply", "-f", "-")
	b.must(err)
}

func (b *bed) eventually(check func(ctx context.Context) error) time.Duration {
	b.t.Helper()
	took, err := harness.Eventually(b.t.Context(), patience, check)
	b.must(err)
	return took
}

// session is what a node's agent says of one of its sessions in the API, which it does
// calmly: not every change is there at once.
func (b *bed) session(ctx context.Context, n *rig.Node, peer string) (v1alpha1.BGPSessionStatus, error) {
	a, err := b.API().NodeAgents().Get(ctx, n.Name(), metav1.GetOptions{})
	if err != nil {
		return v1alpha1.BGPSessionStatus{}, err
	}
	for _, s := range a.Status.BGP {
		if s.Peer == peer {
			return s, nil
		}
	}
	return v1alpha1.BGPSessionStatus{}, fmt.Errorf("%s says nothing of its session with %s", n.Name(), peer)
}

// now is what a node's agent says to who asks it, which is how it is at that moment. It
// knows the sessions that there are, not those that are refused.
type now struct {
	Peer    string
	Local   netip.Addr
	ASN     uint32
	State   v1alpha1.BGPSessionState
	Reason  string
	Message string
	BFD     string
	Flaps   int
}

func (b *bed) now(ctx context.Context, n *rig.Node, peer string) (now, error) {
	text, err := n.Get(ctx, "/debug/bgp")
	if err != nil {
		return now{}, err
	}
	var all struct{ Sessions []now }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return now{}, err
	}
	for _, s := range all.Sessions {
		if s.Peer == peer {
			return s, nil
		}
	}
	return now{}, fmt.Errorf("%s has no session with %s", n.Name(), peer)
}

// says waits until a node's agent gives a reason for a session that is not up.
func (b *bed) says(n *rig.Node, peer, reason string, words ...string) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error { return b.saysNow(ctx, n, peer, reason, words...) })
}

func (b *bed) saysNow(ctx context.Context, n *rig.Node, peer, reason string, words ...string) error {
	s, err := b.now(ctx, n, peer)
	if err != nil {
		// What is refused is in the API only.
		said, err := b.session(ctx, n, peer)
		if err != nil {
			return err
		}
		s = now{Peer: peer, State: said.State, Reason: said.Reason, Message: said.Message}
	}
	ok := s.Reason == reason && s.State != v1alpha1.BGPEstablished
	for _, w := range words {
		ok = ok && strings.Contains(s.Message, w)
	}
	if !ok {
		return fmt.Errorf("%s says of %s: %+v; want reason %s and %q", n.Name(), peer, s, reason, words)
	}
	return nil
}

// addresses of nodes.
func addresses(nodes []*rig.Node) []netip.Addr {
	out := make([]netip.Addr, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.IPv4())
	}
	return out
}

// established waits until a router has its sessions with nodes.
func (b *bed) established(r routers.Router, nodes ...*rig.Node) {
	b.t.Helper()
	b.eventually(func(ctx context.Context) error { return routers.WantEstablished(ctx, r, addresses(nodes)...) })
}

// paths waits until a router has one path by each of some nodes, and no other, that all
// pass a check, and returns them in the order of nodes.
func (b *bed) paths(r routers.Router, prefix netip.Prefix, nodes []*rig.Node, check func(p *routers.Path) error) []routers.Path {
	b.t.Helper()
	var out []routers.Path
	b.eventually(func(ctx context.Context) error {
		all, err := r.Paths(ctx, prefix)
		if err != nil {
			return err
		}
		if out, err = inOrder(all, nodes); err != nil {
			return fmt.Errorf("%s: %w", prefix, err)
		}
		if check == nil {
			return nil
		}
		for i := range out {
			if err := check(&out[i]); err != nil {
				return fmt.Errorf("%s by %s: %w: %+v", prefix, nodes[i].Name(), err, out[i])
			}
		}
		return nil
	})
	return out
}

func inOrder(all []routers.Path, nodes []*rig.Node) ([]routers.Path, error) {
	var out []routers.Path
	for _, n := range nodes {
		for i := range all {
			if all[i].From == n.IPv4() || all[i].From == n.IPv6() {
				out = append(out, all[i])
			}
		}
	}
	if len(out) != len(nodes) || len(all) != len(nodes) {
		return nil, fmt.Errorf("%d paths %+v, want one by each of %v", len(all), all, addresses(nodes))
	}
	return out, nil
}

// kernel waits until FRR's kernel has next hops with these weights relative to each other.
func (b *bed) kernel(prefix netip.Prefix, weights map[*rig.Node]int) {
	b.t.Helper()
	b.eventually(func(context.Context) error { return b.inKernel(prefix, weights) })
}

func (b *bed) inKernel(prefix netip.Prefix, weights map[*rig.Node]int) error {
	all, err := routers.Kernel(b.hosts[frrPeer])
	if err != nil {
		return err
	}
	hops, total, sum := all[prefix], 0, 0
	for _, h := range hops {
		total += h.Weight
	}
	for _, w := range weights {
		sum += w
	}
	wrong := len(hops) != len(weights)
	for n, w := range weights {
		found := false
		for _, h := range hops {
			if (h.Via == n.IPv4() || h.Via == n.IPv6()) && near(h.Weight*sum, w*total, sum+total) {
				found = true
			}
		}
		wrong = wrong || !found
	}
	if wrong {
		return fmt.Errorf("FRR's kernel has %s by %+v, want %s", prefix, hops, words(weights))
	}
	return nil
}

// near allows for the rounding of a router that counts weights in its own unit.
func near(a, b, tolerance int) bool { return a-b <= tolerance && b-a <= tolerance }

func words(weights map[*rig.Node]int) string {
	var out []string
	for n, w := range weights {
		out = append(out, fmt.Sprintf("%s:%d", n.IPv4(), w))
	}
	return strings.Join(out, " ")
}

// alike gives every node the same weight.
func alike(nodes ...*rig.Node) map[*rig.Node]int {
	out := map[*rig.Node]int{}
	for _, n := range nodes {
		out[n] = 1
	}
	return out
}
