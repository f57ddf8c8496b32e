// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/externalip"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// External is what becomes of one address of spec.externalIPs.
type External struct {
	// Decision is the claim to have, unless OnNode.
	Decision
	// OnNode: the address is a node's own, which serves it; nobody claims or announces it.
	OnNode bool
	// Lost: it was a node's own and no node has it now. It waits for its node: announced
	// by another, it would be there twice when the node is back.
	Lost bool
}

// onNode is a Service that is about to serve ports on addresses of nodes.
type onNode struct {
	tenant pool.Tenant
	addrs  []netip.Addr
}

// AllocateExternal decides whether a Service may have an address of its spec.externalIPs
// and books it, as Allocate does.
func (s *Store) AllocateExternal(svc *corev1.Service, a netip.Addr) (External, *pool.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	t := convert.Tenant(svc)
	ns := t.Service.Namespace
	if !externalip.Granted(s.policy, ns, s.namespaces[ns], a, t.Ports) {
		return External{}, &pool.Error{Reason: reason.ExternalIPNotGranted, Message: fmt.Sprintf(
			"spec.externalIPs: %s is not granted to namespace %s on these ports; it is neither served nor announced, but kube-proxy serves what is in the spec: take it out, or grant it in ExternalIPPolicy %q",
			a, ns, v1alpha1.ExternalIPPolicyName)}
	}
	if _, own := s.owners[a]; own || s.servedOnNode(svc, a) {
		return s.allocateOnNode(svc, t, a)
	}
	if whose := s.forbidden(a); whose != "" {
		return External{}, &pool.Error{Reason: reason.AddressReserved, Message: fmt.Sprintf(
			"address %s is in spec.externalIPs, but it is %s; it is neither served nor announced: take it out", a, whose)}
	}
	as, err := pool.AllocateExternal(s.set, s.ledger, t, a)
	// What it has by its load balancer beside others is theirs once it leaves there.
	if h, held := s.ledger.Holding(a); err == nil && held && h.State == pool.Bound {
		if misfit := pool.Fits(h, t, pool.ExternalKey); misfit != nil {
			err = &pool.Error{Reason: reason.ExternalIPInUse, Message: fmt.Sprintf("address %s is in spec.externalIPs, but %s", a, misfit.Message)}
		}
	}
	if err != nil {
		return External{}, err
	}
	s.book(a, booking{pool.ExternalKey, t})
	c := s.claims[v1alpha1.ClaimName(a)]
	if as.Pool == "" && c != nil {
		as.Pool = c.Spec.Pool
	}
	return External{Decision: Decision{as, c}}, nil
}

// forbidden says what an address is that no Service gets, empty when it is none. mu is held.
func (s *Store) forbidden(a netip.Addr) string {
	if !a.IsGlobalUnicast() {
		return "no address of one host"
	}
	if s.ledger.Reserved(a) {
		return "the address of " + s.cluster.reserved()[a]
	}
	if _, inPool := s.set.ByAddr(a); inPool {
		return "" // the pool answers for its ranges
	}
	if _, held := s.ledger.Holding(a); held {
		return "" // a range that came later takes nothing away
	}
	for _, ranges := range [][]pool.ClusterRange{s.ranges, s.cluster.ranges()} {
		for _, r := range ranges {
			if r.Interval.Contains(a) {
				return "in " + r.String()
			}
		}
	}
	return ""
}

// servedOnNode reports whether a Service's record has an address as a node's own. mu is held.
func (s *Store) servedOnNode(svc *corev1.Service, a netip.Addr) bool {
	r := s.records[convert.Key(svc)]
	return r != nil && r.Spec.ServiceUID == svc.UID && slices.Contains(r.Spec.NodeAddresses, a.String())
}

// allocateOnNode decides on a node's own address, of which there is no claim: on it too,
// one port is one Service's. mu is held.
func (s *Store) allocateOnNode(svc *corev1.Service, t pool.Tenant, a netip.Addr) (External, *pool.Error) {
	mine := s.servedOnNode(svc, a)
	for _, o := range s.othersOnNode(svc, a) {
		if mine && !o.before(svc) {
			continue // both have it: the older one keeps it
		}
		for _, p := range t.Ports {
			if slices.Contains(o.ports, p) {
				return External{}, &pool.Error{Reason: reason.ExternalIPInUse, Message: fmt.Sprintf(
					"address %s is in spec.externalIPs and a node's own, but Service %s has port %s/%d on it; change one of the ports, or use another address",
					a, o.key, p.Protocol, p.Number)}
			}
		}
	}
	b := s.bookedOnNodes[svc.UID]
	b.tenant, b.addrs = t, append(b.addrs, a)
	s.bookedOnNodes[svc.UID] = b
	_, own := s.owners[a]
	return External{Decision: Decision{Assignment: pool.Assignment{Addr: a}}, OnNode: true, Lost: !own}, nil
}

// neighbour is another Service on a node's own address.
type neighbour struct {
	key   loadbalancer.ServiceKey
	ports []pool.Port
	// svc is nil where it only is about to be there.
	svc *corev1.Service
}

// before reports whether the neighbour is older; one that is about to come is not.
func (n neighbour) before(svc *corev1.Service) bool {
	return n.svc != nil && cmp.Or(n.svc.CreationTimestamp.Compare(svc.CreationTimestamp.Time),
		cmp.Compare(n.key.Namespace, svc.Namespace), cmp.Compare(n.key.Name, svc.Name)) < 0
}

// othersOnNode returns who else serves, or is about to serve, a node's own address; by
// name, those that are about to last. mu is held.
func (s *Store) othersOnNode(svc *corev1.Service, a netip.Addr) []neighbour {
	var out []neighbour
	for key := range s.external {
		other := s.services[key]
		if other == nil || other.UID == svc.UID || other.DeletionTimestamp != nil || !s.servedOnNode(other, a) {
			continue
		}
		out = append(out, neighbour{key, convert.Tenant(other).Ports, other})
	}
	slices.SortFunc(out, func(x, y neighbour) int { return cmp.Compare(x.key.String(), y.key.String()) })
	for uid, b := range s.bookedOnNodes {
		if uid != svc.UID && slices.Contains(b.addrs, a) {
			out = append(out, neighbour{key: b.tenant.Service, ports: b.tenant.Ports})
		}
	}
	return out
}

// onNodes returns the nodes' addresses of a record, none for nil.
func onNodes(r *v1alpha1.LoadBalancer) []string {
	if r == nil {
		return nil
	}
	return r.Spec.NodeAddresses
}

// externallyNaming returns the Services that have one of the addresses in
// spec.externalIPs; mu is held.
func (s *Store) externallyNaming(addrs []netip.Addr) []loadbalancer.ServiceKey {
	var out []loadbalancer.ServiceKey
	for key := range s.external {
		if svc := s.services[key]; svc != nil && slices.ContainsFunc(convert.ExternalIPs(svc), func(a netip.Addr) bool { return slices.Contains(addrs, a) }) {
			out = append(out, key)
		}
	}
	return out
}
