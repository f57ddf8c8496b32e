// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// objection is one node's word on why IPVS does not forward there.
type objection struct {
	node    string
	reason  string
	message string
	since   time.Time
}

// revision is up to which resourceVersion one node has programmed records.
type revision struct{ node, version string }

// planes are what the data planes of the live nodes say. Immutable.
type planes struct {
	// agents counts those that run, whatever their nodes' conditions; live, those of them
	// that are waited for: their nodes are not known to be lost.
	agents, live int
	// left are live nodes where kube-proxy forwards, by name; silent, those that do not say:
	// agents of an earlier release, and such as have just begun.
	left, silent []objection
	// revisions of the others, by name.
	revisions []revision
	// waiting are records (namespace/name) that some of them could not program.
	waiting map[string][]objection
}

// planesCache makes planes from informers when something in them changed, and remembers
// since when nodes have been saying what they say.
type planesCache struct {
	informers Informers

	mu      sync.Mutex
	current *planes              // guarded by mu; nil when stale
	since   map[string]time.Time // guarded by mu; by node, or by node and record
}

func (p *planesCache) invalidate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = nil
}

func (p *planesCache) get() *planes {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		p.current, p.since = buildPlanes(p.informers, p.since, time.Now())
	}
	return p.current
}

func buildPlanes(in Informers, since map[string]time.Time, now time.Time) (*planes, map[string]time.Time) {
	p, next := &planes{waiting: map[string][]objection{}}, map[string]time.Time{}
	object := func(key string, o objection) objection {
		o.since = now
		if t, known := since[key]; known {
			o.since = t
		}
		next[key] = o.since
		return o
	}
	agents := list[v1alpha1.NodeAgent](in.NodeAgents)
	slices.SortFunc(agents, func(a, b *v1alpha1.NodeAgent) int { return cmp.Compare(a.Name, b.Name) })
	for _, a := range agents {
		if !agentReady(a) {
			continue
		}
		p.agents++
		if n := client.Get[corev1.Node](in.Nodes, a.Name); n == nil || !convert.Node(n).Ready {
			continue
		}
		p.live++
		switch d := &a.Status.DataPlane; {
		case d.Forwarding == v1alpha1.ForwardingIPVS:
			p.revisions = append(p.revisions, revision{a.Name, d.Revision})
			for _, w := range d.Waiting {
				p.waiting[w.Name] = append(p.waiting[w.Name], object(a.Name+" "+w.Name, objection{node: a.Name, reason: w.Reason, message: w.Message}))
			}
		case d.Forwarding == v1alpha1.ForwardingKubeProxy && !passing(d.Reason):
			p.left = append(p.left, object(a.Name, objection{node: a.Name, reason: d.Reason, message: d.Message}))
		default:
			p.silent = append(p.silent, object(a.Name, objection{node: a.Name}))
		}
	}
	return p, next
}

// passing reports whether a node leaves forwarding to kube-proxy for no reason that lasts.
func passing(why string) bool {
	switch reason.Reason(why) {
	case "", reason.Restarting, reason.Syncing, reason.Leaving:
		return true
	default:
		return false
	}
}

// behind returns the nodes that have not programmed a record of this version yet.
func (p *planes) behind(version string) []string {
	var out []string
	for _, r := range p.revisions {
		if r.version == "" {
			out = append(out, r.node)
			continue
		}
		if c, err := resourceversion.CompareResourceVersion(r.version, version); err != nil || c < 0 {
			out = append(out, r.node)
		}
	}
	return out
}

// planeChanged tells of one agent's data plane: of any change that may matter to every
// record, else to those that wait for it.
func (c *Controller) planeChanged(before, after *v1alpha1.NodeAgent) {
	if before != nil && after != nil && agentReady(before) == agentReady(after) &&
		equality.Semantic.DeepEqual(before.Status.DataPlane, after.Status.DataPlane) {
		return
	}
	c.planes.invalidate()
	if planeOf(before) != planeOf(after) {
		for _, key := range c.opts.Informers.Records.GetStore().ListKeys() {
			c.queue.AddAfter(item{recordItem, key}, worldDelay)
		}
		return
	}
	for _, a := range []*v1alpha1.NodeAgent{before, after} {
		if a == nil {
			continue // one that says nothing has come or gone
		}
		for _, w := range a.Status.DataPlane.Waiting {
			c.queue.AddAfter(item{recordItem, w.Name}, worldDelay)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.pending {
		c.queue.AddAfter(item{recordItem, name}, worldDelay)
	}
}

// plane is what of an agent's data plane matters to all records.
type plane struct {
	live            bool
	forwarding      v1alpha1.Forwarding
	reason, message string
}

func planeOf(a *v1alpha1.NodeAgent) plane {
	if a == nil {
		return plane{}
	}
	d := &a.Status.DataPlane
	out := plane{live: agentReady(a), forwarding: d.Forwarding}
	if d.Forwarding != v1alpha1.ForwardingIPVS {
		out.reason, out.message = d.Reason, d.Message
	}
	return out
}
