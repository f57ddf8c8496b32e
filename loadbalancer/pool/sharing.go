// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// ExternalKey is the sharing key of addresses that Services have by spec.externalIPs.
// No Service may ask for it.
const ExternalKey = "spec.externalIPs"

// MaxTenants is how many Services can be on one address: what a claim can name.
const MaxTenants = 256

// misfit is why a Service cannot be on an address.
type misfit struct {
	kind misfitKind
	// other is the tenant that it does not go with, port what they both have.
	other *Tenant
	port  Port
}

type misfitKind uint8

const (
	fits misfitKind = iota
	// notShared: neither side wants to share.
	notShared
	// external: it is in use by spec.externalIPs.
	external
	keysDiffer
	// crowded: no more Services can be on it.
	crowded
	portClash
	backendsDiffer
)

// misfitOf compares a Service with the other tenants of an address. It makes no
// message, because the search for an address to join asks often.
func misfitOf(h Holding, t *Tenant, sharingKey string) misfit {
	member := false
	var first *Tenant
	for i := range h.Tenants {
		if h.Tenants[i].UID == t.UID || h.Tenants[i].Service == t.Service {
			member = true
		} else if first == nil {
			first = &h.Tenants[i]
		}
	}
	if first == nil {
		return misfit{}
	}
	switch {
	case h.SharingKey == sharingKey && sharingKey != "":
	case h.SharingKey == ExternalKey:
		return misfit{kind: external, other: first}
	case h.SharingKey == "" && sharingKey == "":
		return misfit{kind: notShared, other: first}
	case h.SharingKey == "" && member:
		// A controller that does not know the field wrote the claim: it says nothing.
	default:
		return misfit{kind: keysDiffer, other: first}
	}
	if !member && len(h.Tenants) >= MaxTenants {
		return misfit{kind: crowded, other: first}
	}
	for i := range h.Tenants {
		other := &h.Tenants[i]
		if other.UID == t.UID || other.Service == t.Service {
			continue
		}
		for _, p := range t.Ports {
			if slices.Contains(other.Ports, p) {
				return misfit{portClash, other, p}
			}
		}
		if other.Backends != t.Backends {
			return misfit{kind: backendsDiffer, other: other}
		}
	}
	return misfit{}
}

// Fits says why a Service cannot be on an address that is Bound beside its other
// tenants, nil when it can. The Service itself does not count among the tenants, nor does
// one of its name, which is gone and which it replaces there; alone it always fits. sharingKey is the Service's. The message is a clause about the
// address: "address … was asked for, but " goes before it.
//
// The rule is MetalLB's: equal keys, no port and protocol twice, and under
// externalTrafficPolicy Local the same pods. Another's key is not told: who knows it
// can join.
func Fits(h Holding, t Tenant, sharingKey string) *Error {
	m := misfitOf(h, &t, sharingKey)
	switch m.kind {
	case notShared:
		return inUse(m.other.Service)
	case external:
		return &Error{reason.AddressInUse, fmt.Sprintf("Service %s has it in spec.externalIPs; ask for another or take it out there", m.other.Service)}
	case keysDiffer:
		if sharingKey == ExternalKey {
			return inUse(m.other.Service) // no annotation lets an external IP share
		}
		return &Error{reason.SharingKeyMismatch, fmt.Sprintf(
			"Service %s has it, and the two do not have one sharing key; ask for another, or give both the annotation fairlead.dev/sharing-key with one value", m.other.Service)}
	case crowded:
		return &Error{reason.AddressInUse, fmt.Sprintf("%d Services share it, and no more can; ask for another", MaxTenants)}
	case portClash:
		return &Error{reason.PortInUse, fmt.Sprintf(
			"Service %s has port %s/%d on it; change one of the ports, or ask for another address", m.other.Service, m.port.Protocol, m.port.Number)}
	case backendsDiffer:
		return &Error{reason.BackendsDiffer, fmt.Sprintf(
			"Service %s on it sends its traffic to other pods, which one node cannot serve under externalTrafficPolicy Local; set externalTrafficPolicy: Cluster on both, give both one selector, or ask for another address", m.other.Service)}
	case fits:
	}
	return nil
}
