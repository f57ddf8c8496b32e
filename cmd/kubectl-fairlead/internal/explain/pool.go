// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// PoolReport is the answer for one pool.
type PoolReport struct {
	Pool string `json:"pool"`
	// Summary says in words whether and to whom the pool gives addresses.
	Summary string `json:"summary"`
	// Rank is the pool's place among the pools that give addresses unasked.
	Rank     string        `json:"rank,omitempty"`
	Families []FamilyCount `json:"families,omitempty"`
	// Reclaim says what becomes of an address when its last Service ends.
	Reclaim string `json:"reclaim"`
	// Tenants are the namespaces with most addresses, the largest first.
	Tenants []string `json:"tenants,omitempty"`
	// Advertisements that select the pool.
	Advertisements []string `json:"advertisements,omitempty"`
	// Claims of the pool's addresses, by address.
	Claims     []PoolClaim `json:"claims,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
	Notes      []string    `json:"notes,omitempty"`
}

// FamilyCount counts a pool's addresses of one IP family.
type FamilyCount struct {
	Family string `json:"family"`
	// Total can ever be handed out, Held are held, Free could be had now.
	Total int64 `json:"total"`
	Held  int64 `json:"held"`
	Free  int64 `json:"free"`
	// Next is the lowest free address, empty when there is none or when it depends on
	// who asks.
	Next string `json:"next,omitempty"`
}

// PoolClaim is one claim of a pool.
type PoolClaim struct {
	Address  string   `json:"address"`
	Phase    string   `json:"phase"`
	Services []string `json:"services"`
}

// maxTenants is how many namespaces a pool's answer names.
const maxTenants = 5

// ForPool explains one pool; false when there is none of that name.
func ForPool(s *cluster.State, name string) (PoolReport, bool) {
	i := slices.IndexFunc(s.Pools, func(p v1alpha1.IPAddressPool) bool { return p.Name == name })
	if i < 0 {
		return PoolReport{}, false
	}
	b, p := newBook(s), &s.Pools[i]
	r := PoolReport{
		Pool: name, Summary: b.poolWords(name), Rank: b.rankWords(name), Reclaim: reclaimWords(&p.Spec),
		Conditions: conditions(p.Status.Conditions), Notes: slices.Clone(s.Gaps),
	}
	if compiled, ok := b.set.ByName(name); ok {
		r.countFamilies(b, name)
		for _, t := range b.ledger.Tenants(compiled, maxTenants) {
			r.Tenants = append(r.Tenants, fmt.Sprintf("%s: %d", t.Namespace, t.Addresses))
		}
		for _, conflict := range []*pool.Error{b.set.Conflict(name), b.ledger.Conflict(compiled)} {
			if conflict != nil {
				r.Notes = append(r.Notes, fmt.Sprintf("%s: %s", conflict.Reason, conflict.Message))
			}
		}
	}
	r.addClaims(b, name)
	r.addAdvertisements(s, p)
	return r, true
}

func (b *book) poolWords(name string) string {
	spec := b.specs[name]
	if fault := b.set.Fault(name); fault != nil {
		return fmt.Sprintf("not used (%s): %s", fault.Reason, fault.Message)
	}
	whom := "to every Service"
	if a := spec.Allocation; a != nil {
		whom = "to Services that serviceAllocation matches"
		switch {
		case len(a.Namespaces) > 0 && len(a.NamespaceSelectors) == 0:
			whom += ", of namespace " + quoted(a.Namespaces)
		case len(a.Namespaces) > 0:
			whom += ", of namespace " + quoted(a.Namespaces) + " or with the labels of a namespaceSelector"
		case len(a.NamespaceSelectors) > 0:
			whom += ", of namespaces with the labels of a namespaceSelector"
		}
		if len(a.ServiceSelectors) > 0 {
			whom += ", with the labels of a serviceSelector"
		}
	}
	switch {
	case spec.Disabled:
		return "disabled: it gives no more addresses, Services keep what they hold"
	case !spec.AutoAssign:
		return "gives addresses " + whom + " that asks for one (autoAssign is false)"
	default:
		return "gives addresses " + whom
	}
}

func (b *book) rankWords(name string) string {
	spec := b.specs[name]
	switch {
	case b.set.Fault(name) != nil || spec.Disabled || !spec.AutoAssign:
		return ""
	case spec.Allocation == nil:
		return "after all pools with serviceAllocation, by name"
	case spec.Allocation.Priority == 0:
		return "last of the pools with serviceAllocation (no priority), by name"
	default:
		return "priority " + strconv.Itoa(spec.Allocation.Priority) + " of the pools with serviceAllocation, lower first, then by name"
	}
}

func reclaimWords(spec *v1alpha1.IPAddressPoolSpec) string {
	if spec.ReclaimPolicy != v1alpha1.ReclaimRetain {
		return "an address is free soon after its last Service has ended"
	}
	keep := v1alpha1.DefaultRetainFor
	if spec.RetainFor != nil {
		keep = spec.RetainFor.Duration
	}
	return fmt.Sprintf("an address is kept for %s for a Service of the same namespace and name", keep)
}

func (r *PoolReport) countFamilies(b *book, name string) {
	for _, f := range []pool.Family{pool.IPv4, pool.IPv6} {
		total, held, free := b.count(name, f)
		if total == 0 && held == 0 {
			continue
		}
		count := FamilyCount{Family: f.String(), Total: total, Held: held, Free: free}
		if next, ok := b.next(name, f); ok {
			count.Next = next.String()
		}
		r.Families = append(r.Families, count)
	}
}

func (r *PoolReport) addClaims(b *book, name string) {
	type entry struct {
		addr netip.Addr
		PoolClaim
	}
	var found []entry
	for i := range b.state.Claims {
		c := &b.state.Claims[i]
		if a, err := v1alpha1.ParseClaimName(c.Name); err == nil && c.Spec.Pool == name {
			found = append(found, entry{a, PoolClaim{Address: a.String(), Phase: string(c.Spec.Phase), Services: serviceNames(c.Spec.Services)}})
		}
	}
	slices.SortFunc(found, func(x, y entry) int { return x.addr.Compare(y.addr) })
	for _, e := range found {
		r.Claims = append(r.Claims, e.PoolClaim)
	}
}

func (r *PoolReport) addAdvertisements(s *cluster.State, p *v1alpha1.IPAddressPool) {
	for i := range s.Advertisements {
		ad, err := convert.L2Advertisement(&s.Advertisements[i])
		if err == nil && ad.SelectsPool(p.Name, p.Labels) {
			r.Advertisements = append(r.Advertisements, "L2Advertisement "+ad.Name)
		}
	}
	for i := range s.BGPAdvertisements {
		ad, err := convert.BGPSelectors(&s.BGPAdvertisements[i])
		if err == nil && ad.SelectsPool(p.Name, p.Labels) {
			r.Advertisements = append(r.Advertisements, "BGPAdvertisement "+s.BGPAdvertisements[i].Name)
		}
	}
	slices.SortFunc(r.Advertisements, cmp.Compare[string])
	if len(r.Advertisements) == 0 {
		r.Notes = append(r.Notes, "no advertisement selects it: nobody announces its addresses")
	}
}
