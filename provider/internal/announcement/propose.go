// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
)

// kindL2Advertisement is what records call an L2Advertisement.
const kindL2Advertisement = "L2Advertisement"

// Proposal completes a claim and a record before they are first written.
type Proposal struct {
	// Successors for every claim of the group, best first; empty when no node may announce.
	Successors []string
	// Advertisements of the record, sorted by name.
	Advertisements []v1alpha1.AdvertisementReference
}

// Propose computes successors and advertisements for a Service with these addresses
// from the caches, which must be synced. It writes nothing but remembers the first
// successor, so that proposals side by side spread over the nodes.
func (c *Controller) Propose(svc *corev1.Service, addrs []v1alpha1.LoadBalancerAddress) Proposal {
	w := c.worlds.get()
	wish := wishOf(w, addrs, svc.Labels)
	p := Proposal{Advertisements: wish.references()}
	if len(addrs) == 0 {
		return p
	}
	p.Successors = c.successors(groupOf(addrs), w, []wish4{wish})
	return p
}

// wish4 is what one Service wants announced by ARP.
type wish4 struct {
	// addr is the Service's IPv4 address, invalid when it has none.
	addr netip.Addr
	ads  []convert.Advertisement
}

func wishOf(w *world, addrs []v1alpha1.LoadBalancerAddress, serviceLabels map[string]string) wish4 {
	for _, a := range addrs {
		if addr, err := netip.ParseAddr(a.Address); err == nil && addr.Is4() {
			return wish4{addr: addr, ads: w.advertisementsFor(a.Pool, serviceLabels)}
		}
	}
	return wish4{}
}

func (i wish4) references() []v1alpha1.AdvertisementReference {
	refs := make([]v1alpha1.AdvertisementReference, 0, len(i.ads))
	for _, ad := range i.ads {
		refs = append(refs, v1alpha1.AdvertisementReference{Kind: kindL2Advertisement, Name: ad.Name})
	}
	return refs
}

// groupOf names the group of a Service's addresses: the lowest claim name.
func groupOf(addrs []v1alpha1.LoadBalancerAddress) loadbalancer.Group {
	names := make([]string, 0, len(addrs))
	for _, a := range addrs {
		names = append(names, a.Claim)
	}
	return loadbalancer.Group(slices.Min(names))
}

// successors proposes a group's list and remembers its head. Every Service of the
// group must be announceable by a node, or the node is no candidate.
func (c *Controller) successors(group loadbalancer.Group, w *world, wishes []wish4) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var candidates []placement.Candidate
	for _, n := range w.nodes {
		if n.mayAnnounce(wishes) {
			candidates = append(candidates, placement.Candidate{
				Node: n.name, NotReady: !n.ready, Load: c.ledger.loadWithout(n.name, group),
			})
		}
	}
	owner, current, seen := c.present(group)
	names := placement.Successors(group, owner, current, candidates)
	var first loadbalancer.NodeName
	if len(names) > 0 {
		first = names[0]
	}
	c.ledger.reserve(group, first, seen, time.Now())
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, string(n))
	}
	return out
}

func (n node) mayAnnounce(wishes []wish4) bool {
	wanted := false
	for _, i := range wishes {
		if !i.addr.IsValid() {
			continue
		}
		if n.verdict(i.addr, i.ads) != "" {
			return false
		}
		wanted = true
	}
	return wanted
}

// present returns a group's owner and list as the cache has them, and whether the cache
// has a bound claim at all. The head of our last proposal leads the list, because the
// cache may lag behind it.
func (c *Controller) present(group loadbalancer.Group) (loadbalancer.NodeName, []loadbalancer.NodeName, bool) {
	var owner loadbalancer.Ownership
	var current []loadbalancer.NodeName
	seen := false
	if first := c.ledger.first[group]; first != "" {
		current = append(current, first)
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
