// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Verdict is what a pool would do for a Service, per IP family.
type Verdict struct {
	Pool   string `json:"pool"`
	Family string `json:"family"`
	// Serves: it has an address for the Service.
	Serves bool `json:"serves"`
	// Because says why not, every cause, or which address would be next.
	Because []string `json:"because"`
}

// verdicts asks each pool, by name, for each family that the Service needs. Where it asks
// for an address itself, pools have no say.
func (b *book) verdicts(req *pool.Request) []Verdict {
	var out []Verdict
	for _, p := range b.sortedPools() {
		for _, f := range req.Families {
			asked := slices.ContainsFunc(req.Addresses, func(a netip.Addr) bool { return pool.FamilyOf(a) == f })
			if !asked {
				out = append(out, b.verdict(p.Name, f, req))
			}
		}
	}
	return out
}

func (b *book) verdict(name string, f pool.Family, req *pool.Request) Verdict {
	v := Verdict{Pool: name, Family: f.String()}
	spec := b.specs[name]
	if fault := b.set.Fault(name); fault != nil {
		v.Because = []string{fmt.Sprintf("not used (%s): %s", fault.Reason, fault.Message)}
		return v
	}
	if req.Pool != "" && req.Pool != name {
		v.Because = append(v.Because, fmt.Sprintf("the Service asks for pool %q", req.Pool))
	}
	if spec.Disabled {
		v.Because = append(v.Because, "disabled: it gives no more addresses")
	}
	if !spec.AutoAssign && req.Pool != name {
		v.Because = append(v.Because, "autoAssign is false: only Services that ask for it get an address")
	}
	v.Because = append(v.Because, mismatch(spec.Allocation, req)...)
	total, held, free := b.count(name, f)
	switch {
	case total == 0:
		v.Because = append(v.Because, "it has no "+f.String()+" address")
	case free <= 0:
		v.Because = append(v.Because, fmt.Sprintf("it is full: %d of %d %s addresses are held, the others cannot be handed out", held, total, f))
	}
	if len(v.Because) > 0 {
		return v
	}
	v.Serves = true
	v.Because = []string{fmt.Sprintf("%s of %s %s addresses are free", number(free), number(total), f)}
	if next, ok := b.next(name, f); ok {
		v.Because[0] += ", the next is " + next.String()
	}
	return v
}

// count returns how many addresses a pool can hand out, how many of all its addresses
// are held, and how many somebody could still get.
func (b *book) count(name string, f pool.Family) (total, held, free int64) {
	p, ok := b.set.ByName(name)
	if !ok {
		return 0, 0, 0
	}
	held, unavailable := b.ledger.Count(p, f)
	total = p.Usable(f)
	return total - b.ledger.Own(p, f), held, max(total-unavailable, 0)
}

// next returns the pool's lowest free address: what the allocator gives to a Service
// that the pool serves and that asks for nothing else.
func (b *book) next(name string, f pool.Family) (netip.Addr, bool) {
	req := pool.Request{Families: []pool.Family{f}, Pool: name}
	if a := b.specs[name].Allocation; a != nil {
		// One that matches cannot be made up from selectors.
		return netip.Addr{}, false
	}
	got, err := pool.Allocate(b.set, b.ledger, &req)
	if err != nil || len(got) == 0 {
		return netip.Addr{}, false
	}
	return got[0].Addr, true
}

// mismatch names the parts of serviceAllocation that do not match.
func mismatch(a *pool.Allocation, req *pool.Request) []string {
	if a == nil {
		return nil
	}
	var out []string
	byName := slices.Contains(a.Namespaces, req.Service.Namespace)
	byLabel := matchesAny(a.NamespaceSelectors, req.NamespaceLabels)
	switch {
	case len(a.Namespaces) == 0 && len(a.NamespaceSelectors) == 0, byName, byLabel:
	case len(a.NamespaceSelectors) == 0:
		out = append(out, fmt.Sprintf("serviceAllocation.namespaces has %s, not %q", quoted(a.Namespaces), req.Service.Namespace))
	case len(a.Namespaces) == 0:
		out = append(out, fmt.Sprintf("no serviceAllocation.namespaceSelectors matches the labels of namespace %q (%s)", req.Service.Namespace, labelWords(req.NamespaceLabels)))
	default:
		out = append(out, fmt.Sprintf("serviceAllocation has namespace %q neither in namespaces nor by a namespaceSelector (%s)", req.Service.Namespace, labelWords(req.NamespaceLabels)))
	}
	if len(a.ServiceSelectors) > 0 && !matchesAny(a.ServiceSelectors, req.Labels) {
		out = append(out, fmt.Sprintf("no serviceAllocation.serviceSelectors matches the Service's labels (%s)", labelWords(req.Labels)))
	}
	return out
}

func matchesAny(selectors []labels.Selector, set labels.Set) bool {
	return slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(set) })
}

func labelWords(set labels.Set) string {
	if len(set) == 0 {
		return "it has none"
	}
	return set.String()
}
