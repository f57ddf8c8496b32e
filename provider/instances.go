// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// instances answers what the node controllers ask about Nodes. There is no inventory
// behind it: a Node is there because its kubelet says so.
type instances struct {
	// agent returns what a node's agent reports, nil when it does not.
	agent func(node string) *v1alpha1.NodeAgent
}

var _ cloudprovider.InstancesV2 = instances{}

// NewInstances returns the InstancesV2 that answers with what agent knows of a node,
// which is nil while its agent has not reported.
func NewInstances(agent func(node string) *v1alpha1.NodeAgent) cloudprovider.InstancesV2 {
	return instances{agent: agent}
}

// InstanceExists is always true: a false deletes the Node object, and nothing that
// this provider could look at proves that a machine is gone for good.
func (instances) InstanceExists(context.Context, *corev1.Node) (bool, error) { return true, nil }

// InstanceShutdown is always false, for the same reason: a true taints the Node.
func (instances) InstanceShutdown(context.Context, *corev1.Node) (bool, error) { return false, nil }

// InstanceMetadata returns the provider ID and the addresses of a Node: everything
// that it has (the list never gets shorter), the addresses given to its kubelet by
// --node-ip, its host name, and, if that leaves it without an InternalIP, those that
// its agent found on the interfaces of its default routes. While there is no
// InternalIP at all it is an error, so that the Node stays tainted and is asked for
// again: kube-proxy and kubectl logs cannot work with such a Node.
func (i instances) InstanceMetadata(_ context.Context, node *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	addrs := nodeAddresses(node, i.agent(node.Name))
	if !slices.ContainsFunc(addrs, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP }) {
		return nil, fmt.Errorf("node %s has no InternalIP yet: its kubelet has no --node-ip, and no fairlead-node-agent has reported an address", node.Name)
	}
	return &cloudprovider.InstanceMetadata{
		ProviderID:    ProviderName + "://" + node.Name,
		NodeAddresses: addrs,
	}, nil
}

func nodeAddresses(node *corev1.Node, agent *v1alpha1.NodeAgent) []corev1.NodeAddress {
	var out []corev1.NodeAddress
	add := func(t corev1.NodeAddressType, text string) {
		a := corev1.NodeAddress{Type: t, Address: text}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for text := range strings.SplitSeq(node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr], ",") {
		if ip, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil {
			add(corev1.NodeInternalIP, ip.String())
		}
	}
	for _, a := range node.Status.Addresses {
		add(a.Type, a.Address)
	}
	hasInternal := slices.ContainsFunc(out, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
	if !hasInternal && agent != nil {
		for _, text := range agent.Status.DefaultRouteAddresses {
			add(corev1.NodeInternalIP, text)
		}
	}
	if !slices.ContainsFunc(out, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeHostName }) {
		add(corev1.NodeHostName, node.Name)
	}
	return out
}
