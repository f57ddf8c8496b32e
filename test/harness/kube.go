// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Namespace is where Fairlead runs.
const Namespace = "fairlead-system"

// Service reads one Service.
func (l *Lab) Service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return Get[*corev1.Service](ctx, l, "service", name, "-n", namespace)
}

// Services reads the Services of one namespace.
func (l *Lab) Services(ctx context.Context, namespace string) ([]corev1.Service, error) {
	list, err := Get[corev1.ServiceList](ctx, l, "services", "-n", namespace)
	return list.Items, err
}

// Addresses returns the load-balancer addresses in a Service's status.
func Addresses(svc *corev1.Service) []string {
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return out
}

// Address returns the one address of a Service or why there is not exactly one.
func (l *Lab) Address(ctx context.Context, namespace, name string) (string, error) {
	svc, err := l.Service(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	a := Addresses(svc)
	if len(a) != 1 {
		return "", fmt.Errorf("service %s/%s has %d addresses %v, want 1", namespace, name, len(a), a)
	}
	return a[0], nil
}

// Claims reads every IPClaim.
func (l *Lab) Claims(ctx context.Context) ([]v1alpha1.IPClaim, error) {
	list, err := Get[v1alpha1.IPClaimList](ctx, l, "ipclaims.fairlead.dev")
	return list.Items, err
}

// Claim reads one IPClaim; its name is the address for IPv4.
func (l *Lab) Claim(ctx context.Context, name string) (*v1alpha1.IPClaim, error) {
	return Get[*v1alpha1.IPClaim](ctx, l, "ipclaim.fairlead.dev", name)
}

// Records reads the LoadBalancer records of one namespace.
func (l *Lab) Records(ctx context.Context, namespace string) ([]v1alpha1.LoadBalancer, error) {
	list, err := Get[v1alpha1.LoadBalancerList](ctx, l, "loadbalancers.fairlead.dev", "-n", namespace)
	return list.Items, err
}

// Record reads one LoadBalancer record.
func (l *Lab) Record(ctx context.Context, namespace, name string) (*v1alpha1.LoadBalancer, error) {
	return Get[*v1alpha1.LoadBalancer](ctx, l, "loadbalancer.fairlead.dev", name, "-n", namespace)
}

// NodeAgents reads every NodeAgent.
func (l *Lab) NodeAgents(ctx context.Context) ([]v1alpha1.NodeAgent, error) {
	list, err := Get[v1alpha1.NodeAgentList](ctx, l, "nodeagents.fairlead.dev")
	return list.Items, err
}

// Nodes reads every Node.
func (l *Lab) Nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := Get[corev1.NodeList](ctx, l, "nodes")
	return list.Items, err
}

// Pods reads the pods of one namespace that carry a label.
func (l *Lab) Pods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := Get[corev1.PodList](ctx, l, "pods", "-n", namespace, "-l", selector)
	return list.Items, err
}

// AgentPod is the name of a node's agent pod.
func (l *Lab) AgentPod(ctx context.Context, node string) (string, error) {
	pods, err := l.Pods(ctx, Namespace, "app.kubernetes.io/component=node-agent")
	if err != nil {
		return "", err
	}
	for i := range pods {
		if pods[i].Spec.NodeName == node && pods[i].DeletionTimestamp == nil {
			return pods[i].Name, nil
		}
	}
	return "", fmt.Errorf("no agent pod on %s", node)
}

// Events reads the events about one object, oldest first as kubectl lists them.
func (l *Lab) Events(ctx context.Context, namespace, kind, name string) ([]corev1.Event, error) {
	list, err := Get[corev1.EventList](ctx, l, "events", "-n", namespace,
		"--field-selector", "involvedObject.kind="+kind+",involvedObject.name="+name)
	return list.Items, err
}

// Owner returns the node that announces an address according to its claim's status.
func (l *Lab) Owner(ctx context.Context, address string) (string, error) {
	c, err := l.Claim(ctx, address)
	if err != nil {
		return "", err
	}
	if c.Status.Owner == nil {
		return "", fmt.Errorf("claim %s has no owner", address)
	}
	return c.Status.Owner.Node, nil
}

// Condition returns one condition's status and reason, both empty when it is absent.
func Condition(conds []metav1.Condition, kind string) (metav1.ConditionStatus, string) {
	for i := range conds {
		if conds[i].Type == kind {
			return conds[i].Status, conds[i].Reason
		}
	}
	return "", ""
}

// NodeReady says whether a Node's Ready condition is true.
func NodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// NodesReady returns nil when want nodes are Ready and none carries the taint of an
// uninitialized node.
func (l *Lab) NodesReady(ctx context.Context, want int) error {
	nodes, err := l.Nodes(ctx)
	if err != nil {
		return err
	}
	ready := 0
	var problems []error
	for i := range nodes {
		n := &nodes[i]
		if NodeReady(n) {
			ready++
		}
		for _, t := range n.Spec.Taints {
			if t.Key == "node.cloudprovider.kubernetes.io/uninitialized" {
				problems = append(problems, fmt.Errorf("node %s is still tainted %s", n.Name, t.Key))
			}
		}
	}
	if ready != want {
		problems = append(problems, fmt.Errorf("%d nodes are Ready, want %d", ready, want))
	}
	return errors.Join(problems...)
}

// AgentsReady returns nil when want node agents report Ready and each sees want members.
func (l *Lab) AgentsReady(ctx context.Context, want int) error {
	agents, err := l.NodeAgents(ctx)
	if err != nil {
		return err
	}
	ready := 0
	var short []string
	for i := range agents {
		s, _ := Condition(agents[i].Status.Conditions, v1alpha1.ConditionReady)
		if s == metav1.ConditionTrue {
			ready++
		}
		if m := agents[i].Status.Gossip.Members; int(m) != want {
			short = append(short, fmt.Sprintf("%s sees %d members", agents[i].Name, m))
		}
	}
	if ready != want || len(short) > 0 {
		return fmt.Errorf("%d node agents are Ready, want %d; %s", ready, want, strings.Join(short, ", "))
	}
	return nil
}
