// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// View is what one node knows of one group. It is not kept.
type View struct {
	// Self is the node that decides.
	Self loadbalancer.NodeName
	// Group to decide on.
	Group loadbalancer.Group
	// Claims are the ownerships that members gossip, this node's own included.
	// Claims of nodes that are not live do not count.
	Claims []loadbalancer.Ownership
	// Highest epoch ever heard of for the group, whoever claimed it.
	Highest uint64
	// Persisted is the owner in the API.
	Persisted loadbalancer.Ownership
	// PersistedGone says that the API server, too, holds the persisted owner for dead.
	PersistedGone bool
	// Successors are the proposed owners, best first.
	Successors []loadbalancer.NodeName
	// Nodes are the live ones, this one included, as far as this group goes.
	Nodes Nodes
	// KeepOnly leaves the group with its present owner: nobody takes it over.
	KeepOnly bool
	// Guard is why this node must not take anything over now, empty when it may.
	Guard reason.Reason
}

// Nodes are the live nodes as one group sees them. Few of them are asked for: a plan of
// thousands of groups must not look at every node for each.
type Nodes interface {
	// Why says whether a node is live and, if so, why it may not announce the group,
	// empty when it may. Two reasons are soft. With [reason.NodeCordoned] a node counts as
	// eligible while no other node is, and while the view is KeepOnly. With
	// [reason.Restarting] it keeps what it has, but is given nothing.
	Why(loadbalancer.NodeName) (why reason.Reason, live bool)
	// At returns one of Len live nodes, in any order that does not change meanwhile. Among
	// them are all that may announce the group, but for soft reasons.
	At(i int) (loadbalancer.NodeName, reason.Reason)
	Len() int
}

// Action is what the deciding node does about a group.
type Action uint8

const (
	// Wait says that the group is not this node's, and stays so.
	Wait Action = iota
	// Keep says that this node announces the group and goes on.
	Keep
	// TakeOver says that this node announces from now on, under a new epoch.
	TakeOver
	// Yield says that another node has the better claim; stop at once.
	Yield
	// Withdraw says that this node announces but may not any longer; it stops when another
	// has taken over, or soon.
	Withdraw
)

// String returns the action's name.
func (a Action) String() string {
	switch a {
	case Wait:
		return "Wait"
	case Keep:
		return "Keep"
	case TakeOver:
		return "TakeOver"
	case Yield:
		return "Yield"
	case Withdraw:
		return "Withdraw"
	default:
		return "Unknown"
	}
}

// Verdict is one node's decision on one group.
type Verdict struct {
	// Owner is the node that should announce. Its epoch is zero while that node has
	// not claimed the group yet. Zero when nobody may.
	Owner loadbalancer.Ownership
	// Action of the deciding node.
	Action Action
	// Heir is the node that takes the group over if the owner dies, as far as this node
	// can tell; empty when there is none or the group has no owner.
	Heir loadbalancer.NodeName
	// Reason says why this node does not announce, empty when it does.
	Reason reason.Reason
}

// Owner elects the owner of a group:
//
//  1. the eligible live node with the highest claimed epoch (ties: the lower name),
//     so that a group never moves because a better node came back. What such a node
//     wrote into the API counts as claimed, unless KeepOnly: after a pause the news
//     that another took over may come from there first;
//  2. else, unless KeepOnly, the owner in the API if it is live and eligible;
//  3. else the first live and eligible successor;
//  4. else the live and eligible node that rendezvous hashing picks.
//
// A take-over uses an epoch above all that were ever heard of. Whoever sees a better
// claim than its own stops at once.
func Owner(v View) Verdict {
	present := electorate{View: &v}
	elected := present.elect()
	out := v.decide(elected, &present)
	if elected.Node != "" {
		left := electorate{View: &v, without: elected.Node}
		out.Heir = left.elect().Node
	}
	return out
}

// decide says what this node does when elected is the one that should announce.
func (v *View) decide(elected loadbalancer.Ownership, e *electorate) Verdict {
	top, own := v.survey()
	switch {
	case elected.Node == v.Self:
		return v.decideElected(own, top)
	case own.Node == "":
		return Verdict{Owner: elected, Action: Wait, Reason: v.whyNot(elected)}
	case top.Beats(own), e.ownedInAPI(own):
		return Verdict{Owner: elected, Action: Yield, Reason: reason.NotOwner}
	default:
		return Verdict{Owner: elected, Action: Withdraw, Reason: v.whyNot(elected)}
	}
}

// survey returns the best claim of a live node, and this node's own.
func (v *View) survey() (top, own loadbalancer.Ownership) {
	for _, c := range v.Claims {
		if _, live := v.Nodes.Why(c.Node); !live {
			continue
		}
		if c.Node == v.Self && c.Beats(own) {
			own = c
		}
		if c.Beats(top) {
			top = c
		}
	}
	return top, own
}

// decideElected is the decision of the elected node itself.
func (v *View) decideElected(own, top loadbalancer.Ownership) Verdict {
	if own.Node != "" && own == top && !v.outrankedInAPI(own) {
		return Verdict{Owner: own, Action: Keep}
	}
	if own.Node == "" && v.Guard != "" {
		return Verdict{Owner: loadbalancer.Ownership{Node: v.Self}, Action: Wait, Reason: v.Guard}
	}
	if v.behind(top) {
		out := Verdict{Owner: loadbalancer.Ownership{Node: v.Self}, Action: Wait, Reason: reason.NotOwner}
		if own.Node != "" {
			out.Action = Yield
		}
		return out
	}
	next := 1 + max(v.Highest, top.Epoch, v.Persisted.Epoch)
	return Verdict{Owner: loadbalancer.Ownership{Node: v.Self, Epoch: next}, Action: TakeOver}
}

// behind says that another live node has the group under an epoch of which this node's
// copy of the API is more than one step short. It may not announce for this node, but
// does: the two do not know the same, and who is behind may be the one that is wrong. If
// each outbid the other, they would go on for ever. So it is left alone until the API
// tells of it; only one of the two can have its last claim there. A node that leaves says
// so itself.
func (v *View) behind(top loadbalancer.Ownership) bool {
	if top.Node == "" || top.Node == v.Self || v.Persisted.Epoch+1 >= top.Epoch {
		return false
	}
	why, _ := v.Nodes.Why(top.Node)
	return why != reason.Leaving
}

// outrankedInAPI says that the API holds a higher epoch of a node that surely does not
// announce the group: it is live and may not, or dead for the API server as well. A
// node that only the gossip misses may be on the other side of a partition; outbidding
// it would start a race of epochs between the two sides.
func (v *View) outrankedInAPI(own loadbalancer.Ownership) bool {
	if v.Persisted.Node == v.Self || v.Persisted.Epoch <= own.Epoch {
		return false
	}
	_, live := v.Nodes.Why(v.Persisted.Node)
	return live || v.PersistedGone
}

// whyNot says why this node does not announce when elected does.
func (v *View) whyNot(elected loadbalancer.Ownership) reason.Reason {
	if why, _ := v.Nodes.Why(v.Self); why != "" {
		return why
	}
	switch {
	case elected.Node != "":
		return reason.NotOwner
	case v.KeepOnly:
		return reason.NoEndpoints
	default:
		return reason.NoEligibleNode
	}
}
