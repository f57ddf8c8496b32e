// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/controller-manager/pkg/healthz"
	"k8s.io/klog/v2"
)

// Names of Fairlead's own controllers, for --controllers.
const (
	// ServiceAddressController finishes and repairs Services.
	ServiceAddressController = "service-address"
	// IPClaimController ends and collects claims.
	IPClaimController = "ip-claim"
	// IPAddressPoolController writes pool statuses.
	IPAddressPoolController = "ip-address-pool"
	// AnnouncementController proposes nodes and writes record statuses.
	AnnouncementController = "announcement"
	// MetalLBMirrorController copies metallb.io objects.
	MetalLBMirrorController = "metallb-mirror"
	// GossipKeyController makes the key of the agents' gossip.
	GossipKeyController = "gossip-key"
	// ExternalIPPolicyController makes the ExternalIPPolicy when there is none.
	ExternalIPPolicyController = "external-ip-policy"
)

func ownControllers() []string {
	return []string{
		ServiceAddressController, IPClaimController, IPAddressPoolController,
		AnnouncementController, MetalLBMirrorController, GossipKeyController,
		ExternalIPPolicyController,
	}
}

// Controllers returns every controller of the binary: the framework's, without the
// route controller, and Fairlead's own. The latter need a *Provider as their cloud.
func Controllers() map[string]app.ControllerInitFuncConstructor {
	all := make(map[string]app.ControllerInitFuncConstructor)
	for name, c := range app.DefaultInitFuncConstructors {
		if name != names.NodeRouteController {
			all[name] = c
		}
	}
	for _, name := range ownControllers() {
		all[name] = app.ControllerInitFuncConstructor{
			InitContext: app.ControllerInitContext{ClientName: name},
			Constructor: constructor(name),
		}
	}
	return all
}

// Aliases returns the short names that --controllers takes beside the canonical ones.
func Aliases() map[string]string {
	aliases := names.CCMControllerAliases()
	for alias, name := range aliases {
		if name == names.NodeRouteController {
			delete(aliases, alias)
		}
	}
	return aliases
}

func constructor(name string) app.InitFuncConstructor {
	return func(_ app.ControllerInitContext, _ *config.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
		return func(ctx context.Context, _ genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
			p, ok := cloud.(*Provider)
			if !ok {
				return nil, false, fmt.Errorf("controller %s needs the %s provider, not %s", name, ProviderName, cloud.ProviderName())
			}
			r, ok := p.controllers[name]
			if !ok {
				return nil, false, nil // switched off by the configuration
			}
			c := &running{name: name}
			go c.run(ctx, r)
			return c, true, nil
		}
	}
}

// running is a started controller. Its health fails once it has ended, so that the
// process is restarted rather than left half alive.
type running struct {
	name  string
	ended atomic.Bool
}

var _ controller.HealthCheckable = (*running)(nil)

func (c *running) run(ctx context.Context, r runner) {
	logger := klog.FromContext(ctx)
	err := r.Run(ctx)
	c.ended.Store(true)
	if ctx.Err() == nil {
		logger.Error(err, "Controller ended", "controller", c.name)
	}
}

// Name returns the controller's name.
func (c *running) Name() string { return c.name }

// HealthChecker fails once the controller has ended.
func (c *running) HealthChecker() healthz.UnnamedHealthChecker { return c }

// Check implements healthz.UnnamedHealthChecker.
func (c *running) Check(*http.Request) error {
	if c.ended.Load() {
		return errors.New("the controller has ended")
	}
	return nil
}
