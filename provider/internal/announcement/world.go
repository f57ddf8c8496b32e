// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// world is what every group depends on, converted once: nodes with their agents,
// advertisements, labels of pools. It is immutable.
type world struct {
	nodes []node
	known map[loadbalancer.NodeName]bool
	ads   []convert.Advertisement
	pools map[string]map[string]string
}

// node is what decides whether a node may announce.
type node struct {
	name               loadbalancer.NodeName
	labels             map[string]string
	excluded           bool
	networkUnavailable bool
	// ready is the Node's own Ready condition.
	ready bool
	// agentReady is false without a NodeAgent.
	agentReady bool
	interfaces []loadbalancer.Interface
}

// worldCache builds a world from informers when something in it changed.
type worldCache struct {
	informers Informers

	mu      sync.Mutex
	current *world // guarded by mu; nil when stale
}

func (w *worldCache) invalidate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = nil
}

func (w *worldCache) get() *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current == nil {
		w.current = buildWorld(w.informers)
	}
	return w.current
}

func buildWorld(in Informers) *world {
	w := &world{known: map[loadbalancer.NodeName]bool{}, pools: map[string]map[string]string{}}
	for _, n := range list[corev1.Node](in.Nodes) {
		w.nodes = append(w.nodes, convertNode(n, lookup[v1alpha1.NodeAgent](in.NodeAgents, n.Name)))
		w.known[loadbalancer.NodeName(n.Name)] = true
	}
	slices.SortFunc(w.nodes, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	for _, ad := range list[v1alpha1.L2Advertisement](in.Advertisements) {
		if a, err := convert.L2Advertisement(ad); err == nil { // else its own condition says so
			w.ads = append(w.ads, a)
		}
	}
	slices.SortFunc(w.ads, func(a, b convert.Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range list[v1alpha1.IPAddressPool](in.Pools) {
		w.pools[p.Name] = p.Labels
	}
	return w
}

func list[T any](informer cache.SharedIndexInformer) []*T {
	objs := informer.GetStore().List()
	out := make([]*T, 0, len(objs))
	for _, obj := range objs {
		if t, ok := obj.(*T); ok {
			out = append(out, t)
		}
	}
	return out
}

func convertNode(n *corev1.Node, agent *v1alpha1.NodeAgent) node {
	facts := convert.Node(n)
	out := node{
		name:               facts.Name,
		labels:             n.Labels,
		excluded:           facts.Excluded,
		networkUnavailable: facts.NetworkUnavailable,
		ready:              facts.Ready,
	}
	if agent == nil {
		return out
	}
	out.agentReady = meta.IsStatusConditionTrue(agent.Status.Conditions, v1alpha1.ConditionReady)
	for _, itf := range agent.Status.Interfaces {
		d := loadbalancer.Interface{Name: itf.Name}
		for _, s := range itf.Prefixes {
			if p, err := netip.ParsePrefix(s); err == nil { // written by an agent of another version, perhaps
				d.Prefixes = append(d.Prefixes, p)
			}
		}
		out.interfaces = append(out.interfaces, d)
	}
	return out
}

// sameNode reports whether two versions of a Node make no difference here.
func sameNode(a, b *corev1.Node) bool {
	x, y := convert.Node(a), convert.Node(b)
	return maps.Equal(a.Labels, b.Labels) && x.Ready == y.Ready && x.NetworkUnavailable == y.NetworkUnavailable
}

// sameAgent reports whether two versions of a NodeAgent make no difference here.
func sameAgent(a, b *v1alpha1.NodeAgent) bool {
	return meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionReady) ==
		meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReady) &&
		equality.Semantic.DeepEqual(a.Status.Interfaces, b.Status.Interfaces)
}

// advertisementsFor returns the advertisements of an address, sorted by name.
func (w *world) advertisementsFor(pool string, serviceLabels map[string]string) []convert.Advertisement {
	var out []convert.Advertisement
	for _, ad := range w.ads {
		if ad.SelectsPool(pool, w.pools[pool]) && ad.SelectsService(serviceLabels) {
			out = append(out, ad)
		}
	}
	return out
}

// verdict says whether a node may announce an address; Reason is empty when it may.
func (n node) verdict(addr netip.Addr, ads []convert.Advertisement) reason.Reason {
	switch {
	case n.excluded:
		return reason.NodeExcluded
	case n.networkUnavailable:
		return reason.NetworkUnavailable
	}
	answer := reason.NodeNotSelected
	for _, ad := range ads {
		if !ad.SelectsNode(n.labels) {
			continue
		}
		if !n.agentReady {
			return reason.WaitingForAgent
		}
		if slices.ContainsFunc(n.interfaces, func(i loadbalancer.Interface) bool { return ad.SelectsInterface(i, addr) }) {
			return ""
		}
		answer = reason.NoInterface
	}
	return answer
}
