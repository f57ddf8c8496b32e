// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// sampling is how often sample looks.
const sampling = 50 * time.Millisecond

// sampled is for how many samples two may answer.
const sampled = 30

// sample looks who answers, until ctx ends. Two agents that see each other must agree
// soon; a kernel must not go on for an agent whose addresses another took over.
func (w *storm) sample(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, sampling)
		for i := range 6 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(200 + i)})
			agents, kernels := w.answering(a)
			if len(agents)+len(kernels) < 2 || !w.clear.Load() {
				w.both[a.String()] = 0
				continue
			}
			w.both[a.String()]++
			if w.both[a.String()] == sampled {
				w.mu2.Lock()
				w.fell = append(w.fell, fmt.Sprintf("%.3f: agents %q and kernels %q answer for %s", time.Since(bubbleStart).Seconds(), agents, kernels, a))
				w.mu2.Unlock()
			}
		}
	}
}

// answering are the nodes that answer for an address, without asking.
func (w *storm) answering(a netip.Addr) (agents, kernels string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.names {
		node := w.nodes[n]
		node.mu.Lock()
		stopped, off := node.stopped != nil, node.off || len(node.links) == 0
		node.mu.Unlock()
		switch {
		case off:
		case len(node.done) == 0 && !stopped && node.agent.arp.Answers("eth0", a):
			agents += string(n)
		case node.keeps(a):
			kernels += string(n)
		}
	}
	return agents, kernels
}

// able are the nodes that may announce, the better ones only.
func (w *storm) able(policy loadbalancer.TrafficPolicy) string {
	var good, cordoned string
	for _, n := range w.names {
		_, serving := w.serving[n]
		if !w.running[n] || w.marks[n].Excluded || policy == loadbalancer.Local && !serving {
			continue
		}
		if w.marks[n].Cordoned {
			cordoned += string(n)
		} else {
			good += string(n)
		}
	}
	if good == "" {
		return cordoned
	}
	return good
}

// check says what is not as it should be at rest.
func (w *storm) check() (faults []string) {
	together := map[string]string{}
	for addr, policy := range w.bound {
		who, able := w.who(addr), w.able(policy)
		if c, ok := w.claims.Peek(addr); ok {
			if other, seen := together[c.Spec.Group]; seen && other != who {
				faults = append(faults, fmt.Sprintf("%s: %q answer for it and %q for another of its group", addr, who, other))
			}
			together[c.Spec.Group] = who
		}
		keepOnly := policy == loadbalancer.Local && len(w.serving) == 0
		switch {
		case keepOnly && len(who) <= 1:
		case able == "" && who == "":
		case len(who) != 1 || !strings.Contains(able, who):
			faults = append(faults, fmt.Sprintf("%s: %q answer, want one of %q", addr, who, able))
		}
		c, ok := w.claims.Peek(addr)
		if !ok {
			continue
		}
		owner := ""
		if c.Status.Owner != nil {
			owner = c.Status.Owner.Node
		}
		if owner != who && w.running[loadbalancer.NodeName(owner)] || owner == "" && who != "" {
			faults = append(faults, fmt.Sprintf("%s: the API names %q, %q answers", addr, owner, who))
		}
	}
	for i := range 6 {
		addr := fmt.Sprintf("10.0.0.%d", 200+i)
		if _, ok := w.bound[addr]; !ok && w.who(addr) != "" {
			faults = append(faults, fmt.Sprintf("%s: %q answer though it is released", addr, w.who(addr)))
		}
	}
	slices.Sort(faults)
	return faults
}

// quiet says what goes on though nothing happens.
func (w *storm) quiet() (faults []string) {
	w.claims.TakeLog()
	published, writes := w.published.Load(), w.agents.Writes()
	w.wait(30 * time.Second)
	if log := w.claims.TakeLog(); len(log) > 0 {
		faults = append(faults, fmt.Sprintf("%d requests at rest: %q", len(log), log[:min(len(log), 5)]))
	}
	if n := w.published.Load() - published; n > 0 {
		faults = append(faults, fmt.Sprintf("%d news in the gossip at rest", n))
	}
	if n := w.agents.Writes() - writes; n > 0 {
		faults = append(faults, fmt.Sprintf("%d writes of NodeAgents at rest", n))
	}
	return faults
}
