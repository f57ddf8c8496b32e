// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// book is the state as the allocator sees it.
type book struct {
	state  *cluster.State
	specs  map[string]pool.Spec
	set    *pool.Set
	ledger *pool.Ledger
	// reserved is what the cluster's own machines have: address → whose, as a phrase.
	reserved map[netip.Addr]string
	// wanted are addresses that Services without claims show in their status.
	wanted map[netip.Addr][]loadbalancer.ServiceKey
	ranges []pool.ClusterRange
}

func newBook(s *cluster.State) *book {
	b := &book{
		state: s, specs: make(map[string]pool.Spec), ledger: pool.NewLedger(),
		reserved: reserved(s), wanted: make(map[netip.Addr][]loadbalancer.ServiceKey), ranges: ranges(s),
	}
	specs := make([]pool.Spec, 0, len(s.Pools))
	for i := range s.Pools {
		spec := convert.Pool(&s.Pools[i])
		specs = append(specs, spec)
		b.specs[spec.Name] = spec
	}
	b.set = pool.Compile(specs, b.ranges)
	b.ledger.SetPools(b.set)
	b.ledger.SetReserved(b.reserved)
	claimed := make(map[loadbalancer.ServiceUID]bool)
	for i := range s.Claims {
		a, err := v1alpha1.ParseClaimName(s.Claims[i].Name)
		if err != nil {
			continue // the schema refuses such a claim
		}
		h := convert.Holding(&s.Claims[i])
		if s.Claims[i].DeletionTimestamp != nil {
			h.State = pool.Releasing
		}
		b.ledger.Hold(a, h)
		for _, t := range h.Tenants {
			claimed[t.UID] = true
		}
	}
	for i := range s.Services {
		svc := &s.Services[i]
		if !s.Config.Classes.Serves(svc) || claimed[loadbalancer.ServiceUID(svc.UID)] {
			continue
		}
		for _, a := range convert.StatusAddresses(svc) {
			b.ledger.Want(a, convert.Key(svc), loadbalancer.ServiceUID(svc.UID))
			b.wanted[a] = append(b.wanted[a], convert.Key(svc))
		}
	}
	return b
}

// reserved collects the addresses of nodes, of their gateways and of the API server.
func reserved(s *cluster.State) map[netip.Addr]string {
	out := make(map[netip.Addr]string)
	add := func(text, whose string) {
		a, err := netip.ParseAddr(text)
		if p, errPrefix := netip.ParsePrefix(text); err != nil && errPrefix == nil {
			a, err = p.Addr(), nil
		}
		if err != nil {
			return // a host name
		}
		a = a.Unmap().WithZone("")
		if old, ok := out[a]; !ok || whose < old {
			out[a] = whose
		}
	}
	for i := range s.Nodes {
		for _, a := range s.Nodes[i].Status.Addresses {
			add(a.Address, "node "+strconv.Quote(s.Nodes[i].Name))
		}
	}
	for i := range s.Agents {
		n, st := "node "+strconv.Quote(s.Agents[i].Name), &s.Agents[i].Status
		for _, text := range st.DefaultRouteAddresses {
			add(text, n)
		}
		for _, itf := range st.Interfaces {
			for _, text := range itf.Prefixes {
				add(text, n)
			}
		}
		for _, text := range st.Gateways {
			add(text, "the gateway of "+n)
		}
	}
	for _, a := range s.APIServers {
		add(a.String(), "the API server")
	}
	return out
}

// ranges collects what the cluster gives to pods and to cluster IPs.
func ranges(s *cluster.State) []pool.ClusterRange {
	var out []pool.ClusterRange
	add := func(texts []string, kind pool.RangeKind, created loadbalancer.Since, object string) {
		for _, text := range texts {
			if iv, err := pool.ParseInterval(text); err == nil {
				out = append(out, pool.ClusterRange{Interval: iv, Kind: kind, Created: created, Object: object})
			}
		}
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		add(n.Spec.PodCIDRs, pool.PodRange, loadbalancer.SinceTime(n.CreationTimestamp.Time), "node "+strconv.Quote(n.Name))
	}
	for i := range s.ServiceCIDRs {
		c := &s.ServiceCIDRs[i]
		add(c.Spec.CIDRs, pool.ServiceRange, loadbalancer.SinceTime(c.CreationTimestamp.Time), "ServiceCIDR "+strconv.Quote(c.Name))
	}
	add(s.Config.PodRanges, pool.PodRange, 0, "the controller's configuration (cluster.podRanges)")
	add(s.Config.ServiceRanges, pool.ServiceRange, 0, "the controller's configuration (cluster.serviceRanges)")
	return out
}

// request reads what a Service asks for and holds.
func (b *book) request(svc *corev1.Service) (*convert.ServiceRequest, *pool.Error) {
	req, err := convert.Service(svc)
	if err != nil {
		return nil, err
	}
	req.Pool.NamespaceLabels = b.namespaceLabels(svc.Namespace)
	for _, c := range b.claimsOf(svc) {
		if a, err := v1alpha1.ParseClaimName(c.Name); err == nil && c.Spec.Phase == v1alpha1.ClaimBound {
			req.Pool.Held = append(req.Pool.Held, pool.Assignment{Addr: a, Pool: c.Spec.Pool, Rule: pool.Rule(b.rule(svc, a))})
		}
	}
	return req, nil
}

func (b *book) namespaceLabels(name string) labels.Set {
	for i := range b.state.Namespaces {
		if b.state.Namespaces[i].Name == name {
			return b.state.Namespaces[i].Labels
		}
	}
	return nil
}

// record returns a Service's record, nil when there is none of this very Service.
func (b *book) record(svc *corev1.Service) *v1alpha1.LoadBalancer {
	for i := range b.state.Records {
		r := &b.state.Records[i]
		if r.Namespace == svc.Namespace && r.Name == svc.Name && r.Spec.ServiceUID == svc.UID {
			return r
		}
	}
	return nil
}

// rule returns why a Service has an address, as its record says.
func (b *book) rule(svc *corev1.Service, a netip.Addr) v1alpha1.AllocationRule {
	if r := b.record(svc); r != nil {
		for _, la := range r.Spec.Addresses {
			if la.Address == a.String() {
				return la.Rule
			}
		}
	}
	return ""
}

// claimsOf returns the claims that name a Service by UID, those of its record first and
// in its order.
func (b *book) claimsOf(svc *corev1.Service) []*v1alpha1.IPClaim {
	place := make(map[string]int)
	if r := b.record(svc); r != nil {
		for i, a := range r.Spec.Addresses {
			place[a.Claim] = i + 1
		}
	}
	last := len(place) + 1
	var out []*v1alpha1.IPClaim
	for i := range b.state.Claims {
		c := &b.state.Claims[i]
		if slices.ContainsFunc(c.Spec.Services, func(s v1alpha1.ServiceReference) bool { return s.UID == svc.UID }) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(x, y *v1alpha1.IPClaim) int {
		return cmp.Or(cmp.Compare(cmp.Or(place[x.Name], last), cmp.Or(place[y.Name], last)), cmp.Compare(x.Name, y.Name))
	})
	return out
}

func (b *book) claim(a netip.Addr) *v1alpha1.IPClaim {
	i := slices.IndexFunc(b.state.Claims, func(c v1alpha1.IPClaim) bool { return c.Name == v1alpha1.ClaimName(a) })
	if i < 0 {
		return nil
	}
	return &b.state.Claims[i]
}

// sortedPools returns the pools by name.
func (b *book) sortedPools() []*v1alpha1.IPAddressPool {
	out := make([]*v1alpha1.IPAddressPool, 0, len(b.state.Pools))
	for i := range b.state.Pools {
		out = append(out, &b.state.Pools[i])
	}
	slices.SortFunc(out, func(x, y *v1alpha1.IPAddressPool) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// serviceNames returns references as namespace/name.
func serviceNames(in []v1alpha1.ServiceReference) []string {
	var out []string
	for _, s := range in {
		out = append(out, s.Namespace+"/"+s.Name)
	}
	slices.Sort(out)
	return out
}

func quoted(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strconv.Quote(s)
	}
	return strings.Join(out, ", ")
}
