// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// simKernel is what of a node outlives its agent: the addresses that its kernel answers
// for, and what the API server says of the agent's future.
type simKernel struct {
	simSettings
	simPlane

	router  simRouter // what the peers know of this node
	keeping sync.Mutex
	until   map[kernel.Kept]time.Time // guarded by keeping
	deny    error                     // guarded by keeping: adding addresses fails
	gone    bool                      // guarded by keeping: the DaemonSet is
	away    bool                      // guarded by keeping: the API server is, for questions
	dead    bool                      // guarded by keeping: the power is off
}

// kernelOf returns a node's kernel, the same for each run of its agent.
func (s *sim) kernelOf(name loadbalancer.NodeName) *simKernel {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[name] == nil {
		s.kept[name] = &simKernel{until: map[kernel.Kept]time.Time{}}
		if s.ipvs {
			s.kept[name].boot()
			s.kept[name].ipvs = s.kept[name].table
		}
	}
	return s.kept[name]
}

func (k *simKernel) set(change func()) {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	change()
}

// unwant makes the next stop a leave.
func (k *simKernel) unwant() { k.set(func() { k.gone = true }) }

func (k *simKernel) powerOff() { k.set(func() { clear(k.until); k.dead = true }) }

func (k *simKernel) keeps(a netip.Addr) bool {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	for kept, until := range k.until {
		if kept.Addr == a && time.Now().Before(until) {
			return true
		}
	}
	return false
}

func (k *simKernel) Keep(list []kernel.Kept, lifetime time.Duration) error {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	if k.deny != nil {
		return k.deny
	}
	for _, a := range list {
		k.until[a] = time.Now().Add(lifetime)
	}
	return nil
}

func (k *simKernel) Kept() ([]kernel.Kept, error) {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	var out []kernel.Kept
	for a, until := range k.until {
		if time.Now().Before(until) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (k *simKernel) Drop(list []kernel.Kept) error {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	for _, a := range list {
		delete(k.until, a)
	}
	return nil
}

func (k *simKernel) DaemonSet(ctx context.Context) (*appsv1.DaemonSet, error) {
	k.keeping.Lock()
	gone, away := k.gone, k.away
	k.keeping.Unlock()
	switch {
	case away:
		<-ctx.Done()
		return nil, ctx.Err()
	case gone:
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "daemonsets"}, "fairlead-node-agent")
	default:
		return daemonSet(nil), nil
	}
}

func (k *simKernel) Node(ctx context.Context) (*corev1.Node, error) {
	k.keeping.Lock()
	away := k.away
	k.keeping.Unlock()
	if away {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return clusterNode(nil), nil
}

// The node as the agent's kernel.

func (n *simNode) Links() ([]kernel.Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links, nil
}

func (n *simNode) DefaultRoutes() (kernel.DefaultRoutes, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return kernel.DefaultRoutes{Gateways: n.gateways}, nil
}

func (n *simNode) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

// readdress gives the node another address, of which the API server tells.
func (n *simNode) readdress(a netip.Addr) {
	n.mu.Lock()
	n.ip = a
	n.mu.Unlock()
	n.s.markAll()
}

// plug gives the node another link.
func (n *simNode) plug(p netip.Prefix) {
	n.mu.Lock()
	n.links = append(slices.Clone(n.links), kernel.Link{Name: "eth1", Index: 3, MAC: kernel.MAC{2, 0, 0, 0, 1, n.name[0]}, Prefixes: []netip.Prefix{p}})
	n.mu.Unlock()
	mark(n.agent.linksDirty)
}

// noIPv6 disables IPv6 on the node's links.
func (n *simNode) noIPv6() {
	n.mu.Lock()
	n.links = slices.Clone(n.links)
	for i := range n.links {
		n.links[i].IPv6, n.links[i].Prefixes = false, n.links[i].Prefixes[:1]
	}
	n.mu.Unlock()
	mark(n.agent.linksDirty)
}

// unplug takes the node's links away and returns them.
func (n *simNode) unplug() []kernel.Link {
	n.mu.Lock()
	links := n.links
	n.mu.Unlock()
	n.replug(nil)
	return links
}

func (n *simNode) replug(links []kernel.Link) {
	n.mu.Lock()
	n.links = links
	n.mu.Unlock()
	mark(n.agent.linksDirty)
}
