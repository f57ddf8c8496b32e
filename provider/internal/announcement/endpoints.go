// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// endpointsOf reads from the cache where a Service (namespace/name) has serving pods.
func (c *Controller) endpointsOf(service string) loadbalancer.Endpoints {
	objs, err := c.opts.Informers.EndpointSlices.GetIndexer().ByIndex(serviceIndex, service)
	if err != nil {
		return loadbalancer.Endpoints{} // only for an unknown index, which New has added
	}
	slices := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			slices = append(slices, s)
		}
	}
	return convert.EndpointsOf(slices)
}
