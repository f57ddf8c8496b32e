// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Holding reads who holds a claim's address. A phase of a later release counts as
// Releasing: the address is not to be given to anybody.
func Holding(c *v1alpha1.IPClaim) pool.Holding {
	h := pool.Holding{State: pool.Releasing, SharingKey: c.Spec.SharingKey}
	switch c.Spec.Phase {
	case v1alpha1.ClaimBound:
		h.State = pool.Bound
	case v1alpha1.ClaimRetained:
		h.State = pool.Retained
	case v1alpha1.ClaimReleasing:
	}
	for _, ref := range c.Spec.Services {
		t := pool.Tenant{
			Service:  loadbalancer.ServiceKey{Namespace: ref.Namespace, Name: ref.Name},
			UID:      loadbalancer.ServiceUID(ref.UID),
			Backends: ref.Backends,
		}
		for _, p := range ref.Ports {
			t.Ports = append(t.Ports, pool.Port{Protocol: p.Protocol, Number: uint16(p.Port)}) //nolint:gosec // 1 to 65535 by validation
		}
		h.Tenants = append(h.Tenants, t)
	}
	return h
}
