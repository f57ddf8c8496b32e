// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// BGP are the caches of the kinds of BGP.
type BGP struct {
	Peers          cache.SharedIndexInformer // BGPPeer
	Advertisements cache.SharedIndexInformer // BGPAdvertisement
	Profiles       cache.SharedIndexInformer // BFDProfile
	Communities    cache.SharedIndexInformer // Community
	// Absent says that the API server does not have these kinds, as that of an older
	// installation, or does not let the controller read them. Records then keep the
	// references to BGPAdvertisements that they have.
	Absent func() bool
}

func (b *BGP) all() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{b.Peers, b.Advertisements, b.Profiles, b.Communities}
}

// bgpAdvertisement is a BGPAdvertisement and, by [node].index, the nodes that it selects.
type bgpAdvertisement struct {
	convert.Selectors

	name  string
	nodes []bool
	// peers by name; none means all.
	peers []string
	// says is what its routes say.
	says loadbalancer.BGPAdvertisement
}

// tells reports whether a peer is told.
func (a *bgpAdvertisement) tells(peer string) bool {
	return len(a.peers) == 0 || slices.Contains(a.peers, peer)
}

// addBGP converts what is known of BGP. An advertisement that is not valid is nobody's: its
// own condition says so.
func (w *world) addBGP(in *BGP) {
	w.blind = in.Absent()
	w.aliases, _ = convert.Aliases(list[v1alpha1.Community](in.Communities))
	for _, ad := range list[v1alpha1.BGPAdvertisement](in.Advertisements) {
		selectors, err := convert.BGPSelectors(ad)
		says, faults := convert.BGPAdvertisement(ad, w.aliases, nil)
		if err != nil || len(faults) > 0 {
			continue
		}
		out := &bgpAdvertisement{Selectors: selectors, name: ad.Name, nodes: make([]bool, len(w.nodes)), peers: ad.Spec.Peers, says: says}
		for i := range w.nodes {
			out.nodes[i] = selectors.SelectsNode(w.nodes[i].labels)
		}
		w.bgp = append(w.bgp, out)
	}
	slices.SortFunc(w.bgp, func(a, b *bgpAdvertisement) int { return cmp.Compare(a.name, b.name) })
	for _, p := range list[v1alpha1.BGPPeer](in.Peers) {
		w.peers = append(w.peers, p.Name)
	}
	slices.Sort(w.peers)
}

// bgpVerdict says why a node may not tell routes of these advertisements; Reason is empty
// when it may. The rule is the agents': see loadbalancer/plan.
func (n *node) bgpVerdict(ads []*bgpAdvertisement) reason.Reason {
	switch {
	case n.barred != "":
		return n.barred
	case !slices.ContainsFunc(ads, func(ad *bgpAdvertisement) bool { return ad.nodes[n.index] }):
		return reason.NodeNotSelected
	case !n.agentReady:
		return reason.WaitingForAgent
	default:
		return ""
	}
}

// bgpAdvertisementChanged marks what a change of a BGPAdvertisement concerns.
func (c *Controller) bgpAdvertisementChanged(before, after *v1alpha1.BGPAdvertisement) {
	if before != nil && after != nil && before.Generation == after.Generation && after.Generation != 0 {
		c.queue.Add(item{bgpAdvertisementItem, after.Name})
		return // our own status write
	}
	c.markBGPAdvertisements() // they may contradict each other
	c.worldChanged()
}

func (c *Controller) peerChanged(before, after *v1alpha1.BGPPeer) {
	if after != nil {
		c.queue.Add(item{peerItem, after.Name})
	} else {
		c.forgetPeer(before.Name)
	}
	if before != nil && after != nil && before.Generation == after.Generation && after.Generation != 0 {
		return // our own status write
	}
	c.markBGPAdvertisements()
	c.worldChanged()
}

func (c *Controller) profileChanged(_, _ *v1alpha1.BFDProfile) { c.markPeers() }

func (c *Controller) communityChanged(_, _ *v1alpha1.Community) {
	c.markBGPAdvertisements()
	c.worldChanged()
}

func (c *Controller) markBGPAdvertisements() {
	for _, name := range c.opts.Informers.BGP.Advertisements.GetStore().ListKeys() {
		c.queue.AddAfter(item{bgpAdvertisementItem, name}, worldDelay)
	}
}

func (c *Controller) markPeers() {
	for _, name := range c.opts.Informers.BGP.Peers.GetStore().ListKeys() {
		c.queue.AddAfter(item{peerItem, name}, worldDelay)
	}
}

// sessionsChanged marks what a change of one agent's BGP sessions may concern.
func (c *Controller) sessionsChanged(before, after *v1alpha1.NodeAgent) {
	if before != nil && after != nil && agentReady(before) == agentReady(after) && slices.EqualFunc(before.Status.BGP, after.Status.BGP, sameSession) {
		return // counters
	}
	c.queue.AddAfter(item{kind: sessionsItem}, worldDelay)
}

// sameSession reports whether two versions of a session make no difference here.
func sameSession(a, b v1alpha1.BGPSessionStatus) bool {
	return a.Peer == b.Peer && a.Address == b.Address && a.Reason == b.Reason && established(a) == established(b)
}

func established(s v1alpha1.BGPSessionStatus) bool { return s.State == v1alpha1.BGPEstablished }

// markSharers re-examines the other Services of a record's addresses: which nodes tell
// routers of a shared address depends on all of them.
func (c *Controller) markSharers(r *v1alpha1.LoadBalancer, delay time.Duration) {
	for _, a := range r.Spec.Addresses {
		claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, a.Claim)
		if claim == nil || len(claim.Spec.Services) < 2 {
			continue
		}
		for _, s := range claim.Spec.Services {
			if s.UID != r.Spec.ServiceUID {
				c.queue.AddAfter(item{recordItem, s.Namespace + "/" + s.Name}, delay)
			}
		}
	}
}

// toldByBGP reports whether a record is announced by BGP.
func toldByBGP(r *v1alpha1.LoadBalancer) bool {
	return slices.ContainsFunc(r.Spec.Advertisements, func(ad v1alpha1.AdvertisementReference) bool {
		return ad.Kind == v1alpha1.KindBGPAdvertisement
	})
}

// markToldByBGP re-examines every record that is announced by BGP.
func (c *Controller) markToldByBGP() {
	for _, r := range list[v1alpha1.LoadBalancer](c.opts.Informers.Records) {
		if toldByBGP(r) {
			c.queue.Add(item{recordItem, loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}.String()})
		}
	}
}
