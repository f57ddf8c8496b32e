// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const (
	// agentAccount is the service account of the agents and the name of their DaemonSet.
	agentAccount = "fairlead-node-agent"
	gossipSecret = "fairlead-gossip"
	gossipKeys   = "keys"
	// tokenSeconds a token lives: longer than any rig.
	tokenSeconds = 48 * 3600
)

// build makes the agent's program from the work tree.
func (r *Rig) build(ctx context.Context) error {
	if r.o.AgentProgram != "" {
		return nil
	}
	r.o.AgentProgram = r.path(harness.AgentProgram)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", harness.BuildTags, "-o", r.o.AgentProgram, "./cmd/"+harness.AgentProgram) //nolint:gosec // a constant
	cmd.Dir = r.o.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return nil
}

// applyDaemonSet makes the DaemonSet object of the shipped manifest, which no controller
// here acts on: agents look whether they still belong to it. Its arguments are kept.
func (r *Rig) applyDaemonSet(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(r.o.Root, "deploy", "kustomize", "base", "node-agent.yaml"))
	if err != nil {
		return fmt.Errorf("read the agent's manifest: %w", err)
	}
	for doc := range strings.SplitSeq(string(b), "\n---\n") {
		var d appsv1.DaemonSet
		if err := yaml.Unmarshal([]byte(doc), &d); err != nil {
			return fmt.Errorf("read the agent's manifest: %w", err)
		}
		if d.Kind != "DaemonSet" {
			continue
		}
		r.shipped = d.Spec.Template.Spec.Containers[0].Args
		return r.plane.Create(ctx, doc)
	}
	return errors.New("read the agent's manifest: no DaemonSet in it")
}

// copyKeys writes the gossip keys as kubelet does, by a rename.
func (r *Rig) copyKeys(ctx context.Context) error {
	s, err := r.Kube().CoreV1().Secrets(harness.Namespace).Get(ctx, gossipSecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the gossip key: %w", err)
	}
	path := r.path("gossip", gossipKeys)
	if old, err := os.ReadFile(path); err == nil && slices.Equal(old, s.Data[gossipKeys]) { //nolint:gosec // the rig's own file
		return nil
	}
	if err := os.WriteFile(path+".new", s.Data[gossipKeys], 0o600); err != nil {
		return fmt.Errorf("write the gossip key: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the gossip key: %w", err)
	}
	return nil
}

// writeIdentity writes the kubeconfig of a node's agent: a token of its service account
// that is bound to the Node, as the policies demand.
func (r *Rig) writeIdentity(ctx context.Context, n *Node) error {
	node, err := r.Kube().CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the node: %w", err)
	}
	_, err = r.WriteKubeconfig(ctx, n.name, harness.Namespace, agentAccount,
		&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: n.name, UID: node.UID})
	return err
}

// StartAgent starts the node's agent with the arguments of the shipped manifest and those of
// the rig's options; it must not be running. args come last and override.
func (n *Node) StartAgent(ctx context.Context, args ...string) error {
	var err error
	n.agent, err = plane.StartProcess(ctx, plane.Program{
		Name: "agent of " + n.name, LogFile: n.LogFile(), Path: n.r.o.AgentProgram,
		Args: slices.Concat(n.r.shipped, []string{
			"--kubeconfig=" + n.r.path(n.name+".kubeconfig"), "--gossip-key-file=" + n.r.path("gossip", gossipKeys),
		}, n.r.o.AgentArgs, n.r.o.NodeArgs[n.name], args),
		Env:   []string{"NODE_NAME=" + n.name, "POD_NAMESPACE=" + harness.Namespace},
		Enter: n.ns.enter,
	})
	return err
}

// LogFile of the node's agents, one after the other.
func (n *Node) LogFile() string { return n.r.path(n.name + ".log") }

// WaitSettled waits until the agents of all nodes are ready and see each other.
func (r *Rig) WaitSettled(ctx context.Context) error {
	// Fifty programs that start at once on two cores wait for each other.
	timeout := settleTimeout + time.Duration(len(r.nodes))*3*time.Second
	_, err := harness.Eventually(ctx, timeout, func(ctx context.Context) error { return r.settled(ctx) })
	return err
}

func (r *Rig) settled(ctx context.Context) error {
	list, err := r.api.NodeAgents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list node agents: %w", err)
	}
	seen := map[string]v1alpha1.NodeAgentStatus{}
	for i := range list.Items {
		seen[list.Items[i].Name] = list.Items[i].Status
	}
	errs := []error{r.Err()}
	for _, n := range r.nodes {
		s := seen[n.name]
		if ready, why := harness.Condition(s.Conditions, v1alpha1.ConditionReady); ready != metav1.ConditionTrue || int(s.Gossip.Members) != len(r.nodes) {
			errs = append(errs, fmt.Errorf("agent of %s: ready %q (%s), %d members", n.name, ready, why, s.Gossip.Members))
			continue
		}
		// What the API server knows may be of the process before.
		if _, err := n.Get(ctx, "/readyz"); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
