// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// World is everything at one moment when nothing should move any more.
type World struct {
	Services []*Service
	Claims   []*Claim
	Records  []*Record
	Pools    []v1alpha1.IPAddressPool
	Now      time.Time
}

// Audit compares Services, claims, records and the pools' counters and returns every
// fault: a Service without what it asked for and without a reason, an address that the
// three do not agree on, a claim or a record that nobody needs.
func Audit(w *World) []string {
	a := auditor{w: w, claims: map[string]*Claim{}, records: map[string]*Record{}, needed: map[string]bool{}}
	for _, c := range w.Claims {
		a.claims[c.Address] = c
	}
	for _, r := range w.Records {
		a.records[r.Key] = r
	}
	for _, s := range w.Services {
		a.service(s)
	}
	for _, c := range w.Claims {
		a.claim(c)
	}
	for key := range a.records {
		a.fault("%s is left without a Service that needs one", a.records[key])
	}
	a.pools()
	slices.Sort(a.faults)
	return a.faults
}

type auditor struct {
	w       *World
	claims  map[string]*Claim
	records map[string]*Record
	// needed are the tenants that a Service accounts for, as "address uid".
	needed map[string]bool
	faults []string
}

func (a *auditor) fault(format string, args ...any) {
	a.faults = append(a.faults, fmt.Sprintf(format, args...))
}

// service checks one Service and takes its record out of the books.
func (a *auditor) service(s *Service) {
	if s.Leaving {
		a.fault("service %s is still being deleted, finalizers %v", s.Key, s.Finalizers)
		return
	}
	r := a.records[s.Key]
	external := a.external(s)
	if !s.Balanced && len(external) == 0 && r == nil {
		if len(s.Shown) > 0 {
			a.fault("%s, though it is not of type LoadBalancer", s)
		}
		return
	}
	delete(a.records, s.Key)
	switch {
	case r == nil:
		a.fault("%s but has no record", s)
		return
	case r.UID != s.UID:
		a.fault("%s is of another Service than %s", r, s)
		return
	}
	for addr, rule := range r.Addresses {
		a.address(s, r, addr)
		if shown := slices.Contains(s.Shown, addr); shown == (rule == string(v1alpha1.RuleExternalIP)) {
			a.fault("%s by the rule %q, %s", r, rule, s)
		}
	}
	for _, addr := range s.Shown {
		if _, ok := r.Addresses[addr]; !ok {
			a.fault("%s, %s", s, r)
		}
	}
	if s.Balanced {
		a.count(s, r)
	}
}

// external lists those of a Service's external addresses that lie in a pool.
func (a *auditor) external(s *Service) []string {
	var out []string
	for _, e := range s.External {
		addr, err := netip.ParseAddr(e)
		if err != nil {
			continue
		}
		for i := range a.w.Pools {
			if contains(&a.w.Pools[i], addr) {
				out = append(out, e)
			}
		}
	}
	return out
}

// contains knows prefixes only: the soak's pools are.
func contains(p *v1alpha1.IPAddressPool, addr netip.Addr) bool {
	return slices.ContainsFunc(p.Spec.Addresses, func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && prefix.Contains(addr)
	})
}

// address checks the claim of one address of a Service's record.
func (a *auditor) address(s *Service, r *Record, addr string) {
	c := a.claims[addr]
	if c == nil {
		a.fault("%s but there is no claim of %s", r, addr)
		return
	}
	a.needed[addr+" "+s.UID] = true
	if !c.names(s.UID) {
		a.fault("%s but %s", r, c)
		return
	}
	for _, t := range c.Tenants {
		if t.UID == s.UID && len(t.Ports) > 0 && !samePorts(t.Ports, s.Ports) {
			a.fault("%s but %s", c, s)
		}
	}
}

func samePorts(a, b []Port) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p Port) bool { return !slices.Contains(b, p) })
}

// count checks that a Service has as many addresses of each family as it asks for, and
// those that it names, or a reason why not.
func (a *auditor) count(s *Service, r *Record) {
	per := 1
	if n, err := strconv.Atoi(s.Annotations[v1alpha1.AnnotationAddressCount]); err == nil {
		per = n
	}
	var missing []string
	for _, family := range s.Families {
		have := 0
		for _, shown := range s.Shown {
			if addr, err := netip.ParseAddr(shown); err == nil && addr.Is4() == (family == "IPv4") {
				have++
			}
		}
		switch {
		case have > per:
			a.fault("%s: %d addresses of %s, want %d", s, have, family, per)
		case have < per:
			missing = append(missing, family)
		}
	}
	asked := s.Annotations[v1alpha1.PrefixFairlead+v1alpha1.KnobAddresses]
	for want := range strings.SplitSeq(asked, ",") {
		if want != "" && !slices.Contains(s.Shown, want) {
			missing = append(missing, want)
			a.refused(s, want)
		}
	}
	switch {
	case len(missing) > 0 && r.Reason == "":
		a.fault("%s lacks %v without a reason", s, missing)
	case len(missing) > 0 && asked == "":
		a.fault("%s lacks %v though the pools have room: %s", s, missing, r.Reason)
	case len(missing) == 0 && r.Reason != "":
		a.fault("%s and lacks nothing, but its record says %s", s, r.Reason)
	}
}

// refused checks that an address which a Service asks for in vain is somebody else's.
func (a *auditor) refused(s *Service, addr string) {
	c := a.claims[addr]
	if c == nil {
		a.fault("%s is asked for by %s and free", addr, s)
		return
	}
	for _, t := range c.Tenants {
		if t.UID != s.UID && c.Phase == string(v1alpha1.ClaimBound) {
			return
		}
		if c.Phase == string(v1alpha1.ClaimRetained) && t.Key != s.Key {
			return
		}
	}
	a.fault("%s asks for %s in vain though nobody else has it: %s", s, addr, c)
}

// claim checks that a claim is needed by everybody that it names.
func (a *auditor) claim(c *Claim) {
	switch c.Phase {
	case string(v1alpha1.ClaimRetained):
		if c.RetainUntil.Before(a.w.Now) {
			a.fault("%s is kept after its deadline %s", c, c.RetainUntil.Format(time.TimeOnly))
		}
	case string(v1alpha1.ClaimBound):
		for _, t := range c.Tenants {
			if !a.needed[c.Address+" "+t.UID] {
				a.fault("%s, but %s does not have it: leaked", c, t.Key)
			}
		}
	default:
		a.fault("%s is left", c)
	}
}

// pools compares the pools' counters with the claims.
func (a *auditor) pools() {
	for i := range a.w.Pools {
		p := &a.w.Pools[i]
		var four, six int64
		for _, c := range a.w.Claims {
			addr, err := netip.ParseAddr(c.Address)
			switch {
			case err != nil || c.Pool != p.Name:
			case addr.Is4():
				four++
			default:
				six++
			}
		}
		if p.Status.AssignedIPv4 != four || p.Status.AssignedIPv6 != six {
			a.fault("pool %s counts %d and %d addresses in use, there are %d and %d claims",
				p.Name, p.Status.AssignedIPv4, p.Status.AssignedIPv6, four, six)
		}
	}
}
