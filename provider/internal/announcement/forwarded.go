// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// waitingGrace is how long a node may fail to program a record that is forwarded
	// everywhere else before the record goes back to kube-proxy.
	waitingGrace = 10 * time.Second
	// silenceGrace is the same for a node that does not say who forwards: its agent is of
	// an earlier release, or has just begun.
	silenceGrace = 30 * time.Second
	// namingDelay is how long nodes may be at work before they are named: else each that
	// gets done would be a write.
	namingDelay = 10 * time.Second
	// firstHold, doubled by each relapse up to lastHold, is how long a record that went back
	// to kube-proxy stays there; relapses that are further apart than memory are forgotten.
	firstHold = 10 * time.Second
	lastHold  = 5 * time.Minute
	memory    = 20 * time.Minute
)

// relapses are the times that a record went back to kube-proxy because of a node.
type relapses struct {
	last  time.Time
	count int
}

// hold returns how long the record has to stay there yet.
func (r relapses) hold(now time.Time) time.Duration {
	if r.count == 0 {
		return 0
	}
	return min(firstHold<<min(r.count-1, 8), lastHold) - now.Sub(r.last)
}

func (r relapses) again(now time.Time) relapses {
	if now.Sub(r.last) > memory {
		r.count = 0
	}
	return relapses{now, r.count + 1}
}

// forwarding is what the Forwarded condition depends on beside the situation.
type forwarding struct {
	asked  v1alpha1.Forwarding
	planes *planes
	// version is the record's resourceVersion when its spec was written last.
	version string
	// name is the record as namespace/name.
	name     string
	relapses relapses
	// since is when this process saw that spec first.
	since time.Time
}

// forwarded is the answer, and when it may be another one by the mere passing of time.
type forwarded struct {
	answer

	again time.Duration
	// lagging: nodes are at it.
	lagging bool
}

// assessForwarded says whether the status of the Service may say ipMode Proxy: kube-proxy
// then does not know the addresses, on no node. It is so once every live node has the
// record programmed, and stays so until one says that it leaves it to kube-proxy: what is
// only late, restarting or gone does not bring a thousand Services back and forth.
func assessForwarded(s situation) forwarded {
	f := &s.forwarding
	was := meta.IsStatusConditionTrue(s.previous, v1alpha1.ConditionForwarded)
	p := f.planes
	switch {
	case f.asked != v1alpha1.ForwardingIPVS:
		return forwarded{answer: answer{
			false, reason.LeftToKubeProxy,
			"kube-proxy forwards, as the Service's annotation " + v1alpha1.AnnotationDataPlane + " or the controller's configuration asks",
		}}
	case p.live == 0 && (!was || p.agents == 0):
		return forwarded{answer: answer{false, reason.NotEveryNode, "no node agent is ready, so kube-proxy forwards"}}
	case len(p.left) > 0:
		return forwarded{answer: leftTo(p)}
	}
	waiting, waits := since(p.waiting[f.name], s.now, waitingGrace, was)
	silent, quiet := since(p.silent, s.now, silenceGrace, was)
	if len(waiting) > 0 {
		return forwarded{lagging: true, answer: answer{
			false, reason.NotEveryNode, "kube-proxy forwards as well until IPVS does everywhere: " + sayAll(waiting),
		}}
	}
	if len(silent) > 0 {
		return forwarded{answer: answer{
			false, reason.NotEveryNode,
			"kube-proxy forwards as well: the agent of node " + abbreviate(nodesOf(silent)) + " does not say that it does; it is of an earlier release, or starting",
		}}
	}
	everywhere := answer{true, reason.Forwarded, "IPVS forwards on every node"}
	if was {
		return forwarded{answer: everywhere, again: sooner(waits, quiet)}
	}
	if behind := p.behind(f.version); len(behind) > 0 {
		return lagging(s, behind)
	}
	if hold := f.relapses.hold(s.now); hold > 0 {
		return forwarded{again: hold, answer: stillSaid(s)}
	}
	return forwarded{answer: everywhere}
}

// stillSaid is the last answer, of a record that waits for what was wrong to be right for
// some time: a node that says now this, now that, is not worth a write each time.
func stillSaid(s situation) answer {
	if c := meta.FindStatusCondition(s.previous, v1alpha1.ConditionForwarded); c != nil {
		return answer{false, reason.Reason(c.Reason), c.Message}
	}
	return answer{false, reason.NotEveryNode, "kube-proxy forwards as well until IPVS has done so on every node for some time"}
}

// leftTo tells that some nodes leave forwarding to kube-proxy, and why.
func leftTo(p *planes) answer {
	why, where := reason.Reason(p.left[0].reason), "on some nodes"
	alike := !slices.ContainsFunc(p.left, func(o objection) bool { return o.reason != p.left[0].reason })
	if len(p.left) == p.live {
		where = "on every node"
	}
	if !alike || len(p.left) < p.live && why != reason.KubeProxyExcludeCIDRs {
		why = reason.NotEveryNode
	}
	return answer{false, why, "kube-proxy forwards " + where + ": " + sayAll(p.left)}
}

// lagging tells that nodes are at work; which ones, when it takes long.
func lagging(s situation, behind []string) forwarded {
	out := forwarded{lagging: true, answer: answer{false, reason.NotEveryNode, "kube-proxy forwards as well until every node has programmed IPVS"}}
	if rest := namingDelay - s.now.Sub(s.forwarding.since); rest > 0 {
		out.again = rest
		return out
	}
	out.message += ", which node " + abbreviate(behind) + " has not"
	return out
}

// since leaves out objections that are younger than a grace, where there is one, and says
// when the first of those will be old enough.
func since(in []objection, now time.Time, grace time.Duration, graced bool) (out []objection, again time.Duration) {
	for _, o := range in {
		rest := grace - now.Sub(o.since)
		if !graced || rest <= 0 {
			out = append(out, o)
		} else {
			again = sooner(again, rest)
		}
	}
	return out, again
}

// sooner returns the lower of two durations of which zero is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// mostNamed bounds a list in a message.
const mostNamed = 3

func abbreviate(names []string) string {
	if len(names) > mostNamed {
		return strings.Join(names[:mostNamed], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

func nodesOf(in []objection) []string {
	out := make([]string, 0, len(in))
	for _, o := range in {
		out = append(out, o.node)
	}
	return out
}

// sayAll tells what nodes object, those that say the same together.
func sayAll(in []objection) string {
	var parts []string
	for done := map[int]bool{}; len(done) < len(in); {
		var nodes []string
		var first *objection
		for i := range in {
			o := &in[i]
			if done[i] || first != nil && (o.reason != first.reason || o.message != first.message) {
				continue
			}
			if first == nil {
				first = o
			}
			done[i] = true
			nodes = append(nodes, o.node)
		}
		part := fmt.Sprintf("node %s (%s)", abbreviate(nodes), first.reason)
		if first.message != "" {
			part += ": " + strings.TrimSuffix(first.message, ".")
		}
		if len(parts) == mostNamed {
			return strings.Join(parts, "; ") + "; and others"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

// specOf is the version of a record that a spec came with.
type specOf struct {
	generation int64
	version    string
	seen       time.Time
}

// noteSpec remembers the version of a record whose spec is new. Nodes tell of the versions
// that they have programmed, and versions grow with each status too.
func (c *Controller) noteSpec(r *v1alpha1.LoadBalancer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.specs[r.UID]; !ok || known.generation != r.Generation {
		c.specs[r.UID] = specOf{r.Generation, r.ResourceVersion, time.Now()}
	}
}

// forwardingOf gathers what the Forwarded condition of a record depends on. Not locked.
func (c *Controller) forwardingOf(r *v1alpha1.LoadBalancer) forwarding {
	f := forwarding{asked: r.Spec.Forwarding, planes: c.planes.get(), name: r.Namespace + "/" + r.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	spec := c.specs[r.UID]
	f.version, f.since, f.relapses = spec.version, spec.seen, c.relapsed[r.UID]
	return f
}

// settleForwarded remembers which records wait for agents, and relapses that were written.
func (c *Controller) settleForwarded(uid types.UID, name string, f forwarded, relapsed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.lagging {
		c.pending[name] = struct{}{}
	} else {
		delete(c.pending, name)
	}
	if relapsed {
		c.relapsed[uid] = c.relapsed[uid].again(time.Now())
	}
}
