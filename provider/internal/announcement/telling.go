// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// byBGP ends what is said of addresses that are announced by BGP, notByBGP begins what
	// is said of those that are announced otherwise only.
	byBGP    = "(BGP)"
	notByBGP = "but not by BGP"
	// wordsDelay is how soon a record that says the same but in other words, mostly in
	// other numbers, may be written again: nodes and sessions come and go, and every record
	// names them.
	wordsDelay = time.Minute
)

// telling is who tells routers of an address.
type telling struct {
	nodes []loadbalancer.NodeName
	peers []string
}

func (t telling) equal(o telling) bool {
	return slices.Equal(t.nodes, o.nodes) && slices.Equal(t.peers, o.peers)
}

// sharer is another Service that has an address. What one of them limits holds for all.
type sharer struct {
	wish      wish
	local     bool
	endpoints loadbalancer.Endpoints
}

// sharersOf returns the other Services of a claim.
func (c *Controller) sharersOf(addr netip.Addr, uid types.UID, w *world) []sharer {
	claim := lookup[v1alpha1.IPClaim](c.opts.Informers.Claims, v1alpha1.ClaimName(addr))
	if claim == nil {
		return nil
	}
	var out []sharer
	for _, ref := range claim.Spec.Services {
		key := loadbalancer.ServiceKey{Namespace: ref.Namespace, Name: ref.Name}.String()
		r := lookup[v1alpha1.LoadBalancer](c.opts.Informers.Records, key)
		if r == nil || r.Spec.ServiceUID != ref.UID || ref.UID == uid {
			continue
		}
		out = append(out, sharer{
			wish: wishOf(w, r.Spec.Addresses, c.serviceOf(r)), local: r.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal,
			endpoints: c.endpointsOf(key),
		})
	}
	return out
}

// bgpVerdict says why a node may not tell routers of an address, "" when it may.
func (s situation) bgpVerdict(n *node, h holding) reason.Reason {
	why := n.bgpVerdict(s.wish.bgp)
	for i := 0; i < len(h.sharers) && why == ""; i++ {
		if ads := h.sharers[i].wish.bgp; len(ads) > 0 {
			why = n.bgpVerdict(ads)
		}
	}
	return why
}

// servesLocally reports whether a node has what the policy Local of a Service, or of one
// that shares the address, asks for.
func (s situation) servesLocally(n *node, h holding) bool {
	return (!s.local() || s.serving(*n)) && !slices.ContainsFunc(h.sharers, func(o sharer) bool {
		_, serves := o.endpoints.Nodes[n.name]
		return o.local && !serves
	})
}

// tells reports whether a node is to tell a peer of an address.
func (s situation) tells(n *node, peer string, h holding) bool {
	return s.wish.tells(n, peer) && !slices.ContainsFunc(h.sharers, func(o sharer) bool {
		return len(o.wish.bgp) > 0 && !o.wish.tells(n, peer)
	})
}

// tellers returns who tells routers of an address: nodes that may announce it, to whom
// the session is up with a peer of an advertisement that selects them.
func (s situation) tellers(h holding) telling {
	var out telling
	addr, err := netip.ParseAddr(h.addr)
	if err != nil {
		return out // the CRD lets none through
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		if s.bgpVerdict(n, h) != "" || !s.servesLocally(n, h) {
			continue
		}
		tells := false
		for _, e := range s.sessions.of(n.name) {
			if !e.up || !e.carries(addr) || !s.tells(n, e.peer, h) {
				continue
			}
			tells = true
			if at, found := slices.BinarySearch(out.peers, e.peer); !found {
				out.peers = slices.Insert(out.peers, at, e.peer)
			}
		}
		if tells {
			out.nodes = append(out.nodes, n.name)
		}
	}
	return out
}

// tells reports whether a node is to tell a peer.
func (i wish) tells(n *node, peer string) bool {
	return slices.ContainsFunc(i.bgp, func(ad *bgpAdvertisement) bool { return ad.nodes[n.index] && ad.tells(peer) })
}

// onlyBGP reports whether nothing is wanted on layer 2.
func (i wish) onlyBGP() bool { return len(i.bgp) > 0 && len(i.ads) == 0 }

func (s situation) local() bool { return s.policy == v1alpha1.TrafficPolicyLocal }

// told reports whether routers are told of an address.
func (s situation) told(h holding) bool { return len(s.tellers(h).nodes) > 0 }

// assessWithBGP says whether addresses are announced that have BGPAdvertisements, and
// perhaps L2Advertisements. One way is enough for an address.
func assessWithBGP(s situation) answer {
	bgp := assessBGP(s)
	if s.wish.onlyBGP() {
		bgp.message += s.wish.note()
		return bgp
	}
	l2 := assessLayer2(s)
	missed := slices.ContainsFunc(s.held, func(h holding) bool { return h.owner == nil && !s.told(h) })
	out := answer{ok: true, reason: reason.Announced}
	switch {
	case l2.ok && bgp.ok:
		out.message = l2.message + "; " + bgp.message
	case missed:
		out = answer{false, l2.reason, l2.message + "; by BGP: " + bgp.message}
		if l2.ok { // hence of no address
			out.reason = bgp.reason
		}
	case l2.ok:
		out.message = fmt.Sprintf("%s, %s (%s): %s", l2.message, notByBGP, bgp.reason, bgp.message)
	case bgp.ok:
		out.message = fmt.Sprintf("%s, but not by layer 2 (%s): %s", bgp.message, l2.reason, l2.message)
	default:
		out.message = fmt.Sprintf("in part by layer 2 (%s): %s; in part by BGP (%s): %s", l2.reason, l2.message, bgp.reason, bgp.message)
	}
	out.message += s.wish.note()
	return out
}

// assessBGP says whether routers are told of every address.
func assessBGP(s situation) answer {
	var said []string
	var missed []holding
	var groups []telling
	var members [][]string
	for _, h := range s.held {
		t := s.tellers(h)
		if len(t.nodes) == 0 {
			missed = append(missed, h)
			continue
		}
		i := slices.IndexFunc(groups, t.equal)
		if i < 0 {
			i, groups, members = len(groups), append(groups, t), append(members, nil)
		}
		members[i] = append(members[i], h.addr)
	}
	for i, t := range groups {
		said = append(said, t.words(members[i]))
	}
	if len(missed) == 0 {
		return answer{true, reason.Announced, strings.Join(said, ", ") + " " + byBGP}
	}
	out := whyNotTold(s, missed)
	if len(said) > 0 {
		out.message += "; " + strings.Join(said, ", ") + " " + byBGP
	}
	return out
}

// words says who tells of addresses: how many nodes and which peers.
func (t telling) words(addrs []string) string {
	verb := "is"
	if len(addrs) > 1 {
		verb = "are"
	}
	by, to := t.parts()
	return fmt.Sprintf("%s %s announced by %s to %s", strings.Join(addrs, ", "), verb, by, to)
}

func (t telling) parts() (by, to string) {
	by, to = strconv.Itoa(len(t.nodes))+" nodes", strconv.Itoa(len(t.peers))+" peers: "
	if len(t.nodes) == 1 {
		by = "node " + string(t.nodes[0])
	}
	if len(t.peers) == 1 {
		to = "peer "
	}
	return by, to + abbreviate(t.peers)
}

// whyNotTold explains why nobody tells routers of addresses.
func whyNotTold(s situation, missed []holding) answer {
	ip, first := joinAddrs(missed), missed[0]
	candidates, others := tallyBy(s.nodes, func(n *node) reason.Reason { return s.bgpVerdict(n, first) })
	switch {
	case len(candidates) == 0 && others.has(reason.WaitingForAgent):
		return answer{false, reason.WaitingForAgent, fmt.Sprintf("no node agent is ready to announce %s (%s)", ip, others)}
	case len(candidates) == 0:
		return answer{false, reason.NoEligibleNode, fmt.Sprintf("no node may announce %s (%s)", ip, others)}
	case s.local() && !s.endpoints.Any:
		return answer{false, reason.NoEndpoints, "no pod of the Service is ready, and with externalTrafficPolicy Local only nodes with one announce"}
	}
	candidates = slices.DeleteFunc(candidates, func(n node) bool { return !s.servesLocally(&n, first) })
	if len(candidates) == 0 {
		return answer{false, reason.NoEligibleNode, fmt.Sprintf(
			"no node that may announce %s runs a ready pod, as externalTrafficPolicy Local needs (%s)", ip, others)}
	}
	return answer{false, reason.NoSession, fmt.Sprintf("nobody hears of %s: ", ip) + whyNoSession(s, candidates, first)}
}

// whyNoSession explains why no session takes the routes of nodes that may announce.
func whyNoSession(s situation, candidates []node, missed holding) string {
	peers := slices.DeleteFunc(slices.Clone(s.peers), func(p string) bool {
		return !slices.ContainsFunc(s.wish.bgp, func(ad *bgpAdvertisement) bool { return ad.tells(p) })
	})
	if len(s.peers) == 0 {
		return "there is no BGPPeer; create one for each router that is to send traffic here"
	}
	if len(peers) == 0 {
		return "no BGPPeer has a name that its BGPAdvertisements list in spec.peers; correct the names"
	}
	var found causes
	up, begun := 0, 0
	for i := range candidates {
		for _, e := range s.sessions.of(candidates[i].name) {
			switch {
			case !s.tells(&candidates[i], e.peer, missed):
			case e.up:
				up++
			default:
				begun++
				found = found.add(reasonOr(e.why, reason.NotEstablished))
			}
		}
	}
	names := abbreviate(peers)
	switch {
	case up > 0:
		family := "IPv4"
		if strings.Contains(missed.addr, ":") {
			family = "IPv6"
		}
		return fmt.Sprintf("no established session carries %s; set dualStackAddressFamily in the BGPPeer (%s), or create one with an %s address", family, names, family)
	case begun > 0:
		return fmt.Sprintf("no session with the routers (BGPPeer %s) is established (%s); \"kubectl fairlead bgp peers\" says what each of them lacks",
			names, found.of("session"))
	default:
		return fmt.Sprintf("no node that may announce has a session with the routers (BGPPeer %s); look at the peers' nodeSelectors, and whether agents run", names)
	}
}

func reasonOr(word string, otherwise reason.Reason) reason.Reason {
	if word == "" {
		return otherwise
	}
	return reason.Reason(word)
}

func joinAddrs(held []holding) string {
	out := make([]string, 0, len(held))
	for _, h := range held {
		out = append(out, h.addr)
	}
	return strings.Join(out, ", ")
}

// tooSoon returns for how long a status that differs from the server's in words only must
// wait.
func (c *Controller) tooSoon(r *v1alpha1.LoadBalancer, want v1alpha1.LoadBalancerStatus, s situation) time.Duration {
	if len(s.wish.bgp) == 0 {
		return 0
	}
	base := c.base(r)
	if equality.Semantic.DeepEqual(base, want) {
		return 0
	}
	same := want
	same.Conditions = slices.Clone(want.Conditions)
	for _, name := range []string{v1alpha1.ConditionAnnounced, v1alpha1.ConditionReady} {
		now, before := meta.FindStatusCondition(same.Conditions, name), meta.FindStatusCondition(base.Conditions, name)
		if now != nil && before != nil {
			now.Message = before.Message
		}
	}
	if !equality.Semantic.DeepEqual(base, same) {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.spoken[r.UID]; ok {
		return wordsDelay - s.now.Sub(last)
	}
	return 0
}

// spoke notes when a record's status was written.
func (c *Controller) spoke(uid types.UID, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoken[uid] = now
}

// eventBGP tells people that routers are told of addresses.
func eventBGP(s situation) string {
	var addrs []string
	var first telling
	for _, h := range s.held {
		if t := s.tellers(h); len(t.nodes) > 0 && (len(addrs) == 0 || t.equal(first)) {
			addrs, first = append(addrs, h.addr), t
		}
	}
	by, to := first.parts()
	return fmt.Sprintf("announcing %s from %s by BGP to %s", strings.Join(addrs, ", "), by, to)
}
