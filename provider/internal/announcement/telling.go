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
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
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
	claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, v1alpha1.ClaimName(addr))
	if claim == nil {
		return nil
	}
	var out []sharer
	for _, ref := range claim.Spec.Services {
		key := loadbalancer.ServiceKey{Namespace: ref.Namespace, Name: ref.Name}.String()
		r := client.Get[v1alpha1.LoadBalancer](c.opts.Informers.Records, key)
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

// question is an address with what decides on who tells routers of it.
type question struct {
	addr netip.Addr
	// ads are the BGPAdvertisements of each Service that has it and any, the own first.
	ads [][]*bgpAdvertisement
	// local are the endpoints of those Services that only nodes with one announce.
	local []loadbalancer.Endpoints
}

func (s situation) ask(h holding) question {
	q := question{addr: h.ip()}
	if s.local() {
		q.local = append(q.local, s.endpoints)
	}
	q.ads = append(q.ads, s.wish.bgpFor(q.addr))
	for _, o := range h.sharers {
		if ads := o.wish.bgpFor(q.addr); len(ads) > 0 {
			q.ads = append(q.ads, ads)
		}
		if o.local {
			q.local = append(q.local, o.endpoints)
		}
	}
	return q
}

// verdict says why a node may not tell routers of the address, "" when it may.
func (q *question) verdict(n *node) reason.Reason {
	for _, ads := range q.ads {
		if why := n.bgpVerdict(ads); why != "" {
			return why
		}
	}
	return ""
}

// serves reports whether a node has what the policy Local of any of the Services asks for.
func (q *question) serves(n *node) bool {
	return !slices.ContainsFunc(q.local, func(e loadbalancer.Endpoints) bool {
		_, serves := e.Nodes[n.name]
		return !serves
	})
}

// tells reports whether a node is to tell a peer.
func (q *question) tells(n *node, peer string) bool {
	return !slices.ContainsFunc(q.ads, func(ads []*bgpAdvertisement) bool {
		return !slices.ContainsFunc(ads, func(ad *bgpAdvertisement) bool { return ad.nodes[n.index] && ad.tells(peer) })
	})
}

// tellers returns who tells routers of an address: nodes that may announce it, to whom
// the session is up with a peer of an advertisement that selects them.
func (s situation) tellers(h holding) telling {
	var out telling
	q := s.ask(h)
	for i := range s.nodes {
		n := &s.nodes[i]
		if q.verdict(n) != "" || !q.serves(n) {
			continue
		}
		tells := false
		for _, e := range s.sessions.of(n.name) {
			if !e.up || !e.carries(q.addr) || !q.tells(n, e.peer) {
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

// onlyBGP reports whether nothing is wanted on layer 2.
func (i wish) onlyBGP() bool { return len(i.bgp) > 0 && len(i.ads) == 0 }

func (s situation) local() bool { return s.policy == v1alpha1.TrafficPolicyLocal }

// assessWithBGP says whether addresses are announced that have BGPAdvertisements, and
// perhaps L2Advertisements. One way is enough for an address.
func assessWithBGP(s situation) answer {
	bgp := assessBGP(s)
	if s.wish.onlyBGP() {
		bgp.message += s.wish.note()
		return bgp
	}
	l2 := assessLayer2(s)
	missed := slices.ContainsFunc(s.held, func(h holding) bool { return h.owner == nil && len(h.tellers.nodes) == 0 })
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
		if len(s.wish.bgpFor(h.ip())) == 0 && !s.wish.onlyBGP() {
			continue // layer 2's
		}
		t := h.tellers
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
		return answer{true, reason.Announced, strings.Join(said, ", ") + " " + byBGP + s.vain}
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
	if len(s.wish.bgpFor(first.ip())) == 0 {
		return s.wish.whyNoAdvertisement([]string{s.poolOf(first)})
	}
	q := s.ask(first)
	candidates, others := tallyBy(s.nodes, q.verdict)
	switch {
	case len(candidates) == 0 && others.has(reason.WaitingForAgent):
		return answer{false, reason.WaitingForAgent, fmt.Sprintf("no node agent is ready to announce %s (%s)", ip, others)}
	case len(candidates) == 0:
		return answer{false, reason.NoEligibleNode, fmt.Sprintf("no node may announce %s (%s)", ip, others)}
	case s.local() && !s.endpoints.Any:
		return answer{false, reason.NoEndpoints, "no pod of the Service is ready, and with externalTrafficPolicy Local only nodes with one announce"}
	}
	candidates = slices.DeleteFunc(candidates, func(n node) bool { return !q.serves(&n) })
	if len(candidates) == 0 {
		return answer{false, reason.NoEligibleNode, fmt.Sprintf(
			"no node that may announce %s runs a ready pod, as externalTrafficPolicy Local needs (%s)", ip, others)}
	}
	return answer{false, reason.NoSession, fmt.Sprintf("nobody hears of %s: ", ip) + whyNoSession(s, candidates, &q)}
}

// whyNoSession explains why no session takes the routes of nodes that may announce.
func whyNoSession(s situation, candidates []node, q *question) string {
	peers := slices.DeleteFunc(slices.Clone(s.peers), func(p string) bool {
		return !slices.ContainsFunc(q.ads[0], func(ad *bgpAdvertisement) bool { return ad.tells(p) })
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
			case !q.tells(&candidates[i], e.peer):
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
		if q.addr.Is6() {
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

// ip returns the address; the CRD lets nothing else through.
func (h holding) ip() netip.Addr {
	addr, err := netip.ParseAddr(h.addr)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

// poolOf returns the pool of an address.
func (s situation) poolOf(h holding) string {
	for _, a := range s.addresses {
		if a.Address == h.addr {
			return a.Pool
		}
	}
	return ""
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
		if t := h.tellers; len(t.nodes) > 0 && (len(addrs) == 0 || t.equal(first)) {
			addrs, first = append(addrs, h.addr), t
		}
	}
	by, to := first.parts()
	return fmt.Sprintf("announcing %s from %s by BGP to %s", strings.Join(addrs, ", "), by, to)
}
