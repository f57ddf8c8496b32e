// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

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
	relevant := old == nil || old.Generation != r.Generation || old.Generation == 0 || forwarded(old) != forwarded(r)
	left := len(onNodes(old)) > 0 && !slices.Equal(onNodes(old), onNodes(r))
	if left {
		s.freed++ // of its ports another may have them
	}
	s.mu.Unlock()
	if left {
		s.tellAddresses()
	}
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
	left := len(onNodes(old)) > 0
	if left {
		s.freed++
	}
	s.mu.Unlock()
	if left {
		s.tellAddresses()
	}
	s.tellService(key)
}

// forwarded reports whether IPVS forwards a record everywhere, which decides on what the
// status of its Service says.
func forwarded(r *v1alpha1.LoadBalancer) bool {
	return meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionForwarded)
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
	if len(svc.Spec.ExternalIPs) > 0 {
		s.external[key] = struct{}{}
	} else {
		delete(s.external, key)
	}
	s.mu.Unlock()
	s.tellService(key)
}

// ForgetService takes in that a Service is gone.
func (s *Store) ForgetService(svc *corev1.Service) {
	key := convert.Key(svc)
	s.mu.Lock()
	if old := s.services[key]; old != nil && old.UID == svc.UID {
		delete(s.services, key)
		delete(s.external, key)
	}
	freed := s.freed
	s.unwant(svc)
	freed = s.freed - freed
	s.mu.Unlock()
	if freed > 0 {
		s.tellAddresses()
	}
	s.tellService(key)
}

// want books the addresses in the status of a Service that it has no claim of: it had
// them from an earlier life of the cluster, and a new Service must not get them. mu is held.
func (s *Store) want(svc *corev1.Service) {
	s.unwant(svc)
	if !s.classes.Serves(svc) {
		return
	}
	addrs := slices.DeleteFunc(convert.StatusAddresses(svc), func(a netip.Addr) bool {
		_, has := s.byUID[svc.UID][v1alpha1.ClaimName(a)]
		return has
	})
	for _, a := range addrs {
		s.ledger.Want(a, convert.Key(svc), loadbalancer.ServiceUID(svc.UID))
	}
	if len(addrs) > 0 {
		s.wanted[svc.UID] = addrs
	}
}

func (s *Store) unwant(svc *corev1.Service) {
	if len(s.wanted[svc.UID]) > 0 {
		s.freed++
	}
	for _, a := range s.wanted[svc.UID] {
		s.ledger.Unwant(a, loadbalancer.ServiceUID(svc.UID))
	}
	delete(s.wanted, svc.UID)
}
