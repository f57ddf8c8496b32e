// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
)

// Proposal completes a claim and a record before they are first written.
type Proposal struct {
	// Successors for every claim of the group, best first; empty when no node may announce
	// on layer 2. By BGP every node announces, and nobody succeeds.
	Successors []string
	// Advertisements of the record: those of layer 2, then those of BGP, each by name.
	Advertisements []v1alpha1.AdvertisementReference
}

// Propose computes successors and advertisements for a Service with these addresses
// from the caches, which must be synced. Where other Services hold some of the addresses
// already, the proposal is for the group that they make together. It writes nothing but
// remembers the first successor, so that proposals side by side spread over the nodes.
func (c *Controller) Propose(svc *corev1.Service, addrs []v1alpha1.LoadBalancerAddress) Proposal {
	w := c.worlds.get()
	own := wishOf(w, addrs, svc)
	p := Proposal{Advertisements: own.references(nil)}
	if len(addrs) == 0 {
		return p
	}
	group := groupOf(addrs)
	var joined []*v1alpha1.IPClaim
	for _, g := range c.groupsOf(addrs) {
		group = min(group, g)
		joined = append(joined, boundOf(c.claimsOf(g))...)
	}
	p.Successors = c.successors(group, w, append(c.wishesOf(joined, w, svc.UID), own), false)
	return p
}

// groupsOf returns the groups that bound claims of these addresses are in already, as
// the cache has it.
func (c *Controller) groupsOf(addrs []v1alpha1.LoadBalancerAddress) []loadbalancer.Group {
	var out []loadbalancer.Group
	for _, a := range addrs {
		claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, a.Claim)
		if claim == nil || claim.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		if g := loadbalancer.Group(claim.Spec.Group); !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// groupOf names the group of a Service's addresses: the lowest claim name.
func groupOf(addrs []v1alpha1.LoadBalancerAddress) loadbalancer.Group {
	names := make([]string, 0, len(addrs))
	for _, a := range addrs {
		names = append(names, a.Claim)
	}
	return loadbalancer.Group(slices.Min(names))
}

// successors proposes a group's list and remembers its head. A candidate can announce
// every address of the group as every Service wants it. While a proposal is only about
// to join a group that exists, the group's head stays what it is.
func (c *Controller) successors(group loadbalancer.Group, w *world, wishes []wish, settled bool) []string {
	targets := targetsOf(wishes)
	preferences := preferencesOf(targets)
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := c.idsOf(w)
	candidates := c.scratch[:0]
	own := c.ledger.heads[group][0]
	for _, i := range c.able.of(w, targets) {
		n := &w.nodes[i]
		candidate := placement.Candidate{
			Node: n.name, ID: ids[i], Seed: n.seed, NotReady: !n.facts.Ready, Cordoned: n.facts.Cordoned,
			Weight: weightOf(n, preferences), Load: c.ledger.load[ids[i]],
		}
		if n.name == own {
			candidate.Load-- // this group's
		}
		candidates = append(candidates, candidate)
	}
	c.scratch = candidates
	owner, current, seen := c.present(group)
	names := placement.Successors(placement.Proposal{
		Group: group, Owner: owner, Current: current, Candidates: candidates, Heirs: c.ledger.heirsWithout(group),
	})
	if settled == seen { // a settled group that is not seen has just gone
		c.ledger.reserve(group, names, seen, time.Now())
	}
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, string(n))
	}
	return out
}

// idsOf returns the ledger's numbers of a world's nodes. Locked by the caller.
func (c *Controller) idsOf(w *world) []int {
	if c.numbered != w {
		c.ledger.compact(len(w.nodes))
		c.numbered, c.ids = w, c.ids[:0]
		for i := range w.nodes {
			c.ids = append(c.ids, c.ledger.id(w.nodes[i].name))
		}
	}
	return c.ids
}

// preferencesOf returns the advertisements that give nodes a weight, each once.
func preferencesOf(targets []target) []*advertisement {
	var out []*advertisement
	for _, t := range targets {
		for _, ads := range t.wishes {
			for _, ad := range ads {
				if ad.weights != nil && !slices.Contains(out, ad) {
					out = append(out, ad)
				}
			}
		}
	}
	return out
}

func weightOf(n *node, preferences []*advertisement) int {
	sum := 0
	for _, ad := range preferences {
		sum += ad.weights[n.index]
	}
	return sum
}

// present returns a group's owner and list as the cache has them, and whether the cache
// has a bound claim at all. The first two of our last proposal lead the list, because the
// cache may lag behind it.
func (c *Controller) present(group loadbalancer.Group) (loadbalancer.NodeName, []loadbalancer.NodeName, bool) {
	var owner loadbalancer.Ownership
	var current []loadbalancer.NodeName
	seen := false
	for _, n := range c.ledger.heads[group] {
		if n != "" {
			current = append(current, n)
		}
	}
	for _, claim := range c.claimsOf(group) {
		if claim.Spec.Phase != v1alpha1.ClaimBound {
			continue // its owner is about to let go
		}
		seen = true
		if o := convert.Ownership(claim.Status.Owner); o.Beats(owner) {
			owner = o
		}
		if claim.Name == string(group) {
			for _, s := range claim.Spec.Successors {
				current = append(current, loadbalancer.NodeName(s))
			}
		}
	}
	return owner.Node, current, seen
}
