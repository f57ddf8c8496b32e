// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

const (
	pollEvery = 300 * time.Millisecond
	// patience is how long each step of "up" may take. A step takes seconds, but
	// a machine that compiles at the same time needs longer.
	patience = 4 * time.Minute
)

// Inputs are what "up" needs besides its options.
type Inputs struct {
	// Binaries maps a binary's name to its path on this machine.
	Binaries map[string]string
	// Source is the root of Fairlead's source tree.
	Source string
	// Images fills the store; it runs while the cluster starts.
	Images func(ctx context.Context) error
}

// Up brings the lab up. Binaries and images must be there or come with in.
func (l *Lab) Up(ctx context.Context, o Options, in Inputs) error {
	plan, err := NewPlan(o.Nodes, o.Family)
	if err != nil {
		return err
	}
	l.state.Plan, l.state.Options, l.state.Ready = plan, o, false
	if err := l.prepare(in); err != nil {
		return err
	}
	images := make(chan error, 1)
	go func() { images <- in.Images(ctx) }()
	if err := l.startCluster(ctx); err != nil {
		return err
	}
	if err := <-images; err != nil {
		return err
	}
	l.progress("images are in the lab's registry")
	if err := l.waitNodes(ctx); err != nil {
		return err
	}
	if o.Fairlead {
		if err := l.install(ctx, in.Source); err != nil {
			return err
		}
	}
	l.state.Ready = true
	return l.save()
}

// CheckFree fails if a lab, or what a crashed one left, is in the way.
func (l *Lab) CheckFree() error {
	pids, err := host.Pids(l.state.ID)
	if err != nil {
		return err
	}
	if l.state.Plan == nil && len(pids) == 0 {
		return nil
	}
	if l.state.Ready {
		return fmt.Errorf("a lab is up in %s already; run: fairlead-lab down --state-dir %s", l.dir, l.dir)
	}
	return fmt.Errorf("an unfinished lab is in %s; run: fairlead-lab down --state-dir %s", l.dir, l.dir)
}

func (l *Lab) prepare(in Inputs) error {
	if err := l.save(); err != nil {
		return err
	}
	for name, path := range in.Binaries {
		link := l.path("bin", name)
		if err := os.MkdirAll(filepath.Dir(link), 0o750); err != nil {
			return fmt.Errorf("binaries: %w", err)
		}
		if err := os.Symlink(path, link); err != nil {
			return fmt.Errorf("binaries: %w", err)
		}
	}
	if err := makePKI(l.path("pki"), l.state.Plan, l.now()); err != nil {
		return err
	}
	return writeFile(l.path("certs.d", "_default", "hosts.toml"), hostsTOML())
}

func (l *Lab) startCluster(ctx context.Context) error {
	p := l.state.Plan
	if err := l.bootAll(ctx, p.Of(KindSwitch)); err != nil {
		return err
	}
	if err := l.bootAll(ctx, append(p.Of(KindNode), p.Of(KindClient)...)); err != nil {
		return err
	}
	l.progress("hosts are on: %s; %s", p.Names(KindNode), p.Names(KindClient))
	err := poll(ctx, func(ctx context.Context) error {
		_, err := l.kubectl(ctx, "get", "--raw=/readyz")
		return err
	})
	if err != nil {
		return fmt.Errorf("the API server does not get ready, see %s: %w", filepath.Join(l.hostDir(ControlPlane), "log"), err)
	}
	l.progress("API server is ready at %s", p.apiServer())
	if err := poll(ctx, l.assignPodCIDRs); err != nil {
		return fmt.Errorf("nodes do not register, see %s: %w", l.path("hosts", "NODE", "log"), err)
	}
	return l.connectPods(ctx)
}

// nodeObject is what the lab reads of a Kubernetes Node.
type nodeObject struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
		Taints   []struct {
			Key string `json:"key"`
		} `json:"taints"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

const taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

func (n *nodeObject) ready() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (n *nodeObject) uninitialized() bool {
	for _, t := range n.Spec.Taints {
		if t.Key == taintUninitialized {
			return true
		}
	}
	return false
}

func (l *Lab) nodes(ctx context.Context) ([]nodeObject, error) {
	out, err := l.kubectl(ctx, "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []nodeObject `json:"items"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	return list.Items, nil
}

// assignPodCIDRs copies what the controller manager decided into the plan; an
// error names a node that has no range yet.
func (l *Lab) assignPodCIDRs(ctx context.Context) error {
	nodes, err := l.nodes(ctx)
	if err != nil {
		return err
	}
	for i := range nodes {
		h := l.state.Plan.Host(nodes[i].Metadata.Name)
		if h == nil {
			return fmt.Errorf("unexpected node %s", nodes[i].Metadata.Name)
		}
		for _, r := range nodes[i].Spec.PodCIDRs {
			if r.Addr().Is6() {
				h.PodCIDR6 = r
			} else {
				h.PodCIDR = r
			}
		}
	}
	for _, h := range l.state.Plan.Of(KindNode) {
		if !h.PodCIDR.IsValid() || h.PodCIDR6.IsValid() != l.state.Plan.dual() {
			return fmt.Errorf("node %s has not its pod ranges yet", h.Name)
		}
	}
	return nil
}

// connectPods writes each node's CNI configuration and the routes between the
// nodes' pod ranges.
func (l *Lab) connectPods(_ context.Context) error {
	for _, h := range l.state.Plan.Of(KindNode) {
		r, err := l.running(h.Name)
		if err != nil {
			return err
		}
		if err := host.SetRoutes(r.Pid, l.state.Plan.Routes(h.Name)); err != nil {
			return fmt.Errorf("node %s: %w", h.Name, err)
		}
		if err := writeFile(filepath.Join(l.hostDir(h.Name), "cni", "10-lab.conflist"), cniConfig(h.podCIDRs())); err != nil {
			return err
		}
	}
	return l.save()
}

func (l *Lab) waitNodes(ctx context.Context) error {
	err := poll(ctx, func(ctx context.Context) error {
		nodes, err := l.nodes(ctx)
		if err != nil {
			return err
		}
		for i := range nodes {
			if !nodes[i].ready() {
				return fmt.Errorf("node %s is not ready", nodes[i].Metadata.Name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A kubelet may not give itself a role label.
	if _, err := l.kubectl(ctx, "label", "node", ControlPlane, "node-role.kubernetes.io/control-plane=", "--overwrite"); err != nil {
		return err
	}
	l.progress("%d nodes are Ready", len(l.state.Plan.Of(KindNode)))
	return nil
}

// install applies Fairlead's own manifests and waits until they work.
func (l *Lab) install(ctx context.Context, source string) error {
	if _, err := l.kubectl(ctx, "create", "-k", filepath.Join(source, "deploy", "metallb-compat")); err != nil {
		return err
	}
	if _, err := l.kubectl(ctx, "apply", "--server-side", "-k", filepath.Join(source, "deploy", "kustomize", "overlays", "lab")); err != nil {
		return err
	}
	l.progress("Fairlead's manifests are applied")
	if err := poll(ctx, l.initialized); err != nil {
		return fmt.Errorf("%w%s", err, l.podSummary(ctx))
	}
	l.progress("Fairlead's cloud controller manager has initialized every node")
	if err := poll(ctx, l.rolledOut); err != nil {
		return fmt.Errorf("%w%s", err, l.podSummary(ctx))
	}
	l.progress("Fairlead's controller and node agents are available")
	return nil
}

func (l *Lab) initialized(ctx context.Context) error {
	nodes, err := l.nodes(ctx)
	if err != nil {
		return err
	}
	for i := range nodes {
		if nodes[i].uninitialized() {
			return fmt.Errorf("node %s still has the taint %s", nodes[i].Metadata.Name, taintUninitialized)
		}
	}
	return nil
}

func (l *Lab) rolledOut(ctx context.Context) error {
	out, err := l.kubectl(ctx, "-n", "fairlead-system", "get", "deployments,daemonsets", "-o", "name")
	if err != nil {
		return err
	}
	names := strings.Fields(out)
	if len(names) == 0 {
		return errors.New("namespace fairlead-system has neither Deployment nor DaemonSet")
	}
	for _, n := range names {
		if _, err := l.kubectl(ctx, "-n", "fairlead-system", "rollout", "status", n, "--timeout=20s"); err != nil {
			return err
		}
	}
	return nil
}

// podSummary is appended to an error for people who cannot look any more.
func (l *Lab) podSummary(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	out, err := l.kubectl(ctx, "-n", "fairlead-system", "get", "pods", "-o", "wide")
	if err != nil {
		return ""
	}
	return "\n" + out
}

// poll calls f until it succeeds; when patience ends it returns f's last error.
func poll(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if werr := host.Pause(ctx, pollEvery); werr != nil {
			return fmt.Errorf("gave up after %s: %w", patience, err)
		}
	}
}
