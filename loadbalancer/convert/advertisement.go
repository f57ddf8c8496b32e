// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Advertisement is an L2Advertisement with its selectors understood. It is immutable.
type Advertisement struct {
	// Name of the L2Advertisement.
	Name string
	Selectors
	// Interfaces by name; none means every interface whose subnet holds the address.
	Interfaces []string

	// preferred nodes, each selector with the weight of the same index.
	preferred []labels.Selector
	weights   []int32
}

// Selectors are what an advertisement of either kind selects. They are immutable.
type Selectors struct {
	// Pools by name.
	Pools []string

	pools    []labels.Selector
	nodes    []labels.Selector
	services []labels.Selector
}

// newSelectors understands the selectors of an advertisement; the error names every bad one.
func newSelectors(names []string, pools, nodes, services []metav1.LabelSelector) (Selectors, error) {
	byPool, errPools := selectors("ipAddressPoolSelectors", pools)
	byNode, errNodes := selectors("nodeSelectors", nodes)
	byService, errServices := selectors("serviceSelectors", services)
	if err := errors.Join(errPools, errNodes, errServices); err != nil {
		return Selectors{}, err
	}
	return Selectors{Pools: slices.Clone(names), pools: byPool, nodes: byNode, services: byService}, nil
}

// L2Advertisement converts an API object. An error means that a selector cannot be
// understood (reason.InvalidSelector); such an advertisement is used by nobody, because
// half of a wish may announce from a node that the administrator meant to leave out.
func L2Advertisement(in *v1alpha1.L2Advertisement) (Advertisement, error) {
	selected, err := newSelectors(in.Spec.IPAddressPools, in.Spec.IPAddressPoolSelectors, in.Spec.NodeSelectors, in.Spec.ServiceSelectors)
	preferred, weights, errPreferred := preferences(in.Spec.PreferredNodeSelectors)
	if err := errors.Join(err, errPreferred); err != nil {
		return Advertisement{}, err
	}
	return Advertisement{
		Name:       in.Name,
		Selectors:  selected,
		Interfaces: slices.Clone(in.Spec.Interfaces),
		preferred:  preferred,
		weights:    weights,
	}, nil
}

func preferences(in []v1alpha1.PreferredNodeSelector) ([]labels.Selector, []int32, error) {
	terms := make([]metav1.LabelSelector, 0, len(in))
	weights := make([]int32, 0, len(in))
	for _, p := range in {
		terms, weights = append(terms, p.Preference), append(weights, p.Weight)
	}
	out, err := selectors("preferredNodeSelectors", terms)
	return out, weights, err
}

func selectors(field string, in []metav1.LabelSelector) ([]labels.Selector, error) {
	out := make([]labels.Selector, 0, len(in))
	for i := range in {
		s, err := metav1.LabelSelectorAsSelector(&in[i])
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// SelectsPool reports whether addresses of a pool are announced. With neither names
// nor pool selectors every pool is.
func (s Selectors) SelectsPool(name string, poolLabels map[string]string) bool {
	if len(s.Pools) == 0 && len(s.pools) == 0 {
		return true
	}
	return slices.Contains(s.Pools, name) || anyMatches(s.pools, poolLabels)
}

// SelectsNode reports whether a node may announce; without node selectors every node may.
func (s Selectors) SelectsNode(nodeLabels map[string]string) bool {
	return len(s.nodes) == 0 || anyMatches(s.nodes, nodeLabels)
}

// Prefers reports whether there are preferred nodes at all.
func (a Advertisement) Prefers() bool { return len(a.preferred) > 0 }

// Weight returns the sum of the weights of the preferences that match a node.
func (a Advertisement) Weight(nodeLabels map[string]string) int {
	sum := 0
	for i, s := range a.preferred {
		if s.Matches(labels.Set(nodeLabels)) {
			sum += int(a.weights[i])
		}
	}
	return sum
}

// SelectsService reports whether a Service is announced; without service selectors
// every Service is.
func (s Selectors) SelectsService(serviceLabels map[string]string) bool {
	return len(s.services) == 0 || anyMatches(s.services, serviceLabels)
}

// SelectsInterface reports whether an address is announced on an interface: one that
// is named, whatever its subnet, or without names one whose own subnet holds the
// address, because only there do neighbours ask for it by ARP.
func (a Advertisement) SelectsInterface(itf loadbalancer.Interface, addr netip.Addr) bool {
	if len(a.Interfaces) > 0 {
		return slices.Contains(a.Interfaces, itf.Name)
	}
	return slices.ContainsFunc(itf.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func anyMatches(selectors []labels.Selector, set map[string]string) bool {
	return slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(set)) })
}
