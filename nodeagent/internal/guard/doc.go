// SPDX-License-Identifier: Apache-2.0

// Package guard owns the nftables table "fairlead" of family inet: it has the packets of
// served addresses reach IPVS past whatever kube-proxy would do with them, and has what
// IPVS does not take wait or be refused. It must not touch any other table, nor program
// virtual servers or addresses. The agent's data plane calls it, and nobody else, from one
// goroutine.
//
// # The hooks, in the order in which a packet meets them, and why there
//
//   - prerouting −150 (mangle, after conntrack at −200, whose reassembly at −400 has made
//     fragments whole): drops sources that may not connect; marks packets of pods, so that
//     IPVS finds the virtual server of that mark instead of the one of address and port.
//   - output −150: marks packets of the node itself, for the same. The chain's type is
//     filter, not route: a mark is no reason to look up the route again.
//   - prerouting and output −110 (nat): map the destination to itself. The kernel runs nat
//     chains in the order of their priorities until one has decided for the connection
//     (nf_nat_inet_fn), so kube-proxy's at −100 are not asked, in iptables, legacy or
//     nftables mode alike. Other ports of an address of ours are decided the same way, or
//     its node ports would be reachable there. Both hooks are needed: packets of the node
//     itself never pass prerouting.
//   - output −98 is where IPVS takes packets of the node itself (−99: answers); what still
//     has its destination at output 110 was not taken. It is dropped here and not at input:
//     on its way through lo the kernel would confirm the connection without masquerading,
//     and every repetition would leave with a source that the pod cannot answer.
//   - forward −10: an address of ours is on our link. If it is not for a moment, then its
//     packets would go back to the segment; they are dropped until it is there again.
//   - input 98 and 99 is where IPVS takes packets from elsewhere. What still goes to an
//     address of ours at input 110 was not taken: a served port waits (a dropped SYN is
//     repeated after a second), anything else is refused. TCP packets that belong to no
//     connection here and open none are answered by a reset even on a served port: after
//     a failover, their clients should connect anew instead of timing out. Connections
//     that are known here wait: whoever deletes the last virtual server of a family, as a
//     kube-proxy that starts, unregisters the hooks of IPVS (Linux 5.9, ip_vs_unregister_hooks),
//     and they go on when it is back. IPVS deletes a connection from conntrack when it
//     forgets it (ip_vs_conn_drop_conntrack), so what conntrack knows, IPVS does. ICMP is
//     accepted: the node answers echo requests for an announced address; errors that belong
//     to a connection have been taken by IPVS at 99.
//   - forward and input 110, after IPVS has given answers the source that the client
//     asked (98 and 100): those that it did not are dropped; whoever gets them would reset
//     the connection. Connections that kube-proxy translated have the status dnat.
//   - postrouting 90 (nat, before kube-proxy's and the CNI's at 100): masquerades packets
//     with our mark, since the pod may be the client itself, or answer to it past this node;
//     and packets from outside of Services that ask for it, by the destination that
//     conntrack saw first, unless the real server is a pod of this node, whose answers pass
//     here anyway. That needs net/ipv4/vs/conntrack=1: else IPVS hides its packets from
//     conntrack.
//
// Addresses that are not ours alone (a node's own as an external IP; one that a Service left
// to kube-proxy shares) have only their served ports treated so, and are never refused.
//
// Everything that changes is an element of a set or map. The first Apply, and one after
// something else has changed the table, replaces all of it in one transaction: a packet
// meets the former rules or the new ones, never none.
package guard
