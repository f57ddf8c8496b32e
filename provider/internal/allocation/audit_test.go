// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// check verifies that nothing is leaked, doubled or lost, by what the server has alone:
// each tenant of a Bound claim is one of the Services and lists it, each address listed
// has a claim that names its Service, no two tenants have one port, and groups are what
// they should be.
func check(api *storetest.API, services ...*corev1.Service) error {
	live := make(map[types.UID]bool)
	for _, s := range services {
		live[s.UID] = true
	}
	var errs []error
	for _, r := range api.AllRecords() {
		if !live[r.Spec.ServiceUID] {
			errs = append(errs, fmt.Errorf("record %s of %s is left over", r.Name, r.Spec.ServiceUID))
		}
	}
	listed := listings(api)
	for _, c := range api.AllClaims() {
		if c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		for _, ref := range c.Spec.Services {
			if !live[ref.UID] || !listed[use{c.Name, ref.UID}] {
				errs = append(errs, fmt.Errorf("claim %s names %s, which does not list it", c.Name, ref.UID))
			}
		}
	}
	return errors.Join(append(errs, append(checkHeld(api), checkGroups(api))...)...)
}

// use is that a record lists an address.
type use struct {
	claim string
	uid   types.UID
}

func listings(api *storetest.API) map[use]bool {
	out := make(map[use]bool)
	for _, r := range api.AllRecords() {
		for _, a := range r.Spec.Addresses {
			out[use{a.Claim, r.Spec.ServiceUID}] = true
		}
	}
	return out
}

// checkHeld is the part of check that holds at any time, even in the midst of changes and
// with deletions lost half way: what is listed is held, and held as it may be.
func checkHeld(api *storetest.API) []error {
	var errs []error
	bound := make(map[string]*v1alpha1.IPClaim)
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimBound {
			bound[c.Name] = c
			errs = append(errs, checkTenants(c))
		}
	}
	for u := range listings(api) {
		c := bound[u.claim]
		if c == nil || !slices.ContainsFunc(c.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == u.uid }) {
			errs = append(errs, fmt.Errorf("%s lists %s, which no claim gives to it", u.uid, u.claim))
		}
	}
	return errs
}

// checkTenants verifies that a claim's Services go together.
func checkTenants(c *v1alpha1.IPClaim) error {
	type port struct {
		protocol string
		number   int32
	}
	var errs []error
	taken := make(map[port]types.UID)
	for _, ref := range c.Spec.Services {
		for _, p := range ref.Ports {
			if by, clash := taken[port{p.Protocol, p.Port}]; clash {
				errs = append(errs, fmt.Errorf("%s: %s and %s both have port %d/%s", c.Name, by, ref.UID, p.Port, p.Protocol))
			}
			taken[port{p.Protocol, p.Port}] = ref.UID
		}
		if ref.Backends != c.Spec.Services[0].Backends {
			errs = append(errs, fmt.Errorf("%s: backends differ", c.Name))
		}
	}
	if len(c.Spec.Services) > 1 && c.Spec.SharingKey == "" {
		errs = append(errs, fmt.Errorf("%s is shared without a key", c.Name))
	}
	return errors.Join(errs...)
}

// checkGroups verifies groups by spreading the lowest name along common Services until
// nothing changes.
func checkGroups(api *storetest.API) error {
	want := make(map[string]string)
	var claims []*v1alpha1.IPClaim
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimBound {
			claims = append(claims, c)
			want[c.Name] = c.Name
		}
	}
	for changed := true; changed; {
		changed = false
		for _, a := range claims {
			for _, b := range claims {
				linked := slices.ContainsFunc(a.Spec.Services, func(r v1alpha1.ServiceReference) bool {
					return slices.ContainsFunc(b.Spec.Services, func(o v1alpha1.ServiceReference) bool { return o.UID == r.UID })
				})
				if linked && want[a.Name] < want[b.Name] {
					want[b.Name], changed = want[a.Name], true
				}
			}
		}
	}
	var errs []error
	for _, c := range claims {
		if c.Spec.Group != want[c.Name] {
			errs = append(errs, fmt.Errorf("claim %s is in group %s, want %s", c.Name, c.Spec.Group, want[c.Name]))
		}
	}
	return errors.Join(errs...)
}
