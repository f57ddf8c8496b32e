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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// world is what every group depends on, converted once: nodes with their agents,
// advertisements, pools. It is immutable.
type world struct {
	nodes []node
	known map[loadbalancer.NodeName]bool
	ads   []*advertisement // by name
	pools map[string]poolFacts
	bgp   []*bgpAdvertisement // by name
	// aliases of communities.
	aliases map[string]loadbalancer.Community
	// peers are the names of the BGPPeers, ascending.
	peers []string
	// blind: the kinds of BGP cannot be read.
	blind bool
}

// advertisement is an L2Advertisement and, by [node].index, the nodes that it selects and
// the weights that it gives them: matching labels once per group would be most of the
// work when a node changes.
type advertisement struct {
	convert.Advertisement
	nodes []bool
	// weights are nil when it prefers no node, and zero for nodes that it does not select.
	weights []int
}

// poolFacts are what announcing needs of a pool.
type poolFacts struct {
	labels map[string]string
	// advertisements is the default of the annotation on Services.
	advertisements []string
}

// node is what decides whether a node may announce.
type node struct {
	index  int
	name   loadbalancer.NodeName
	seed   uint64 // of the name, for placement
	labels map[string]string
	// facts are what the Node object tells.
	facts loadbalancer.Node
	// barred is why it may not announce anything by these facts, empty when it may.
	barred reason.Reason
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
	if w.current == nil || w.current.blind != w.informers.BGP.Absent() {
		w.current = buildWorld(w.informers)
	}
	return w.current
}

func buildWorld(in Informers) *world {
	w := &world{known: map[loadbalancer.NodeName]bool{}, pools: map[string]poolFacts{}}
	for _, n := range list[corev1.Node](in.Nodes) {
		w.nodes = append(w.nodes, convertNode(n, client.Get[v1alpha1.NodeAgent](in.NodeAgents, n.Name)))
		w.known[loadbalancer.NodeName(n.Name)] = true
	}
	slices.SortFunc(w.nodes, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	for i := range w.nodes {
		w.nodes[i].index = i
	}
	for _, ad := range list[v1alpha1.L2Advertisement](in.Advertisements) {
		if a, err := convert.L2Advertisement(ad); err == nil { // else its own condition says so
			w.ads = append(w.ads, selectNodes(a, w.nodes))
		}
	}
	slices.SortFunc(w.ads, func(a, b *advertisement) int { return cmp.Compare(a.Name, b.Name) })
	w.addBGP(&in.BGP)
	for _, p := range list[v1alpha1.IPAddressPool](in.Pools) {
		w.pools[p.Name] = poolFacts{labels: p.Labels, advertisements: defaultAdvertisements(p)}
	}
	return w
}

func selectNodes(a convert.Advertisement, nodes []node) *advertisement {
	out := &advertisement{Advertisement: a, nodes: make([]bool, len(nodes))}
	if a.Prefers() {
		out.weights = make([]int, len(nodes))
	}
	for i, n := range nodes {
		out.nodes[i] = a.SelectsNode(n.labels)
		if out.weights != nil && out.nodes[i] {
			out.weights[i] = a.Weight(n.labels)
		}
	}
	return out
}

func defaultAdvertisements(p *v1alpha1.IPAddressPool) []string {
	if p.Spec.Defaults == nil {
		return nil
	}
	return p.Spec.Defaults.Advertisements
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
		name:   facts.Name,
		seed:   placement.Seed(facts.Name),
		labels: n.Labels,
		facts:  facts,
		barred: placement.Barred(facts),
	}
	if agent == nil {
		return out
	}
	out.agentReady = agentReady(agent)
	for _, itf := range agent.Status.Interfaces {
		d := loadbalancer.Interface{Name: itf.Name}
		for _, s := range itf.Prefixes {
			// A prefix of one address has no neighbours that ask for others in it; one that
			// cannot be read was written by an agent of another version, perhaps.
			if p, err := netip.ParsePrefix(s); err == nil && !p.IsSingleIP() {
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
	return maps.Equal(a.Labels, b.Labels) && x.Ready == y.Ready && x.Cordoned == y.Cordoned && placement.Barred(x) == placement.Barred(y)
}

// agentReady reports whether an agent announces or is about to. One that restarts is: what
// it has is answered for meanwhile, and lists that are written for every restart of every
// agent would be changed twice for nothing.
func agentReady(agent *v1alpha1.NodeAgent) bool {
	ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && (ready.Status == metav1.ConditionTrue || ready.Reason == reason.Restarting.String())
}

// sameAgent reports whether two versions of a NodeAgent make no difference here.
func sameAgent(a, b *v1alpha1.NodeAgent) bool {
	return agentReady(a) == agentReady(b) && equality.Semantic.DeepEqual(a.Status.Interfaces, b.Status.Interfaces)
}

// verdict says why a node may not announce all of the targets; Reason is empty when it
// may. The rule is the agents': see loadbalancer/plan. That the node is cordoned is not
// asked here, because it matters only while another node may.
func (n *node) verdict(targets []target) reason.Reason {
	if n.barred != "" {
		return n.barred
	}
	for _, t := range targets {
		for _, ads := range t.wishes {
			if !slices.ContainsFunc(ads, func(ad *advertisement) bool { return ad.nodes[n.index] }) {
				return reason.NodeNotSelected
			}
		}
	}
	if !n.agentReady {
		return reason.WaitingForAgent
	}
	for _, t := range targets {
		if !slices.ContainsFunc(n.interfaces, func(i loadbalancer.Interface) bool { return n.fulfils(i, t) }) {
			return reason.NoInterface
		}
	}
	return ""
}

// fulfils reports whether an address is announced on an interface: where every Service
// that has it wants it.
func (n *node) fulfils(itf loadbalancer.Interface, t target) bool {
	for _, ads := range t.wishes {
		if !slices.ContainsFunc(ads, func(ad *advertisement) bool {
			return ad.nodes[n.index] && ad.SelectsInterface(itf, t.addr)
		}) {
			return false
		}
	}
	return true
}
