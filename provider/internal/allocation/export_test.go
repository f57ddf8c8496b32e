// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Sync does once what the workers do for a Service and for the line.
func (c *Controller) Sync(ctx context.Context, key loadbalancer.ServiceKey) error {
	err := c.sync(ctx, key)
	c.serveLine(ctx)
	return err
}

// Fails reports whether a Service waits for its load balancer's addresses.
func (a *Allocator) Fails(key loadbalancer.ServiceKey) bool {
	o, ok := a.opening(key)
	return ok && slices.ContainsFunc(o.told, func(f failure) bool {
		return f.reason != reason.ExternalIPNotGranted && f.reason != reason.ExternalIPInUse
	})
}
