// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
)

// allocator is what the load balancer methods delegate to.
type allocator interface {
	Ensure(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, error)
	Exists(ctx context.Context, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error)
	Delete(ctx context.Context, svc *corev1.Service) error
}

// balancer is the cloudprovider.LoadBalancer. It decides nothing.
type balancer struct {
	alloc allocator
}

var _ cloudprovider.LoadBalancer = balancer{}

// GetLoadBalancer reports whether anything of the Service is left. Upstream asks before
// it deletes, and skips the deletion when the answer is no.
func (b balancer) GetLoadBalancer(ctx context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	return b.alloc.Exists(ctx, svc)
}

// GetLoadBalancerName returns the name of the Service's record.
func (balancer) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return svc.Namespace + "/" + svc.Name
}

// EnsureLoadBalancer gives the Service its addresses. Nodes do not matter: node agents
// find out by themselves where traffic goes.
func (b balancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	return b.alloc.Ensure(ctx, svc)
}

// UpdateLoadBalancer does nothing: it is called when the set of nodes changes, and
// records hold no nodes. It says so by ImplementedElsewhere, because on a nil upstream
// writes an event "Updated load balancer with new hosts" per Service: a thousand for
// each node that comes or goes, and not one of them true.
func (balancer) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return cloudprovider.ImplementedElsewhere
}

// EnsureLoadBalancerDeleted lets the Service's addresses go and never waits.
func (b balancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	return b.alloc.Delete(ctx, svc)
}
