// SPDX-License-Identifier: Apache-2.0

// Package externalip decides which addresses of spec.externalIPs a Service may use: it
// owns the meaning of an ExternalIPPolicy's grants. It is pure: it knows no client and
// remembers nothing. The controller asks it before it claims such an address; the
// admission policy fairlead-external-ips says the same in CEL.
package externalip

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Granted reports whether the policy's grants allow Services of a namespace with these
// labels to serve these ports on an address: each port needs a grant of its own, of a
// Service without ports the address alone. A nil policy allows nothing; neither does a
// range that cannot be read.
func Granted(policy *v1alpha1.ExternalIPPolicy, namespace string, labels map[string]string, addr netip.Addr, ports []pool.Port) bool {
	if policy == nil {
		return false
	}
	var of []*v1alpha1.ExternalIPGrant
	for i := range policy.Spec.Grants {
		if g := &policy.Spec.Grants[i]; selects(g, namespace, labels) && covers(g.Ranges, addr) {
			of = append(of, g)
		}
	}
	for _, p := range ports {
		if !slices.ContainsFunc(of, func(g *v1alpha1.ExternalIPGrant) bool { return allows(g.Ports, p) }) {
			return false
		}
	}
	return len(of) > 0
}

func selects(g *v1alpha1.ExternalIPGrant, namespace string, labels map[string]string) bool {
	if slices.Contains(g.Namespaces, namespace) {
		return true
	}
	if g.NamespaceSelector == nil {
		return false
	}
	for key, want := range g.NamespaceSelector.MatchLabels {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}

func covers(ranges []string, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Masked().Contains(addr)
	})
}

func allows(grant []v1alpha1.GrantPort, p pool.Port) bool {
	return len(grant) == 0 || slices.ContainsFunc(grant, func(g v1alpha1.GrantPort) bool { return includes(g, p) })
}

// includes treats an absent protocol as TCP, and an absent end as one port.
func includes(g v1alpha1.GrantPort, p pool.Port) bool {
	protocol := g.Protocol
	if protocol == "" {
		protocol = string(corev1.ProtocolTCP)
	}
	number := int32(p.Number)
	return protocol == p.Protocol && g.Port <= number && number <= max(g.Port, g.EndPort)
}
