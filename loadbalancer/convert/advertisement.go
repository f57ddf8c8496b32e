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
	// Pools by name.
	Pools []string
	// Interfaces by name; none means every interface whose subnet holds the address.
	Interfaces []string

	pools    []labels.Selector
	nodes    []labels.Selector
	services []labels.Selector
	// preferred nodes, each selector with the weight of the same index.
	preferred []labels.Selector
	weights   []int32
}

// L2Advertisement converts an API object. An error means that a selector cannot be
// understood (reason.InvalidSelector); such an advertisement is used by nobody, because
// half of a wish may announce from a node that the administrator meant to leave out.
func L2Advertisement(in *v1alpha1.L2Advertisement) (Advertisement, error) {
	pools, errPools := selectors("ipAddressPoolSelectors", in.Spec.IPAddressPoolSelectors)
	nodes, errNodes := selectors("nodeSelectors", in.Spec.NodeSelectors)
	services, errServices := selectors("serviceSelectors", in.Spec.ServiceSelectors)
	preferred, weights, errPreferred := preferences(in.Spec.PreferredNodeSelectors)
	if err := errors.Join(errPools, errNodes, errServices, errPreferred); err != nil {
		return Advertisement{}, err
	}
	return Advertisement{
		Name:       in.Name,
		Pools:      slices.Clone(in.Spec.IPAddressPools),
		Interfaces: slices.Clone(in.Spec.Interfaces),
		pools:      pools,
		nodes:      nodes,
		services:   services,
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
func (a Advertisement) SelectsPool(name string, poolLabels map[string]string) bool {
	if len(a.Pools) == 0 && len(a.pools) == 0 {
		return true
	}
	return slices.Contains(a.Pools, name) || anyMatches(a.pools, poolLabels)
}

// SelectsNode reports whether a node may announce; without node selectors every node may.
func (a Advertisement) SelectsNode(nodeLabels map[string]string) bool {
	return len(a.nodes) == 0 || anyMatches(a.nodes, nodeLabels)
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
func (a Advertisement) SelectsService(serviceLabels map[string]string) bool {
	return len(a.services) == 0 || anyMatches(a.services, serviceLabels)
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
