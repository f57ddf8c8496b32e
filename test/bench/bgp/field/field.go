// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// NodesASN is the nodes' and BIRD's.
	NodesASN = 64512
	// FRRASN is FRR's.
	FRRASN = 64513
	// FRRPeer is the name of FRR's BGPPeer.
	FRRPeer = "frr"
	// BIRDPeer is the name of BIRD's.
	BIRDPeer = "bird"
	// Hold is the hold time that both sides offer unless told otherwise.
	Hold = 30 * time.Second
	// patience bounds what takes a second or two, on a busy machine.
	patience = 60 * time.Second
)

// Addresses of the Services.
//
//nolint:gochecknoglobals // constants of a type that Go has no constants of
var (
	// OnNodes is answered by the nodes themselves (UDP), each with its name.
	OnNodes = netip.MustParsePrefix("198.51.100.1/32")
	// Local is answered likewise, for a Service with the Local policy.
	Local = netip.MustParsePrefix("198.51.100.2/32")
	// OnPod is forwarded by every node to one pod, which answers (HTTP).
	OnPod = netip.MustParsePrefix("198.51.100.3/32")
	// First of the addresses that [Field.Grow] copies.
	First = netip.MustParseAddr("198.18.0.0")
)

const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: rig}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: few}
spec: {addresses: [198.51.100.0/26], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: many}
spec: {addresses: [198.18.0.0/17], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: few}
spec: {ipAddressPools: [few]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: many}
spec: {ipAddressPools: [many], nodeSelectors: [{matchLabels: {bench: tell}}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: fast}
spec: {receiveInterval: 50, transmitInterval: 50, detectMultiplier: 3}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: default}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: frr}
spec: {myASN: 64512, peerASN: 64513, peerAddress: %[1]s, holdTime: 30s, connectTime: 1s, dualStackAddressFamily: true}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: bird}
spec: {myASN: 64512, peerASN: 64512, peerAddress: %[2]s, holdTime: 30s, connectTime: 1s, dualStackAddressFamily: true}
---
apiVersion: v1
kind: Service
metadata: {name: nodes, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.1"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.2"}}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: none}, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: pod, namespace: rig, annotations: {fairlead.dev/addresses: "198.51.100.3"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: TCP}]}
---
apiVersion: v1
kind: Service
metadata: {name: many, namespace: rig, annotations: {fairlead.dev/addresses: "198.18.0.0"}}
spec: {type: LoadBalancer, selector: {app: none}, ports: [{port: 80, protocol: TCP}]}
`

// Options of a field.
type Options struct {
	// Root of the repository; Dir gets every file and must be empty.
	Root, Dir string
	Nodes     int
	AgentArgs []string
	Progress  io.Writer
}

// Field is the rig and what is around it. Its methods may not be called concurrently.
type Field struct {
	*rig.Rig

	o Options
	// FRRHost and BIRDHost are where the routers run; Client is behind FRR, Pod on the nodes'
	// network.
	FRRHost, BIRDHost, Client, Pod *rig.Host

	FRR  *routers.FRR
	BIRD *routers.BIRD

	prober string
	probes int
	// closers are what Stop closes, newest first.
	closers []io.Closer
	copies  *copies
	watch   BFD
}

// Start starts all and waits until both routers have every session and FRR's kernel every
// node. Call Stop also when it failed.
func Start(ctx context.Context, o Options) (*Field, error) {
	f := &Field{o: o}
	r, err := rig.Start(ctx, rig.Options{
		Root: o.Root, Dir: o.Dir, Nodes: o.Nodes, AgentArgs: o.AgentArgs, Progress: o.Progress,
		AgentProgram: os.Getenv("FAIRLEAD_AGENT"), ControllerProgram: os.Getenv("FAIRLEAD_CONTROLLER"),
	})
	f.Rig = r
	if err != nil {
		return f, fmt.Errorf("start the field: %w", err)
	}
	for _, step := range []func(context.Context) error{f.hosts, f.routers, f.backends, f.objects, f.Settled} {
		if err := step(ctx); err != nil {
			return f, fmt.Errorf("start the field: %w", err)
		}
	}
	return f, nil
}

func (f *Field) hosts(ctx context.Context) (err error) {
	for _, h := range []**rig.Host{&f.FRRHost, &f.BIRDHost, &f.Pod} {
		if *h, err = f.AddHost(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
	}
	if err := errors.Join(routers.Forward(f.FRRHost), routers.Forward(f.BIRDHost)); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if f.Client, err = f.AddBehind(f.FRRHost); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	f.prober = f.Path("fairlead-probe")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", f.prober, "./test/lab/probe") //nolint:gosec // a path of ours
	cmd.Dir, cmd.Env = f.o.Root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the prober: %w\n%s", err, out)
	}
	return nil
}

func (f *Field) routers(ctx context.Context) (err error) {
	if f.FRR, err = routers.NewFRR(f.FRRHost, f.o.Dir, "frr", f.config(f.FRRHost, FRRASN)); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	f.closers = append(f.closers, f.FRR)
	if f.BIRD, err = routers.NewBIRD(f.BIRDHost, f.o.Dir, "bird", f.config(f.BIRDHost, NodesASN)); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	f.closers = append(f.closers, f.BIRD)
	return errors.Join(f.FRR.Start(ctx), f.BIRD.Start(ctx))
}

func (f *Field) config(h *rig.Host, asn uint32) routers.Config {
	c := routers.Config{ASN: asn, RouterID: h.IPv4(), MaxPaths: 16, BFD: routers.BFD{Interval: 50 * time.Millisecond, Multiplier: 3}}
	for _, n := range f.Nodes() {
		c.Neighbors = append(c.Neighbors, routers.Neighbor{Addr: n.IPv4(), ASN: NodesASN, Hold: Hold})
	}
	return c
}

func (f *Field) objects(ctx context.Context) error {
	return f.Apply(ctx, fmt.Sprintf(objects, f.FRRHost.IPv4(), f.BIRDHost.IPv4()))
}

// Apply applies a manifest.
func (f *Field) Apply(ctx context.Context, manifest string) error {
	_, err := f.Plane().Kubectl(ctx, manifest, "apply", "-f", "-")
	return err //nolint:wrapcheck // says what it is
}

// PatchPeer changes the specification of a BGPPeer by a merge patch.
func (f *Field) PatchPeer(ctx context.Context, peer, spec string) error {
	_, err := f.Plane().Kubectl(ctx, "", "patch", "bgppeer", peer, "--type=merge", "-p", `{"spec":`+spec+`}`)
	return err //nolint:wrapcheck // says what it is
}

// BFD of the sessions with FRR, at both ends.
type BFD struct {
	// Profile is the BFDProfile, "" for none.
	Profile    string
	Interval   time.Duration
	Multiplier int
}

// Ways to watch a session.
//
//nolint:gochecknoglobals // constants of a type that Go has no constants of
var (
	NoBFD      = BFD{}
	FastBFD    = BFD{Profile: "fast", Interval: 50 * time.Millisecond, Multiplier: 3}
	DefaultBFD = BFD{Profile: "default", Interval: 300 * time.Millisecond, Multiplier: 3}
)

// Watch has FRR and the agents watch their sessions so, with this hold time, and waits until
// they do. Graceful restart is the nodes'.
func (f *Field) Watch(ctx context.Context, w BFD, hold time.Duration, graceful bool) error {
	profile := "null"
	lines := ""
	if w.Profile != "" {
		profile = fmt.Sprintf("%q", w.Profile)
		ms := w.Interval.Milliseconds()
		lines = fmt.Sprintf("bfd\n profile x\n  receive-interval %d\n  transmit-interval %d\n  detect-multiplier %d\n exit\nexit\n", ms, ms, w.Multiplier)
	}
	lines += fmt.Sprintf("router bgp %d\n", FRRASN)
	for _, n := range f.Nodes() {
		if w.Profile == "" {
			lines += fmt.Sprintf(" no neighbor %s bfd\n", n.IPv4())
			continue
		}
		lines += fmt.Sprintf(" neighbor %s bfd\n neighbor %s bfd profile x\n", n.IPv4(), n.IPv4())
	}
	err := f.PatchPeer(ctx, FRRPeer, fmt.Sprintf(`{"bfdProfile":%s,"holdTime":%q,"enableGracefulRestart":%v}`, profile, hold, graceful))
	if err == nil {
		err = f.PatchPeer(ctx, BIRDPeer, fmt.Sprintf(`{"enableGracefulRestart":%v}`, graceful))
	}
	if err == nil {
		err = f.FRR.Configure(ctx, lines+"exit\n")
	}
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	f.watch = w
	return f.watched(ctx, w, hold)
}

// Stop ends everything.
func (f *Field) Stop() error {
	var errs []error
	for _, c := range slices.Backward(f.closers) {
		errs = append(errs, c.Close())
	}
	if f.Rig != nil {
		errs = append(errs, f.Rig.Stop())
	}
	return errors.Join(errs...)
}
