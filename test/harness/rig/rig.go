// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const (
	eth0 = "eth0"
	// GossipPort of the agents.
	GossipPort = 7956
	// manyNodes is the number from which on nodes know each other's hardware addresses:
	// the kernel has room for some thousand neighbours in all namespaces together, and a
	// machine of its own for a thousand, so that they would push each other out.
	manyNodes = 25
	// settleTimeout bounds the time until all agents see each other.
	settleTimeout = 2 * time.Minute
	// keepInterval is how often the key file and the controller are looked at.
	keepInterval = time.Second
)

// Options of a rig.
type Options struct {
	// Root of the repository.
	Root string
	// Dir gets every file that is written. It must exist and be empty.
	Dir string
	// Nodes is how many there are at the start, 1 to 200.
	Nodes int
	// AgentArgs come after those of the shipped manifest and override them; NodeArgs come after
	// them, by the name of the node: n001 and so on.
	AgentArgs []string
	NodeArgs  map[string][]string
	// AgentProgram and ControllerProgram, if set, are used in place of what is built from
	// the work tree.
	AgentProgram, ControllerProgram string
	// ControllerArgs come after those of the shipped manifest.
	ControllerArgs []string
	// Audit makes the API server log requests; see [plane.Plane.Requests].
	Audit bool
	// Plane, if set, is a control plane with a controller that runs already; it stays the
	// caller's.
	Plane *plane.Plane
	// Progress gets a line per step.
	Progress io.Writer
}

// Rig is a control plane, a network and nodes. Its methods may not be called concurrently,
// except those that only read, and those of different nodes.
type Rig struct {
	o       Options
	plane   *plane.Plane
	api     *client.Client
	bridge  *bridge
	relay   *relay
	client  *Client
	shipped []string
	nodes   []*Node
	hosts   []*Host
	made    int

	background context.CancelFunc
	wg         sync.WaitGroup

	mu sync.Mutex
	// controller that runs, stopped whether its end was asked for, crashes how often it
	// ended by itself; guarded by mu.
	controller *plane.Process
	stopped    bool
	crashes    int
}

// Start brings everything up and waits until every agent sees every other. Call Stop also
// when it failed.
func Start(ctx context.Context, o Options) (*Rig, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	r := &Rig{o: o}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return r, fmt.Errorf("start the rig: %d nodes, want 1 to %d", o.Nodes, maxNodes)
	}
	for _, step := range []func(context.Context) error{
		r.build, r.startPlane, r.startNetwork, r.startController, r.startNodes,
	} {
		if err := step(ctx); err != nil {
			return r, fmt.Errorf("start the rig: %w", err)
		}
	}
	_, _ = fmt.Fprintf(o.Progress, "rig: %d node agents see each other\n", o.Nodes)
	return r, nil
}

func (r *Rig) path(parts ...string) string {
	return filepath.Join(append([]string{r.o.Dir}, parts...)...)
}

func (r *Rig) startPlane(ctx context.Context) (err error) {
	if r.o.Plane != nil {
		r.plane = r.o.Plane
		if r.api, err = client.New(r.plane.Config()); err != nil {
			return err
		}
		return r.applyDaemonSet(ctx)
	}
	dir := r.path("plane")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	r.plane, err = plane.Start(ctx, plane.Options{
		Root: r.o.Root, Dir: dir, ControllerProgram: r.o.ControllerProgram,
		Audit: r.o.Audit, Progress: r.o.Progress,
	})
	if err != nil {
		return err
	}
	if r.api, err = client.New(r.plane.Config()); err != nil {
		return err
	}
	if err := r.plane.BuildController(ctx); err != nil {
		return err
	}
	return r.applyDaemonSet(ctx)
}

func (r *Rig) startNetwork(ctx context.Context) error {
	var err error
	if r.bridge, err = newBridge(ctx, GossipPort); err != nil {
		return err
	}
	if r.relay, err = newRelay(ctx, r.bridge.ns, netip.AddrPortFrom(gateway4.Addr(), relayPort), r.plane.Server()); err != nil {
		return err
	}
	r.client, err = newClient(r.bridge)
	return err
}

// startController also keeps the file with the gossip keys, and the controller, as kubelet
// would.
func (r *Rig) startController(ctx context.Context) error {
	if err := os.Mkdir(r.path("gossip"), 0o700); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if r.o.Plane == nil {
		if err := r.StartController(ctx); err != nil {
			return err
		}
	}
	if _, err := harness.Eventually(ctx, time.Minute, r.copyKeys); err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.background = stop
	r.wg.Go(func() {
		for harness.Pause(work, keepInterval) == nil {
			// The API server may be paused: tried again.
			_, _ = r.copyKeys(work), r.revive(work)
		}
	})
	return nil
}

// StartController starts the controller after StopController.
func (r *Rig) StartController(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = false
	return r.runController(ctx)
}

func (r *Rig) runController(ctx context.Context) (err error) {
	r.controller, err = r.plane.StartController(ctx, plane.ControllerOptions{Name: "controller", Args: r.o.ControllerArgs})
	return err
}

// StopController ends the controller with SIGTERM and leaves it ended.
func (r *Rig) StopController() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	return r.controller.Stop()
}

// revive starts a controller again that ended by itself: it does so when it cannot renew
// its lease, and its kubelet would start it.
func (r *Rig) revive(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.controller == nil || !r.controller.Ended() {
		return nil
	}
	r.crashes++
	return r.runController(ctx)
}

// Controller is the process of Fairlead's controller.
func (r *Rig) Controller() *plane.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.controller
}

// ControllerCrashes is how often the controller ended without being asked to, and was
// started again.
func (r *Rig) ControllerCrashes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.crashes
}

func (r *Rig) startNodes(ctx context.Context) error {
	for range r.o.Nodes {
		if _, err := r.AddNode(ctx); err != nil {
			return err
		}
	}
	return r.WaitSettled(ctx)
}

// Plane is the control plane; its server is paused and etcd restarted there.
func (r *Rig) Plane() *plane.Plane { return r.plane }

// Kube is the administrator's client of Kubernetes' own kinds.
func (r *Rig) Kube() kubernetes.Interface { return r.plane.Client() }

// API is the administrator's client of Fairlead's kinds.
func (r *Rig) API() *client.Client { return r.api }

// Client is a host on the bridge that is no node.
func (r *Rig) Client() *Client { return r.client }

// Nodes returns all nodes that were not removed, in the order in which they were added.
func (r *Rig) Nodes() []*Node { return slices.Clone(r.nodes) }

// ByMAC returns the name of the node with a hardware address, or the address.
func (r *Rig) ByMAC(mac MAC) string {
	for _, n := range r.nodes {
		if n.mac == mac {
			return n.name
		}
	}
	return mac.String()
}

// Err names the agents that ended without being asked to.
func (r *Rig) Err() error {
	var errs []error
	for _, n := range r.nodes {
		if n.agent != nil {
			errs = append(errs, n.agent.Err())
		}
	}
	return errors.Join(errs...)
}

// Partition drops everything between two sets of nodes, besides what is cut already. The
// client and the API server still reach both.
func (r *Rig) Partition(ctx context.Context, a, b []*Node) error {
	return r.bridge.cut(ctx, ports(a), ports(b))
}

// CutAPI drops what nodes send to the API server.
func (r *Rig) CutAPI(ctx context.Context, nodes ...*Node) error {
	return r.bridge.cutAPI(ctx, ports(nodes))
}

// Heal ends every partition.
func (r *Rig) Heal(ctx context.Context) error { return r.bridge.heal(ctx) }

func ports(nodes []*Node) []string {
	out := make([]string, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.port)
	}
	return out
}

// Traffic is what one node has sent since it was plugged in first.
type Traffic struct {
	// Gossip by UDP and TCP; Pulse is unicast ARP and neighbour discovery, the probes of
	// the agents and of the kernel alike; All includes the API server's clients.
	Gossip, Pulse, All Count
}

// Traffic reads what every node has sent, by node name.
func (r *Rig) Traffic(ctx context.Context) (map[string]Traffic, error) {
	sets := map[string]map[string]Count{"gossip": nil, "pulse": nil, "every": nil}
	for name := range sets {
		counts, err := r.bridge.counters(ctx, name)
		if err != nil {
			return nil, err
		}
		sets[name] = counts
	}
	out := map[string]Traffic{}
	for _, n := range r.nodes {
		out[n.name] = Traffic{Gossip: sets["gossip"][n.port], Pulse: sets["pulse"][n.port], All: sets["every"][n.port]}
	}
	return out, nil
}

// Stop ends every process and removes the network. It is safe to call on what Start
// returned with an error.
func (r *Rig) Stop() error {
	var errs []error
	if r.background != nil {
		r.background()
	}
	r.wg.Wait()
	// All at once: leaving takes each a moment.
	ends := make([]error, len(r.nodes))
	var wg sync.WaitGroup
	for i, n := range r.nodes {
		wg.Go(func() { ends[i] = n.destroy() })
	}
	wg.Wait()
	errs = append(errs, ends...)
	if r.client != nil {
		errs = append(errs, r.client.close())
	}
	if r.relay != nil {
		r.relay.close()
	}
	if r.plane != nil && r.o.Plane == nil {
		errs = append(errs, r.plane.Stop())
	}
	errs = append(errs, r.closeHosts())
	if r.bridge != nil {
		errs = append(errs, r.bridge.ns.close())
	}
	return errors.Join(append(errs, removeGroups())...)
}
