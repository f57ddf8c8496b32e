// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Member is a live node agent as the gossip describes it.
type Member struct {
	// Known is false while only the member's name is known, not its state.
	Known bool
	// Leaving members are withdrawing for good.
	Leaving bool
	// Absent members cannot act now: their agents restart, or only the gossip misses them
	// while their kernels answer. They keep what they claim and are given nothing else.
	Absent bool
	// Interfaces that can announce.
	Interfaces []loadbalancer.Interface
	// Gateways are the next hops of the node's default routes.
	Gateways []netip.Addr
	// Claims are what the member announces, with epochs: the names of claims, and those of
	// their groups, which is all that an agent of an earlier version tells.
	Claims map[loadbalancer.Group]uint64
}

// Snapshot is all that one node's plan depends on. It is not changed once made.
type Snapshot struct {
	// Self is the planning node. Its own interfaces, claims and intent are in Members.
	Self loadbalancer.NodeName
	// Claims by address, one each.
	Claims []loadbalancer.Claim
	// Records by Service UID.
	Records map[loadbalancer.ServiceUID]loadbalancer.Record
	// Advertisements by name.
	Advertisements map[string]loadbalancer.Advertisement
	// Nodes by name.
	Nodes map[loadbalancer.NodeName]loadbalancer.Node
	// Endpoints by Service.
	Endpoints map[loadbalancer.ServiceKey]loadbalancer.Endpoints
	// Members are the live node agents, this one included.
	Members map[loadbalancer.NodeName]Member
	// Highest epoch that was ever heard of, by name of claim and of group.
	Highest map[loadbalancer.Group]uint64
	// Guard is why nothing may be taken over now, empty when it may.
	Guard reason.Reason
	// Hold is like Guard, but only for groups that had an owner: verdicts of death
	// that this node reached while it was stalled itself are not to be trusted.
	Hold bool
	// Awaited are nodes of which this agent, which has just started, has heard nothing
	// yet, and which the API server holds for ready: their agents may be restarting too.
	// Nothing is taken over that is theirs in the API.
	Awaited map[loadbalancer.NodeName]struct{}
	// Dead are nodes whose agents were members and are known to be gone: real servers there
	// get nothing new, within the limits of package plan.
	Dead map[loadbalancer.NodeName]struct{}
	// InCluster are further sources that count as within the cluster, beside the nodes' PodCIDRs.
	InCluster []netip.Prefix
	// BGP is what this node is told to do by BGP, Drain how it ends that.
	BGP   loadbalancer.BGPConfig
	Drain loadbalancer.BGPDrain
	// Forwards says that this node's kernel forwards by IPVS; else nothing is planned for it.
	Forwards bool
	// Changed says what of Claims, Records, Endpoints and Highest changed since the last plan by
	// the same Memory, nil where nobody knows. The rest is compared. Where it is not nil, Claims
	// have different names, and those fields may be changed once the plan is made.
	Changed *loadbalancer.Changes
}

// Announcement is one address on one interface.
type Announcement struct {
	Interface string
	Addr      netip.Addr
}

// GroupState is the decision on one group.
type GroupState struct {
	placement.Verdict
	// Claims are the addresses of all the group's claims, ascending.
	Claims []netip.Addr
	// Addrs of the group that layer 2 announces, ascending.
	Addrs []netip.Addr
	// Silent are the others, and why.
	Silent map[netip.Addr]reason.Reason
	// Orphans are addresses that this node announces and yields, but that the better claim
	// does not name yet: two groups have just become one. The node goes on with them until
	// it does, or for a moment.
	Orphans []netip.Addr
	// Announce is where this node announces them if it is the owner.
	Announce []Announcement
}

// NodeState is what one node should do: a decision for every group with a claim.
type NodeState struct {
	Groups map[loadbalancer.Group]GroupState
	// Forwarding is what this node's data plane should be.
	Forwarding loadbalancer.Forwarding
	// BGP is what this node tells its peers.
	BGP loadbalancer.BGPPlan
}

// Announcements returns what this node announces now, with the epoch of each.
func (s NodeState) Announcements() map[Announcement]uint64 {
	out := make(map[Announcement]uint64)
	for _, g := range s.Groups {
		if g.Action != placement.Keep && g.Action != placement.TakeOver {
			continue
		}
		for _, a := range g.Announce {
			out[a] = g.Owner.Epoch
		}
	}
	return out
}
