// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Pool reads an IPAddressPool. A selector that cannot be understood becomes the
// spec's fault: the pool is then not used at all, rather than for every Service.
func Pool(p *v1alpha1.IPAddressPool) pool.Spec {
	s := pool.Spec{
		Name:          p.Name,
		Created:       loadbalancer.SinceTime(p.CreationTimestamp.Time),
		Addresses:     p.Spec.Addresses,
		Excluded:      p.Spec.ExcludedAddresses,
		Disabled:      p.Spec.Disabled,
		AutoAssign:    p.Spec.AutoAssign == nil || *p.Spec.AutoAssign,
		AvoidBuggyIPs: p.Spec.AvoidBuggyIPs,
	}
	sa := p.Spec.ServiceAllocation
	if sa == nil {
		return s
	}
	s.Allocation = &pool.Allocation{Priority: sa.Priority, Namespaces: sa.Namespaces}
	s.Allocation.NamespaceSelectors, s.Fault = allocationSelectors("namespaceSelectors", sa.NamespaceSelectors)
	if s.Fault == nil {
		s.Allocation.ServiceSelectors, s.Fault = allocationSelectors("serviceSelectors", sa.ServiceSelectors)
	}
	return s
}

func allocationSelectors(field string, in []metav1.LabelSelector) ([]labels.Selector, *pool.Error) {
	out := make([]labels.Selector, 0, len(in))
	for i := range in {
		sel, err := metav1.LabelSelectorAsSelector(&in[i])
		if err != nil {
			return nil, &pool.Error{Reason: reason.InvalidSelector, Message: fmt.Sprintf(
				"spec.serviceAllocation.%s[%d]: %v; correct it, no address of this pool is used until then", field, i, err)}
		}
		out = append(out, sel)
	}
	return out, nil
}
