// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// ObserveClaim takes in a claim as read or written; an older version is ignored.
func (s *Store) ObserveClaim(c *v1alpha1.IPClaim) {
	s.mu.Lock()
	old := s.claims[c.Name]
	if s.goneClaims.dead(c.Name, c) || old != nil && !newer(old, c) {
		s.mu.Unlock()
		return
	}
	s.dropClaim(old)
	s.claims[c.Name] = c
	a, err := v1alpha1.ParseClaimName(c.Name)
	if err == nil {
		delete(s.inflight, a)
		s.ledger.Hold(a, convert.Holding(c))
	}
	for _, ref := range c.Spec.Services {
		if s.byUID[ref.UID] == nil {
			s.byUID[ref.UID] = make(map[string]struct{})
		}
		s.byUID[ref.UID][c.Name] = struct{}{}
	}
	s.rewant(old)
	s.rewant(c)
	// A status write by the owner changes nothing here.
	relevant := old == nil || old.UID != c.UID || old.Generation != c.Generation || old.Generation == 0
	s.mu.Unlock()
	if relevant {
		s.tellAddresses()
		s.tellService(keysOf(old, c)...)
	}
}

// ForgetClaim takes in that a claim is gone; a later namesake stays.
func (s *Store) ForgetClaim(c *v1alpha1.IPClaim) {
	s.mu.Lock()
	s.goneClaims.bury(c.Name, c)
	old := s.claims[c.Name]
	if old == nil || old.UID != c.UID && newer(c, old) {
		s.mu.Unlock()
		return
	}
	s.dropClaim(old)
	delete(s.claims, c.Name)
	if a, err := v1alpha1.ParseClaimName(c.Name); err == nil {
		s.ledger.Release(a)
	}
	s.rewant(old)
	s.mu.Unlock()
	s.tellAddresses()
	s.tellService(keysOf(old)...)
}

// dropClaim takes a claim out of the index; mu is held.
func (s *Store) dropClaim(c *v1alpha1.IPClaim) {
	if c == nil {
		return
	}
	for _, ref := range c.Spec.Services {
		delete(s.byUID[ref.UID], c.Name)
		if len(s.byUID[ref.UID]) == 0 {
			delete(s.byUID, ref.UID)
		}
	}
}

func serviceKey(ref v1alpha1.ServiceReference) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: ref.Namespace, Name: ref.Name}
}

func keysOf(claims ...*v1alpha1.IPClaim) []loadbalancer.ServiceKey {
	var out []loadbalancer.ServiceKey
	for _, c := range claims {
		if c == nil {
			continue
		}
		for _, ref := range c.Spec.Services {
			out = append(out, serviceKey(ref))
		}
	}
	return out
}

// ObserveRecord takes in a record as read or written; an older version is ignored.
func (s *Store) ObserveRecord(r *v1alpha1.LoadBalancer) {
	key := recordKey(r)
	s.mu.Lock()
	old := s.records[key]
	if s.goneRecords.dead(key.String(), r) || old != nil && !newer(old, r) {
		s.mu.Unlock()
		return
	}
	s.records[key] = r
	relevant := old == nil || old.Generation != r.Generation || old.Generation == 0
	s.mu.Unlock()
	if relevant {
		s.tellService(key)
	}
}

// ForgetRecord takes in that a record is gone; a later namesake stays.
func (s *Store) ForgetRecord(r *v1alpha1.LoadBalancer) {
	key := recordKey(r)
	s.mu.Lock()
	s.goneRecords.bury(key.String(), r)
	old := s.records[key]
	if old == nil || old.UID != r.UID && newer(r, old) {
		s.mu.Unlock()
		return
	}
	delete(s.records, key)
	s.mu.Unlock()
	s.tellService(key)
}

func recordKey(r *v1alpha1.LoadBalancer) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: r.Namespace, Name: r.Name}
}

// ObserveService takes in a Service.
func (s *Store) ObserveService(svc *corev1.Service) {
	key := convert.Key(svc)
	s.mu.Lock()
	old := s.services[key]
	s.services[key] = svc
	if old != nil && old.UID != svc.UID {
		s.unwant(old)
	}
	s.want(svc)
	s.mu.Unlock()
	s.tellService(key)
}

// ForgetService takes in that a Service is gone.
func (s *Store) ForgetService(svc *corev1.Service) {
	key := convert.Key(svc)
	s.mu.Lock()
	if old := s.services[key]; old != nil && old.UID == svc.UID {
		delete(s.services, key)
	}
	s.unwant(svc)
	s.mu.Unlock()
	s.tellService(key)
}

// rewant looks again at the Services that a claim names; mu is held.
func (s *Store) rewant(c *v1alpha1.IPClaim) {
	if c == nil {
		return
	}
	for _, ref := range c.Spec.Services {
		if svc := s.services[serviceKey(ref)]; svc != nil && svc.UID == ref.UID {
			s.want(svc)
		}
	}
}

// want books the addresses in the status of a Service that has no claim: it had them
// from an earlier life of the cluster, and a new Service must not get them. mu is held.
func (s *Store) want(svc *corev1.Service) {
	s.unwant(svc)
	if !convert.Ours(svc) || len(s.byUID[svc.UID]) > 0 {
		return
	}
	addrs := convert.StatusAddresses(svc)
	for _, a := range addrs {
		s.ledger.Want(a, convert.Key(svc), loadbalancer.ServiceUID(svc.UID))
	}
	if len(addrs) > 0 {
		s.wanted[svc.UID] = addrs
	}
}

func (s *Store) unwant(svc *corev1.Service) {
	for _, a := range s.wanted[svc.UID] {
		s.ledger.Unwant(a, loadbalancer.ServiceUID(svc.UID))
	}
	delete(s.wanted, svc.UID)
}

// ObservePool takes in a pool.
func (s *Store) ObservePool(p *v1alpha1.IPAddressPool) {
	s.mu.Lock()
	old := s.pools[p.Name]
	if s.gonePools.dead(p.Name, p) || old != nil && !newer(old, p) {
		s.mu.Unlock()
		return
	}
	s.pools[p.Name] = p
	changed := old == nil || old.UID != p.UID || old.Generation != p.Generation || old.Generation == 0
	if changed {
		s.compile()
	}
	s.mu.Unlock()
	if changed {
		s.tellAddresses()
	}
}

// ForgetPool takes in that a pool is gone.
func (s *Store) ForgetPool(p *v1alpha1.IPAddressPool) {
	s.mu.Lock()
	s.gonePools.bury(p.Name, p)
	if old := s.pools[p.Name]; old != nil && (old.UID == p.UID || newer(old, p)) {
		delete(s.pools, p.Name)
		s.compile()
	}
	s.mu.Unlock()
	s.tellAddresses()
}

func (s *Store) compile() {
	specs := make([]pool.Spec, 0, len(s.pools))
	for _, p := range s.pools {
		specs = append(specs, convert.Pool(p))
	}
	s.set = pool.Compile(specs, nil)
}

// ObserveNamespace takes in a namespace's labels.
func (s *Store) ObserveNamespace(ns *corev1.Namespace) {
	s.mu.Lock()
	changed := !labels.Equals(s.namespaces[ns.Name], ns.Labels)
	s.namespaces[ns.Name] = ns.Labels
	s.mu.Unlock()
	if changed {
		s.tellAddresses()
	}
}

// ForgetNamespace takes in that a namespace is gone.
func (s *Store) ForgetNamespace(ns *corev1.Namespace) {
	s.mu.Lock()
	delete(s.namespaces, ns.Name)
	s.mu.Unlock()
}

// ObserveNode takes in a node's own addresses, which no Service may get.
func (s *Store) ObserveNode(n *corev1.Node) {
	var addrs []netip.Addr
	for _, na := range n.Status.Addresses {
		if a, err := netip.ParseAddr(na.Address); err == nil {
			addrs = append(addrs, a.Unmap().WithZone(""))
		}
	}
	s.reserve(s.nodes, n.Name, addrs)
}

// ForgetNode takes in that a node is gone.
func (s *Store) ForgetNode(n *corev1.Node) { s.reserve(s.nodes, n.Name, nil) }

// ObserveAgent takes in the addresses that a node's agent sees on its interfaces.
func (s *Store) ObserveAgent(n *v1alpha1.NodeAgent) {
	var addrs []netip.Addr
	for _, text := range n.Status.DefaultRouteAddresses {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap().WithZone(""))
		}
	}
	for _, i := range n.Status.Interfaces {
		for _, text := range i.Prefixes {
			if p, err := netip.ParsePrefix(text); err == nil {
				addrs = append(addrs, p.Addr().Unmap())
			}
		}
	}
	s.reserve(s.agents, n.Name, addrs)
}

// ForgetAgent takes in that a node's agent is gone.
func (s *Store) ForgetAgent(n *v1alpha1.NodeAgent) { s.reserve(s.agents, n.Name, nil) }

// reserve replaces one node's addresses in one of the two sources.
func (s *Store) reserve(source map[string][]netip.Addr, node string, addrs []netip.Addr) {
	s.mu.Lock()
	if slices.Equal(source[node], addrs) {
		s.mu.Unlock()
		return
	}
	if source[node] = addrs; len(addrs) == 0 {
		delete(source, node)
	}
	all := make(map[netip.Addr]string)
	for _, src := range []map[string][]netip.Addr{s.agents, s.nodes} {
		for name, as := range src {
			for _, a := range as {
				if by, ok := all[a]; !ok || name < by {
					all[a] = name
				}
			}
		}
	}
	s.ledger.SetReserved(all)
	s.mu.Unlock()
	s.tellAddresses()
}

// HasClaims reports whether a claim of any phase names the Service.
func (s *Store) HasClaims(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byUID[uid]) > 0
}
