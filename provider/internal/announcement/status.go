// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// situation is everything that a record's status depends on.
type situation struct {
	addresses []v1alpha1.LoadBalancerAddress
	// onNodes are addresses that are nodes' own: they are served, and not announced.
	onNodes    []string
	wish       wish
	forwarding forwarding
	// targets are the addresses that the group announces, this Service's among them;
	// needed while an address has no owner.
	targets []target
	// failure is what allocation reported last, nil when nothing is wrong.
	failure *failure
	// settled: allocation has said in this process that nothing is wrong.
	settled bool
	policy  v1alpha1.TrafficPolicy
	// held are the addresses, in order.
	held  []holding
	nodes []node
	// sessions of BGP, and the names of all BGPPeers; needed with BGPAdvertisements.
	sessions *sessions
	peers    []string
	// vain is what the Service says of its routes without effect, in words.
	vain       string
	endpoints  loadbalancer.Endpoints
	previous   []metav1.Condition
	generation int64
	now        time.Time
}

// holding is how the Service holds one of its addresses.
type holding struct {
	addr string
	// bound says that a bound claim names the Service.
	bound bool
	// retainUntil is the deadline of a claim that keeps the address for a namesake.
	retainUntil *metav1.Time
	// owner is nil when no existing node owns the address.
	owner *v1alpha1.Owner
	// sharers are the other Services that have it, where BGP asks for them.
	sharers []sharer
	// tellers are who tells routers of it.
	tellers telling
	// conflicts are hosts outside the cluster that have it too.
	conflicts []conflict
}

// owner returns the record's owner: that of its first address that has one. All
// addresses of a group have one owner, but for the moment in which a group is made.
func (s situation) owner() *v1alpha1.Owner {
	for _, h := range s.held {
		if h.owner != nil {
			return h.owner
		}
	}
	return nil
}

// owned reports whether every address has an owner, and there is one.
func (s situation) owned() bool {
	return len(s.held) > 0 && !slices.ContainsFunc(s.held, func(h holding) bool { return h.owner == nil })
}

// list joins those of the addresses that a condition holds for, and says how many.
func (s situation) list(want func(holding) bool) (text string, n int) {
	var out []string
	for _, h := range s.held {
		if want(h) {
			out = append(out, h.addr)
		}
	}
	return strings.Join(out, ", "), len(out)
}

// serving reports whether a node runs a pod that serves the Service.
func (s situation) serving(n node) bool {
	_, ok := s.endpoints.Nodes[n.name]
	return ok
}

// answer is one condition without its bookkeeping.
type answer struct {
	ok      bool
	reason  reason.Reason
	message string
}

// assess derives a record's status. Pure: the same situation gives the same status.
func assess(s situation, f forwarded) v1alpha1.LoadBalancerStatus {
	allocated := assessAllocated(s)
	announced := assessAnnounced(s)
	out := v1alpha1.LoadBalancerStatus{Owner: s.owner().DeepCopy(), Conditions: slices.Clone(s.previous)}
	for _, c := range []struct {
		name   string
		answer answer
	}{
		{v1alpha1.ConditionAllocated, allocated},
		{v1alpha1.ConditionAnnounced, announced},
		{v1alpha1.ConditionReady, assessReady(s, allocated, announced)},
	} {
		setCondition(&out.Conditions, c.name, c.answer, s)
	}
	if len(s.addresses)+len(s.onNodes) > 0 {
		setCondition(&out.Conditions, v1alpha1.ConditionForwarded, f.answer, s)
	} else {
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionForwarded)
	}
	if conflict, ok := assessConflict(s); ok {
		setCondition(&out.Conditions, v1alpha1.ConditionConflict, conflict, s)
	} else {
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionConflict)
	}
	return out
}

func assessAllocated(s situation) answer {
	if s.failure != nil {
		return answer{false, s.failure.reason, s.failure.message}
	}
	// Another process may have said why not, before us; allocation tries again anyway.
	before := meta.FindStatusCondition(s.previous, v1alpha1.ConditionAllocated)
	failed := before != nil && before.Status == metav1.ConditionFalse
	if len(s.addresses)+len(s.onNodes) > 0 && (s.settled || !failed || before.ObservedGeneration != s.generation) {
		parts := make([]string, 0, len(s.addresses))
		for _, a := range s.addresses {
			parts = append(parts, a.Address+" "+v1alpha1.Origin(a.Pool))
		}
		for _, a := range s.onNodes {
			parts = append(parts, a+" of a node")
		}
		return answer{true, reason.Allocated, strings.Join(parts, ", ")}
	}
	if failed {
		return answer{false, reason.Reason(before.Reason), before.Message}
	}
	return answer{false, reason.NotAllocated, "no address has been allocated yet"}
}

func assessAnnounced(s situation) answer {
	released, n := s.list(func(h holding) bool { return !h.bound })
	switch {
	case len(s.addresses) == 0 && len(s.onNodes) > 0:
		return answer{true, reason.Announced, strings.Join(s.onNodes, ", ") + ", of nodes: each answers for its own"}
	case len(s.addresses) == 0:
		return answer{false, reason.NotAllocated, "there is no address to announce"}
	case n > 0:
		return answer{false, reason.Released, whyReleased(s, released, n) + othersAnnounced(s)}
	case len(s.wish.bgp) > 0:
		return assessWithBGP(s)
	case len(s.wish.ads) == 0 && !s.owned():
		return s.wish.whyNoAdvertisement(poolsOf(s.addresses))
	}
	a := assessLayer2(s)
	a.message += s.wish.note()
	return a
}

// assessLayer2 says whether nodes announce every address on layer 2.
func assessLayer2(s situation) answer {
	if s.owned() {
		return answer{true, reason.Announced, announcedBy(s)}
	}
	a, duplicate := assessDuplicates(s)
	if !duplicate {
		a = assessUnowned(s)
	}
	a.message += othersAnnounced(s)
	return a
}

func whyReleased(s situation, addresses string, n int) string {
	for _, h := range s.held {
		if h.retainUntil != nil {
			return fmt.Sprintf("%s is kept for a Service of this name until %s and announced by nobody", h.addr, h.retainUntil.UTC().Format(time.RFC3339))
		}
	}
	if n > 1 {
		return addresses + " have no bound claims of this Service: they are being released or restored"
	}
	return addresses + " has no bound claim of this Service: it is being released or restored"
}

// announcedBy tells which node announces which addresses, in the addresses' order.
func announcedBy(s situation) string {
	var nodes []string
	for _, h := range s.held {
		if h.owner != nil && !slices.Contains(nodes, h.owner.Node) {
			nodes = append(nodes, h.owner.Node)
		}
	}
	parts := make([]string, 0, len(nodes))
	for _, name := range nodes {
		addrs, n := s.list(func(h holding) bool { return ownerNode(h.owner) == name })
		verb := " is announced by node "
		if n > 1 {
			verb = " are announced by node "
		}
		parts = append(parts, addrs+verb+name)
	}
	return strings.Join(parts, ", ") + " (layer 2)"
}

// othersAnnounced tells, where some addresses are not announced, which ones are.
func othersAnnounced(s situation) string {
	if s.owner() == nil {
		return ""
	}
	return "; " + announcedBy(s)
}

// unowned lists the addresses without an owner, and what decides on them: their own
// targets, where no node could announce those, else all that the group announces.
func (s situation) unowned() (addresses string, decisive []target) {
	announced := reachable(s.nodes, s.targets)
	lost := slices.DeleteFunc(slices.Clone(s.targets), func(t target) bool {
		return slices.ContainsFunc(announced, func(o target) bool { return o.addr == t.addr }) ||
			!slices.ContainsFunc(s.held, func(h holding) bool { return h.owner == nil && h.addr == t.addr.String() })
	})
	if len(lost) == 0 {
		addresses, _ = s.list(func(h holding) bool { return h.owner == nil })
		return addresses, announced
	}
	addresses, _ = s.list(func(h holding) bool {
		return slices.ContainsFunc(lost, func(t target) bool { return t.addr.String() == h.addr })
	})
	return addresses, lost
}

// assessUnowned explains why no node owns addresses that should be announced.
func assessUnowned(s situation) answer {
	ip, targets := s.unowned()
	candidates, others := tally(s, targets)
	local := s.policy == v1alpha1.TrafficPolicyLocal
	switch {
	case len(candidates) == 0 && others.has(reason.WaitingForAgent):
		return answer{false, reason.WaitingForAgent, fmt.Sprintf("no node agent is ready to announce %s (%s)", ip, others)}
	case len(candidates) == 0 && disputed(s.nodes, targets):
		return answer{false, reason.NoCommonNode, fmt.Sprintf(
			"the addresses and Services that go together with %s must be announced by one node, and none may announce all of them (%s): "+
				"let their advertisements select a common node and interface, or do not share", ip, others)}
	case len(candidates) == 0:
		return answer{false, reason.NoEligibleNode, fmt.Sprintf("no node may announce %s (%s)", ip, others)}
	case local && !s.endpoints.Any:
		return answer{false, reason.NoEndpoints, "no pod of the Service is ready, and with externalTrafficPolicy Local only a node with one announces"}
	case local && !slices.ContainsFunc(candidates, s.serving):
		return answer{false, reason.NoEligibleNode, fmt.Sprintf(
			"no node that may announce %s runs a ready pod, as externalTrafficPolicy Local needs (%s)", ip, others)}
	default:
		return answer{false, reason.WaitingForAgent, fmt.Sprintf("waiting for a node agent to take %s over", ip)}
	}
}

func assessReady(s situation, allocated, announced answer) answer {
	switch {
	case !allocated.ok:
		return allocated
	case !announced.ok:
		return announced
	case !s.endpoints.Any:
		return answer{false, reason.NoEndpoints, announced.message + ", but no pod of the Service is ready: connections are refused"}
	default:
		return announced
	}
}

// awaited reports whether nothing is missing but that an agent takes the addresses over.
func awaited(s situation) bool {
	_, targets := s.unowned()
	candidates, _ := tally(s, targets)
	both := len(s.wish.ads) > 0 && len(s.wish.bgp) > 0
	return len(candidates) > 0 && (assessAnnounced(s).reason == reason.WaitingForAgent || both && assessLayer2(s).reason == reason.WaitingForAgent)
}

// cause counts the nodes, or sessions, that do not announce for one reason.
type cause struct {
	reason reason.Reason
	count  int
}

// causes prints as "1 node NodeExcluded, 3 nodes NoInterface".
type causes []cause

// tally splits the nodes into those that may announce the targets and causes.
func tally(s situation, targets []target) ([]node, causes) {
	return tallyBy(s.nodes, func(n *node) reason.Reason { return n.verdict(targets) })
}

func tallyBy(nodes []node, verdict func(*node) reason.Reason) (candidates []node, found causes) {
	for i := range nodes {
		if r := verdict(&nodes[i]); r != "" {
			found = found.add(r)
		} else {
			candidates = append(candidates, nodes[i])
		}
	}
	return candidates, found
}

func (c causes) add(r reason.Reason) causes {
	i := slices.IndexFunc(c, func(e cause) bool { return e.reason == r })
	if i < 0 {
		return append(c, cause{r, 1})
	}
	c[i].count++
	return c
}

func (c causes) has(r reason.Reason) bool {
	return slices.ContainsFunc(c, func(e cause) bool { return e.reason == r })
}

func (c causes) String() string {
	if len(c) == 0 {
		return "the cluster has no node"
	}
	return c.of("node")
}

func (c causes) of(noun string) string {
	parts := make([]string, 0, len(c))
	for _, e := range c {
		things := " " + noun + " "
		if e.count > 1 {
			things = " " + noun + "s "
		}
		parts = append(parts, strconv.Itoa(e.count)+things+e.reason.String())
	}
	return strings.Join(parts, ", ")
}

// newFault returns the cause for which an address has newly stopped being announced,
// or was never, if a person has to do something about it.
func newFault(before, after []metav1.Condition) (name, message string, ok bool) {
	now := meta.FindStatusCondition(after, v1alpha1.ConditionAnnounced)
	if now == nil || now.Status != metav1.ConditionFalse {
		return "", "", false
	}
	if was := meta.FindStatusCondition(before, v1alpha1.ConditionAnnounced); was != nil && was.Reason == now.Reason {
		return "", "", false
	}
	faults := []reason.Reason{reason.NoAdvertisement, reason.NoEligibleNode, reason.NoCommonNode, reason.NoSession}
	return now.Reason, now.Message, slices.Contains(faults, reason.Reason(now.Reason))
}

// poolsOf returns the pools of the addresses, sorted.
func poolsOf(addrs []v1alpha1.LoadBalancerAddress) []string {
	var out []string
	for _, a := range addrs {
		if !slices.Contains(out, a.Pool) {
			out = append(out, a.Pool)
		}
	}
	slices.Sort(out)
	return out
}
