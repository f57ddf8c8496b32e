// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// ObserveClaim takes in a claim as read or written; an older version is ignored.
func (s *Store) ObserveClaim(c *v1alpha1.IPClaim) {
	s.mu.Lock()
	old := s.claims[c.Name]
	if s.goneClaims.dead(c.Name, c) || old != nil && !newer(old, c) {
		s.mu.Unlock()
		return
	}
	// A status write by the owner changes nothing here.
	relevant := old == nil || old.UID != c.UID || old.Generation != c.Generation || old.Generation == 0
	s.claims[c.Name] = c
	if relevant {
		s.reindex(old, c)
	}
	s.mu.Unlock()
	if relevant {
		s.tellAddresses()
		s.tellService(keysOf(old, c)...)
	}
}

// reindex brings index, ledger and waiting up to date with a claim's new spec; mu is held.
func (s *Store) reindex(old, c *v1alpha1.IPClaim) {
	s.dropClaim(old)
	for _, ref := range c.Spec.Services {
		if s.byUID[ref.UID] == nil {
			s.byUID[ref.UID] = make(map[string]struct{}, 1)
		}
		s.byUID[ref.UID][c.Name] = struct{}{}
	}
	if a, err := v1alpha1.ParseClaimName(c.Name); err == nil {
		s.rehold(a)
	}
	if opens(old, c) {
		s.freed++
	}
	s.rewant(old)
	s.rewant(c)
}

// opens reports whether a claim's change may let somebody else in: it is shared, its
// tenants are fewer or others, or it is not held any more.
func opens(old, c *v1alpha1.IPClaim) bool {
	if old == nil {
		return c.Spec.SharingKey != ""
	}
	return c.Spec.Phase != old.Spec.Phase || c.Spec.SharingKey != old.Spec.SharingKey ||
		!equality.Semantic.DeepEqual(old.Spec.Services, c.Spec.Services)
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
	delete(s.rebound, c.Name)
	if a, err := v1alpha1.ParseClaimName(c.Name); err == nil {
		s.rehold(a)
	}
	s.freed++
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

func serviceKey(ref v1alpha1.ServiceReference) loadbalancer.ServiceKey {
	return loadbalancer.ServiceKey{Namespace: ref.Namespace, Name: ref.Name}
}

// keysOf returns the Services of claims, each once.
func keysOf(claims ...*v1alpha1.IPClaim) []loadbalancer.ServiceKey {
	var out []loadbalancer.ServiceKey
	for _, c := range claims {
		if c == nil {
			continue
		}
		for _, ref := range c.Spec.Services {
			if key := serviceKey(ref); !slices.Contains(out, key) {
				out = append(out, key)
			}
		}
	}
	return out
}

func names(c *v1alpha1.IPClaim, uid types.UID) bool {
	return slices.ContainsFunc(c.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == uid })
}

// Holds reports whether a claim is Bound to a Service.
func Holds(c *v1alpha1.IPClaim, uid types.UID) bool {
	return c != nil && c.Spec.Phase == v1alpha1.ClaimBound && names(c, uid)
}

// HasClaims reports whether a claim of any phase names the Service.
func (s *Store) HasClaims(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byUID[uid]) > 0
}

// linked returns the Bound claims that are linked to those named by common Services,
// directly or through others, with their Services; names without a claim are in it
// too. mu is held.
func (s *Store) linked(seeds []string) map[string][]loadbalancer.ServiceUID {
	out := make(map[string][]loadbalancer.ServiceUID, len(seeds))
	todo := slices.Clone(seeds)
	seen := make(map[types.UID]struct{})
	for len(todo) > 0 {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, done := out[name]; done {
			continue
		}
		c := s.claims[name]
		if c != nil && c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		out[name] = nil
		if c == nil {
			continue
		}
		for _, t := range convert.Holding(c).Tenants {
			out[name] = append(out[name], t.UID)
			if _, done := seen[types.UID(t.UID)]; done {
				continue
			}
			seen[types.UID(t.UID)] = struct{}{}
			for next := range s.byUID[types.UID(t.UID)] {
				todo = append(todo, next)
			}
		}
	}
	return out
}
