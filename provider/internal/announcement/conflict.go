// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// conflictIndex finds the NodeAgents that report a conflict about an address.
const conflictIndex = "announcement/conflict"

const (
	// conflictDelay gathers what an agent reports of the hosts of an address: whoever sends
	// from ever new MAC addresses must not have the record written for each.
	conflictDelay = 50 * time.Millisecond
	// maxHosts are told of at one address: a condition's message is bounded.
	maxHosts = 4
	// maxTold are remembered as told of one record, the latest.
	maxTold = 64
)

// conflict is a host outside the cluster that has one of a Service's addresses.
type conflict struct {
	mac string
	// where is how the host was found, for people.
	where string
	since time.Time
}

func byConflict(obj any) ([]string, error) {
	agent, ok := obj.(*v1alpha1.NodeAgent)
	if !ok {
		return nil, fmt.Errorf("index node agents: unexpected %T", obj)
	}
	var out []string
	for _, c := range agent.Status.Conflicts {
		if !slices.Contains(out, c.Address) {
			out = append(out, c.Address)
		}
	}
	return out, nil
}

// conflictsChanged marks the records that a change of an agent's conflicts concerns.
func (c *Controller) conflictsChanged(before, after *v1alpha1.NodeAgent) {
	var old, now []v1alpha1.AddressConflict
	if before != nil {
		old = before.Status.Conflicts
	}
	if after != nil {
		now = after.Status.Conflicts
	}
	if equality.Semantic.DeepEqual(old, now) {
		return
	}
	for _, conflict := range slices.Concat(old, now) {
		addr, err := netip.ParseAddr(conflict.Address)
		if err != nil {
			continue // no claim is named so
		}
		claim := client.Get[v1alpha1.IPClaim](c.opts.Informers.Claims, v1alpha1.ClaimName(addr))
		if claim == nil {
			continue
		}
		for _, s := range claim.Spec.Services {
			c.queue.AddAfter(item{recordItem, s.Namespace + "/" + s.Name}, conflictDelay)
		}
	}
}

// conflictsOf returns the hosts that agents see at an address, by MAC address. What an
// agent wrote whose node is lost is no news any more, and where a node announces the
// address nobody else looks for such hosts: what another agent says there it said before,
// or it lies.
func (c *Controller) conflictsOf(addr string, owner *v1alpha1.Owner, w *world) []conflict {
	objs, err := c.opts.Informers.NodeAgents.GetIndexer().ByIndex(conflictIndex, addr)
	if err != nil {
		return nil // only for an unknown index, which New has added
	}
	var out []conflict
	for _, obj := range objs {
		agent, ok := obj.(*v1alpha1.NodeAgent)
		if !ok || !w.ready(loadbalancer.NodeName(agent.Name)) || owner != nil && owner.Node != agent.Name {
			continue
		}
		for _, seen := range agent.Status.Conflicts {
			if seen.Address == addr {
				out = append(out, conflict{seen.MAC, fmt.Sprintf("interface %s of node %s", seen.Interface, agent.Name), seen.Since.Time})
			}
		}
	}
	slices.SortFunc(out, func(a, b conflict) int {
		return cmp.Or(cmp.Compare(a.mac, b.mac), a.since.Compare(b.since), cmp.Compare(a.where, b.where))
	})
	out = slices.CompactFunc(out, func(a, b conflict) bool { return a.mac == b.mac })
	return out[:min(len(out), maxHosts)]
}

// ready reports whether a node exists and is Ready.
func (w *world) ready(name loadbalancer.NodeName) bool {
	i, found := slices.BinarySearchFunc(w.nodes, name, func(n node, name loadbalancer.NodeName) int { return cmp.Compare(n.name, name) })
	return found && w.nodes[i].facts.Ready
}

// words tells where the hosts were seen.
func (h holding) words() string {
	parts := make([]string, 0, len(h.conflicts))
	for _, c := range h.conflicts {
		parts = append(parts, fmt.Sprintf("MAC address %s, seen on %s since %s", c.mac, c.where, c.since.UTC().Format(time.RFC3339)))
	}
	return strings.Join(parts, "; ")
}

// assessDuplicates explains why addresses without an owner stay silent on purpose; false
// when that is not the cause.
func assessDuplicates(s situation) (answer, bool) {
	var parts []string
	for _, h := range s.held {
		if h.owner == nil && len(h.conflicts) > 0 {
			parts = append(parts, fmt.Sprintf("%s is not announced because a host that is no node of this cluster has it (%s)", h.addr, h.words()))
		}
	}
	if len(parts) == 0 {
		return answer{}, false
	}
	return answer{false, reason.DuplicateAddress, strings.Join(parts, ", ") +
		": take it away from that host, after which it is announced by itself, or exclude it in the pool"}, true
}

// assessConflict says that a host outside the cluster has an address that a node announces
// all the same; false when none has.
func assessConflict(s situation) (answer, bool) {
	var parts []string
	for _, h := range s.held {
		if h.owner != nil && len(h.conflicts) > 0 {
			parts = append(parts, fmt.Sprintf("%s is announced by node %s and by a host that is no node of this cluster (%s)", h.addr, h.owner.Node, h.words()))
		}
	}
	if len(parts) == 0 {
		return answer{}, false
	}
	return answer{true, reason.DuplicateAddress, strings.Join(parts, ", ") + ": connections may go to either; take the address away from that host"}, true
}

// tellConflicts emits one event per address and MAC address that has not been told yet, by
// this process or in the status that an earlier one wrote.
func (c *Controller) tellConflicts(r *v1alpha1.LoadBalancer, svc *corev1.ObjectReference, before v1alpha1.LoadBalancerStatus, s situation) {
	for _, h := range s.held {
		for _, conflict := range h.conflicts {
			if c.toldOf(r, h.addr+" "+conflict.mac) || conditionSays(before, h.addr, conflict.mac) {
				continue
			}
			does := "is not announced"
			if h.owner != nil {
				does = "is announced by node " + h.owner.Node + " all the same"
			}
			c.opts.Recorder.Eventf(svc, corev1.EventTypeWarning, reason.DuplicateAddress.String(),
				"a host that is no node of this cluster has %s (MAC address %s, %s): the address %s", h.addr, conflict.mac, conflict.where, does)
		}
	}
}

// toldOf remembers that a record's event was told, and returns whether it was before.
func (c *Controller) toldOf(r *v1alpha1.LoadBalancer, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := slices.Contains(c.told[r.UID], what)
	if !told {
		list := c.told[r.UID]
		c.told[r.UID] = append(list[max(0, len(list)-maxTold+1):], what)
	}
	return told
}

// conditionSays reports whether a status tells already that a host has an address.
func conditionSays(s v1alpha1.LoadBalancerStatus, addr, mac string) bool {
	for _, name := range []string{v1alpha1.ConditionAnnounced, v1alpha1.ConditionConflict} {
		c := meta.FindStatusCondition(s.Conditions, name)
		if c != nil && c.Reason == reason.DuplicateAddress.String() && strings.Contains(c.Message, addr+" ") && strings.Contains(c.Message, mac) {
			return true
		}
	}
	return false
}

// setCondition writes an answer into conditions.
func setCondition(conditions *[]metav1.Condition, name string, a answer, s situation) {
	status := metav1.ConditionFalse
	if a.ok {
		status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: name, Status: status, Reason: a.reason.String(), Message: a.message,
		ObservedGeneration: s.generation, LastTransitionTime: metav1.NewTime(s.now.Truncate(time.Second)),
	})
}
