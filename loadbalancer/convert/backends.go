// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// maxWeight bounds the annotation fairlead.dev/weight.
const maxWeight = 100

// Weight reads the annotation fairlead.dev/weight of a Node or an EndpointSlice: 1 to 100,
// 0 when there is none. An error means that it cannot be understood and does not count.
func Weight(annotations map[string]string) (uint16, error) {
	text, ok := annotations[v1alpha1.AnnotationWeight]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n < 1 || n > maxWeight {
		return 0, fmt.Errorf("annotation %s: %q is not a number from 1 to %d", v1alpha1.AnnotationWeight, text, maxWeight)
	}
	return uint16(n), nil
}

// BackendsOf returns the endpoints in the EndpointSlices of one Service, one for each of
// their ports, as loadbalancer.Endpoints has them. The order of the slices does not matter.
//
// Of an endpoint's addresses only the first counts, and ports without a number do not, both
// as for kube-proxy. An endpoint that is in several slices, as while it moves from one to
// another, counts once, and is ready when one of them says so. Weights are the nodes' by
// name; the annotation of a slice counts before them. What cannot be understood is left
// out, and the error says what; the rest is usable all the same.
func BackendsOf(in []*discoveryv1.EndpointSlice, weights map[loadbalancer.NodeName]uint16) ([]loadbalancer.Backend, error) {
	var out []loadbalancer.Backend
	var errs []error
	for _, s := range in {
		if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
			continue // names: nothing for a kernel
		}
		weight, err := Weight(s.Annotations)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint slice %s: %w", s.Name, err))
		}
		ports := slicePorts(s.Ports)
		for i := range s.Endpoints {
			b, err := backend(&s.Endpoints[i])
			if err != nil {
				errs = append(errs, fmt.Errorf("endpoint slice %s: %w", s.Name, err))
				continue
			}
			b.Weight = cmp.Or(weight, weights[b.Node], 1)
			for _, p := range ports {
				b.PortName, b.Protocol, b.Port = p.Name, p.Protocol, p.Port
				out = append(out, b)
			}
		}
	}
	slices.SortFunc(out, compareBackends)
	out = slices.CompactFunc(out, func(a, b loadbalancer.Backend) bool { return compareIdentity(a, b) == 0 })
	return slices.Clip(out), errors.Join(errs...)
}

// slicePorts are the ports of a slice that have a number. They have no node ports.
func slicePorts(in []discoveryv1.EndpointPort) []loadbalancer.ServicePort {
	out := make([]loadbalancer.ServicePort, 0, len(in))
	for _, p := range in {
		var name, proto string
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = string(*p.Protocol)
		}
		number, known := protocol(proto)
		if !known || p.Port == nil || *p.Port < 1 || *p.Port > maxPort {
			continue
		}
		out = append(out, loadbalancer.ServicePort{Name: name, Protocol: number, Port: uint16(*p.Port)})
	}
	return out
}

// backend reads all of an endpoint but its ports and its weight. A condition that is not
// set means yes for ready and serving, and no for terminating.
func backend(e *discoveryv1.Endpoint) (loadbalancer.Backend, error) {
	var out loadbalancer.Backend
	if len(e.Addresses) == 0 {
		return out, errors.New("an endpoint has no address")
	}
	a, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || a.Zone() != "" {
		return out, fmt.Errorf("an endpoint's address is %q", e.Addresses[0])
	}
	out.Addr = a.Unmap()
	if e.NodeName != nil {
		out.Node = loadbalancer.NodeName(*e.NodeName)
	}
	c := e.Conditions
	out.Ready, out.Serving, out.Terminating = isTrue(c.Ready), isTrue(c.Serving), c.Terminating != nil && *c.Terminating
	return out, nil
}

// compareIdentity orders backends by what tells them apart.
func compareIdentity(a, b loadbalancer.Backend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.PortName, b.PortName), cmp.Compare(a.Protocol, b.Protocol))
}

// compareBackends orders backends so that of those that are one, the one to keep is first.
func compareBackends(a, b loadbalancer.Backend) int {
	return cmp.Or(
		compareIdentity(a, b), loadbalancer.CompareBools(b.Ready, a.Ready), loadbalancer.CompareBools(b.Serving, a.Serving), loadbalancer.CompareBools(a.Terminating, b.Terminating),
		cmp.Compare(b.Weight, a.Weight), cmp.Compare(b.Node, a.Node),
	)
}
