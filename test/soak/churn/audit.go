// SPDX-License-Identifier: Apache-2.0

package churn

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// HeldTwice returns every address that more than one living Service shows in its status.
// It holds at every moment, also while controllers die; a Service that is being deleted
// may still show an address that was given away since.
func HeldTwice(services []corev1.Service) []string {
	holder := map[string]string{}
	var out []string
	for i := range services {
		svc := &services[i]
		if svc.DeletionTimestamp != nil {
			continue
		}
		for _, a := range harness.Addresses(svc) {
			if other, taken := holder[a]; taken {
				out = append(out, fmt.Sprintf("%s is held by %s and by %s", a, other, svc.Name))
			}
			holder[a] = svc.Name
		}
	}
	return out
}

// Audit compares the Services of one namespace with the claims of one pool and the
// records, when nothing moves any more, and returns every fault it finds:
// a Service without exactly one address, an address held twice, a claim or record that
// nobody needs, or one that disagrees with its Service.
func Audit(services []corev1.Service, claims []v1alpha1.IPClaim, records []v1alpha1.LoadBalancer) []string {
	faults := HeldTwice(services)
	byName := map[string]*v1alpha1.IPClaim{}
	for i := range claims {
		byName[claims[i].Name] = &claims[i]
	}
	record := map[string]*v1alpha1.LoadBalancer{}
	for i := range records {
		record[records[i].Name] = &records[i]
	}
	for i := range services {
		faults = append(faults, auditService(&services[i], byName, record)...)
		delete(record, services[i].Name)
	}
	for name := range byName {
		c := byName[name]
		faults = append(faults, fmt.Sprintf("claim %s (%s, for %s) is leaked", name, c.Spec.Phase, serviceNames(c)))
	}
	for name := range record {
		faults = append(faults, fmt.Sprintf("record %s is left without a Service", name))
	}
	slices.Sort(faults)
	return faults
}

// auditService checks one Service and takes its claim out of claims.
func auditService(svc *corev1.Service, claims map[string]*v1alpha1.IPClaim, records map[string]*v1alpha1.LoadBalancer) []string {
	if svc.DeletionTimestamp != nil {
		return []string{fmt.Sprintf("service %s is still being deleted", svc.Name)}
	}
	addrs := harness.Addresses(svc)
	if len(addrs) != 1 {
		return []string{fmt.Sprintf("service %s has the addresses %v, want one", svc.Name, addrs)}
	}
	var faults []string
	claim := claims[addrs[0]]
	switch {
	case claim == nil:
		faults = append(faults, fmt.Sprintf("service %s has %s without a claim", svc.Name, addrs[0]))
	case claim.Spec.Phase != v1alpha1.ClaimBound || len(claim.Spec.Services) != 1 || claim.Spec.Services[0].UID != svc.UID:
		faults = append(faults, fmt.Sprintf("claim %s is %s for %s, want Bound for %s (%s)",
			claim.Name, claim.Spec.Phase, serviceNames(claim), svc.Name, svc.UID))
	}
	delete(claims, addrs[0])
	rec := records[svc.Name]
	switch {
	case rec == nil:
		faults = append(faults, fmt.Sprintf("service %s has no record", svc.Name))
	case rec.Spec.ServiceUID != svc.UID || len(rec.Spec.Addresses) != 1 || rec.Spec.Addresses[0].Address != addrs[0]:
		faults = append(faults, fmt.Sprintf("record %s has %v for %s, want %s for %s",
			rec.Name, rec.Spec.Addresses, rec.Spec.ServiceUID, addrs[0], svc.UID))
	}
	return faults
}

// serviceNames shows whom a claim names.
func serviceNames(c *v1alpha1.IPClaim) string {
	var out []string
	for _, s := range c.Spec.Services {
		out = append(out, s.Name+" ("+string(s.UID)+")")
	}
	return fmt.Sprint(out)
}
