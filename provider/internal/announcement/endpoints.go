// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// endpointsOf reads from the cache where a Service (namespace/name) has serving pods.
func (c *Controller) endpointsOf(service string) loadbalancer.Endpoints {
	return convert.EndpointsOf(client.Indexed[discoveryv1.EndpointSlice](c.opts.Informers.EndpointSlices, serviceIndex, service))
}
