// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// BGP is which nodes tell which peers the addresses of a Service.
type BGP struct {
	// Nodes that tell the same peers, and why others do not.
	Nodes []string `json:"nodes,omitempty"`
	// Faults of its advertisements.
	Faults []string `json:"faults,omitempty"`
}

// bgpAd is one advertisement of a record.
type bgpAd struct {
	selectors convert.Selectors
	peers     []string
	// addresses of the record that it is for; none: all.
	addresses []string
}

// bgp describes who tells a record's addresses, nil where BGP has nothing to do with it.
func (b *book) bgp(r *v1alpha1.LoadBalancer) *BGP {
	var out *BGP
	var ads []bgpAd
	for _, ref := range r.Spec.Advertisements {
		if ref.Kind != v1alpha1.KindBGPAdvertisement {
			continue
		}
		if out == nil {
			out = &BGP{}
		}
		ad, faults := b.bgpAd(ref.Name)
		out.Faults = append(out.Faults, faults...)
		if ad != nil {
			ad.addresses = ref.Addresses
			ads = append(ads, *ad)
		}
	}
	if out == nil || b.state.Agents == nil {
		return out
	}
	names := make([]string, 0, len(b.state.Nodes))
	for i := range b.state.Nodes {
		names = append(names, b.state.Nodes[i].Name)
	}
	slices.Sort(names)
	for _, part := range parts(r, ads) {
		out.Nodes = append(out.Nodes, b.tellers(names, r, part)...)
	}
	return out
}

// part is some of a record's addresses that the same advertisements are for.
type part struct {
	// of names the addresses, "" for all of the record's.
	of  string
	ads []bgpAd
}

// parts are those of a record, in the order of its addresses.
func parts(r *v1alpha1.LoadBalancer, ads []bgpAd) []part {
	if !slices.ContainsFunc(ads, func(a bgpAd) bool { return len(a.addresses) > 0 }) {
		return []part{{ads: ads}}
	}
	var out []part
	for _, a := range r.Spec.Addresses {
		some := slices.DeleteFunc(slices.Clone(ads), func(ad bgpAd) bool { return len(ad.addresses) > 0 && !slices.Contains(ad.addresses, a.Address) })
		if len(some) > 0 {
			out = append(out, part{a.Address + " to ", some})
		}
	}
	return out
}

// tellers are the nodes, those that tell the same in one line.
func (b *book) tellers(names []string, r *v1alpha1.LoadBalancer, p part) []string {
	nodes := make(map[string][]string)
	var order []string
	for _, n := range names {
		says := b.tellsWords(n, r, p.ads)
		if nodes[says] == nil {
			order = append(order, says)
		}
		nodes[says] = append(nodes[says], n)
	}
	out := make([]string, 0, len(order))
	for _, says := range order {
		out = append(out, p.of+says+": "+strings.Join(nodes[says], ", "))
	}
	return out
}

// bgpAd reads an advertisement, nil where it is used by no node.
func (b *book) bgpAd(name string) (*bgpAd, []string) {
	i := slices.IndexFunc(b.state.BGPAdvertisements, func(a v1alpha1.BGPAdvertisement) bool { return a.Name == name })
	if i < 0 {
		return nil, []string{fmt.Sprintf("BGPAdvertisement %s does not exist any more, or cannot be read", name)}
	}
	in := &b.state.BGPAdvertisements[i]
	selectors, err := convert.BGPSelectors(in)
	if err != nil {
		return nil, []string{fmt.Sprintf("BGPAdvertisement %s is used by no node (%s): %v", name, reason.InvalidSelector, err)}
	}
	var faults []string
	for _, p := range in.Spec.Peers {
		if b.state.BGPPeersKnown && !slices.ContainsFunc(b.state.BGPPeers, func(o v1alpha1.BGPPeer) bool { return o.Name == p }) {
			faults = append(faults, fmt.Sprintf("BGPAdvertisement %s names BGPPeer %s, which does not exist (%s)", name, p, reason.UnknownPeer))
		}
	}
	return &bgpAd{selectors: selectors, peers: in.Spec.Peers}, faults
}

// tellsWords says which peers a node tells a record's addresses, or why none.
func (b *book) tellsWords(node string, r *v1alpha1.LoadBalancer, ads []bgpAd) string {
	nobody := func(why string) string { return "nobody (" + why + ")" }
	i := slices.IndexFunc(b.state.Agents, func(a v1alpha1.NodeAgent) bool { return a.Name == node })
	if i < 0 {
		return nobody("no agent")
	}
	sessions := b.state.Agents[i].Status.BGP
	obj := &b.state.Nodes[slices.IndexFunc(b.state.Nodes, func(n corev1.Node) bool { return n.Name == node })]
	here := slices.DeleteFunc(slices.Clone(ads), func(a bgpAd) bool { return !a.selectors.SelectsNode(obj.Labels) })
	switch why := placement.Barred(convert.Node(obj)); {
	case why != "":
		return nobody(why.String())
	case len(here) == 0:
		return nobody(reason.NodeNotSelected.String())
	}
	if e := b.state.Endpoints; e != nil && r.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal {
		_, has := e.Nodes[loadbalancer.NodeName(node)]
		switch {
		case !e.Any:
			return nobody(reason.NoEndpoints.String())
		case !has:
			return nobody(reason.NoLocalEndpoint.String())
		}
	}
	return sessionWords(sessions, here, nobody(reason.NoSession.String()))
}

// sessionWords says which of a node's sessions tell what these advertisements do.
func sessionWords(sessions []v1alpha1.BGPSessionStatus, ads []bgpAd, none string) string {
	var told, not []string
	draining := ""
	for i := range sessions {
		s := &sessions[i]
		if !slices.ContainsFunc(ads, func(a bgpAd) bool { return len(a.peers) == 0 || slices.Contains(a.peers, s.Peer) }) {
			continue
		}
		if s.State == v1alpha1.BGPEstablished {
			words := s.Peer
			if s.Reason == reason.FamilyNotAgreed.String() || s.Reason == reason.NoNextHop.String() {
				words += " (" + s.Reason + ": " + strings.TrimSuffix(s.Message, ".") + ")"
			}
			told = append(told, words)
			draining = s.Draining
			continue
		}
		words := s.Peer + " is " + string(s.State)
		if why := strings.TrimSuffix(s.Reason+": "+s.Message, ": "); why != "" && s.Reason != "" {
			words += " (" + strings.TrimSuffix(why, ".") + ")"
		}
		not = append(not, words)
	}
	out := strings.Join(told, " and ")
	switch {
	case len(told) == 0 && len(not) == 0:
		return none
	case len(told) == 0:
		return "nobody, " + strings.Join(not, ", ")
	}
	if draining != "" {
		out += " with the least preference (" + draining + ")"
	}
	if len(not) > 0 {
		out += ", but " + strings.Join(not, ", ")
	}
	return out
}

// toldByBGP says whether a claim's address is announced by BGP.
func (b *book) toldByBGP(c *v1alpha1.IPClaim) bool {
	for i := range b.state.Records {
		r := &b.state.Records[i]
		names := slices.ContainsFunc(c.Spec.Services, func(s v1alpha1.ServiceReference) bool { return s.UID == r.Spec.ServiceUID })
		if names && slices.ContainsFunc(r.Spec.Advertisements, func(a v1alpha1.AdvertisementReference) bool {
			return a.Kind == v1alpha1.KindBGPAdvertisement && (len(a.Addresses) == 0 || slices.Contains(a.Addresses, c.Spec.Address))
		}) {
			return true
		}
	}
	return false
}

func (p *page) bgp(b *BGP) {
	p.line("told by BGP")
	p.in(func() {
		p.list("peers", b.Nodes)
		p.list("fault", b.Faults)
	})
}
