// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// largestTenants is how many tenants a pool's view names.
const largestTenants = 5

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
	var concerned []loadbalancer.ServiceKey
	if changed {
		s.stale = true
		s.freed++
		concerned = s.concerned(old, p)
	}
	s.mu.Unlock()
	if changed {
		s.tellAddresses()
		s.tellService(concerned...)
	}
}

// ForgetPool takes in that a pool is gone.
func (s *Store) ForgetPool(p *v1alpha1.IPAddressPool) {
	s.mu.Lock()
	s.gonePools.bury(p.Name, p)
	if old := s.pools[p.Name]; old != nil && (old.UID == p.UID || newer(old, p)) {
		delete(s.pools, p.Name)
		s.stale = true
		s.freed++
	}
	concerned := append(s.externals(""), s.moved()...)
	s.mu.Unlock()
	s.tellAddresses()
	s.tellService(concerned...)
}

// moved returns the holders of addresses that are in another valid pool than their claims
// say. mu is held.
func (s *Store) moved() []loadbalancer.ServiceKey {
	select {
	case <-s.ready:
	default:
		return nil // every Service is looked at after start-up anyway
	}
	s.freshen()
	var out []loadbalancer.ServiceKey
	for _, c := range s.claims {
		addr, err := v1alpha1.ParseClaimName(c.Name)
		if err != nil || c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		if p, ok := s.set.ByAddr(addr); ok && p.Name() != c.Spec.Pool {
			out = append(out, keysOf(c)...)
		}
	}
	return out
}

// PoolAt returns the name of the valid pool that has an address, empty when none has.
func (s *Store) PoolAt(a netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	if p, ok := s.set.ByAddr(a); ok {
		return p.Name()
	}
	return ""
}

// concerned returns the Services that a pool's change may mean something to though they
// do not wait: those with external IPs, holders of addresses that change pools, and
// holders where reclaiming or defaults change. mu is held.
func (s *Store) concerned(old, p *v1alpha1.IPAddressPool) []loadbalancer.ServiceKey {
	out := append(s.externals(""), s.moved()...)
	if old == nil || old.Spec.ReclaimPolicy == p.Spec.ReclaimPolicy && equality.Semantic.DeepEqual(old.Spec.RetainFor, p.Spec.RetainFor) &&
		equality.Semantic.DeepEqual(old.Spec.Defaults, p.Spec.Defaults) {
		return out
	}
	for _, c := range s.claims {
		if c.Spec.Pool == p.Name {
			out = append(out, keysOf(c)...)
		}
	}
	return out
}

// freshen compiles the pools and the reserved addresses if they have changed; mu is held.
func (s *Store) freshen() {
	if s.stale {
		s.stale = false
		specs := make([]pool.Spec, 0, len(s.pools))
		for _, p := range s.pools {
			specs = append(specs, convert.Pool(p))
		}
		s.set = pool.Compile(specs, append(slices.Clone(s.ranges), s.cluster.ranges()...))
		s.ledger.SetPools(s.set)
	}
	if s.staleReserved {
		s.staleReserved = false
		s.ledger.SetReserved(s.cluster.reserved())
		s.owners = s.cluster.owners()
	}
}

// RetainFor returns how long an address of a pool is kept for a namesake, by the
// Service's own word or the pool's; nil when not at all.
func (s *Store) RetainFor(name string, asked v1alpha1.ReclaimPolicy) *metav1.Duration {
	policy, keep := asked, metav1.Duration{Duration: v1alpha1.DefaultRetainFor}
	if p := s.Pool(name); p != nil {
		if policy == "" {
			policy = p.Spec.ReclaimPolicy
		}
		if p.Spec.RetainFor != nil {
			keep = *p.Spec.RetainFor
		}
	}
	if policy != v1alpha1.ReclaimRetain {
		return nil
	}
	return &keep
}

// Pool returns a pool by name, nil when there is none. The caller must not modify it.
func (s *Store) Pool(name string) *v1alpha1.IPAddressPool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pools[name]
}

// PoolView is a pool with what its status needs.
type PoolView struct {
	Pool  *v1alpha1.IPAddressPool
	Fault *pool.Error
	// Conflict is why some addresses are not handed out, nil when all are.
	Conflict *pool.Error
	// Disabled pools give nothing more.
	Disabled bool
	// Total counts what the pool can ever hand out, Assigned and Available what is held
	// and what is free of it; all are zero for a pool with a Fault.
	TotalIPv4, AssignedIPv4, AvailableIPv4 int64
	TotalIPv6, AssignedIPv6, AvailableIPv6 int64
	// Tenants are the namespaces with most addresses, the largest first.
	Tenants []pool.TenantCount
}

// Pools returns every pool, by name.
func (s *Store) Pools() []PoolView {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	out := make([]PoolView, 0, len(s.pools))
	for _, name := range slices.Sorted(maps.Keys(s.pools)) {
		v := PoolView{Pool: s.pools[name], Fault: s.set.Fault(name), Disabled: s.pools[name].Spec.Disabled}
		if p, ok := s.set.ByName(name); ok {
			v.TotalIPv4, v.AssignedIPv4, v.AvailableIPv4 = s.count(p, pool.IPv4)
			v.TotalIPv6, v.AssignedIPv6, v.AvailableIPv6 = s.count(p, pool.IPv6)
			v.Tenants = s.ledger.Tenants(p, largestTenants)
			if v.Conflict = s.set.Conflict(name); v.Conflict == nil {
				v.Conflict = s.ledger.Conflict(p)
			}
		}
		out = append(out, v)
	}
	return out
}

func (s *Store) count(p *pool.Pool, f pool.Family) (total, assigned, available int64) {
	held, unavailable := s.ledger.Count(p, f)
	usable := p.Usable(f)
	return usable - s.ledger.Own(p, f), held, usable - unavailable
}

// RangeConflict is a cluster range that came after a pool that it overlaps.
type RangeConflict struct {
	// Kind is Node or ServiceCIDR.
	Kind, Name string
	UID        types.UID
	Pool       string
	Message    string
}

// RangeConflicts returns the objects whose ranges overlap an older pool, sorted.
func (s *Store) RangeConflicts() []RangeConflict {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freshen()
	var out []RangeConflict
	for _, rc := range s.set.RangeConflicts() {
		if o, ok := s.cluster.objects[rc.Range.Object]; ok {
			out = append(out, RangeConflict{Kind: o.kind, Name: o.name, UID: o.uid, Pool: rc.Pool, Message: fmt.Sprintf(
				"range %s overlaps the older IPAddressPool %q, which hands none of the common addresses out any more; Services may still hold some: take the range out of the pool or give the %s another",
				rc.Range.Interval, rc.Pool, o.kind)})
		}
	}
	return out
}

// ObserveNamespace takes in a namespace's labels.
func (s *Store) ObserveNamespace(ns *corev1.Namespace) {
	s.mu.Lock()
	changed := !labels.Equals(s.namespaces[ns.Name], ns.Labels)
	s.namespaces[ns.Name] = ns.Labels
	var concerned []loadbalancer.ServiceKey
	if changed {
		s.freed++
		concerned = s.externals(ns.Name)
	}
	s.mu.Unlock()
	if changed {
		s.tellAddresses()
		s.tellService(concerned...)
	}
}

// ForgetNamespace takes in that a namespace is gone.
func (s *Store) ForgetNamespace(ns *corev1.Namespace) {
	s.mu.Lock()
	delete(s.namespaces, ns.Name)
	s.mu.Unlock()
}

// ObservePolicy takes in the policy of external IPs; one of another name does not count.
func (s *Store) ObservePolicy(p *v1alpha1.ExternalIPPolicy) {
	if p.Name == v1alpha1.ExternalIPPolicyName {
		s.setPolicy(p)
	}
}

// ForgetPolicy takes in that there is no policy: nothing is granted.
func (s *Store) ForgetPolicy(p *v1alpha1.ExternalIPPolicy) {
	if p.Name == v1alpha1.ExternalIPPolicyName {
		s.setPolicy(nil)
	}
}

func (s *Store) setPolicy(p *v1alpha1.ExternalIPPolicy) {
	s.mu.Lock()
	s.policy = p
	s.freed++
	concerned := s.externals("")
	s.mu.Unlock()
	s.tellService(concerned...)
}

// externals returns the Services of a namespace, or of all, that have external IPs; mu
// is held.
func (s *Store) externals(namespace string) []loadbalancer.ServiceKey {
	var out []loadbalancer.ServiceKey
	for key := range s.external {
		if namespace == "" || key.Namespace == namespace {
			out = append(out, key)
		}
	}
	return out
}
