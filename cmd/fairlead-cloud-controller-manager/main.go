// SPDX-License-Identifier: Apache-2.0

// Command fairlead-cloud-controller-manager runs the stock Kubernetes cloud controller
// manager with the fairlead provider and Fairlead's own controllers. It holds flags,
// defaults and exit codes only; package provider does the rest.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/wait"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build info metric

	"github.com/fairlead-lb/fairlead/provider"
)

const (
	name = "fairlead-cloud-controller-manager"
	// defaultNamespace is where deploy/ puts Fairlead.
	defaultNamespace = "fairlead-system"
	// securePort differs from other cloud controller managers' 10258.
	securePort = 10268
	// The service controller and ours together write some ten objects per Service: with
	// these, 1,000 Services and 500 nodes get through unthrottled.
	clientQPS, clientBurst = 500, 1000
	concurrentServiceSyncs = 8
)

func main() { os.Exit(run()) }

func run() int {
	opts, err := newOptions(namespace())
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return cli.Run(newCommand(opts))
}

// namespace returns the pod's namespace, from the downward API.
func namespace() string {
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns
	}
	return defaultNamespace
}

// newOptions returns the framework's options with our defaults; flags change them.
func newOptions(ns string) (*options.CloudControllerManagerOptions, error) {
	opts, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make options: %w", err)
	}
	opts.KubeCloudShared.CloudProvider.Name = provider.ProviderName
	opts.SecureServing.BindPort = securePort
	opts.Generic.LeaderElection.ResourceName = name
	opts.Generic.LeaderElection.ResourceNamespace = ns
	opts.Generic.ClientConnection.QPS = clientQPS
	opts.Generic.ClientConnection.Burst = clientBurst
	opts.ServiceController.ConcurrentServiceSyncs = concurrentServiceSyncs
	// Our account may not read the config map that says how aggregated requests come in.
	opts.Authentication.SkipInClusterLookup = true
	return opts, nil
}

func newCommand(opts *options.CloudControllerManagerOptions) *cobra.Command {
	var cloudConfig provider.Config
	newCloud := func(c *config.CompletedConfig) cloudprovider.Interface {
		p, err := provider.New(provider.Options{
			Config:          cloudConfig,
			Namespace:       namespace(),
			REST:            c.Kubeconfig,
			SharedInformers: c.SharedInformers,
			Broadcaster:     c.EventBroadcaster,
		})
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1) // the framework's hook has no way to return an error
		}
		return p
	}
	cmd := app.NewCloudControllerManagerCommand(opts, newCloud, provider.Controllers(), provider.Aliases(), cliflag.NamedFlagSets{}, wait.NeverStop)
	cmd.Use = name
	cmd.Long = "Gives Services of type LoadBalancer addresses on a cluster without a cloud,\nand initialises Nodes. The node agents announce the addresses."
	// Before anything else, so that a bad file is one clear line and no half start.
	cmd.PreRunE = func(*cobra.Command, []string) error {
		cloud := opts.KubeCloudShared.CloudProvider
		if cloud.Name != provider.ProviderName {
			return fmt.Errorf("--cloud-provider is %q, want %q", cloud.Name, provider.ProviderName)
		}
		c, err := provider.ReadConfig(cloud.CloudConfigFile)
		cloudConfig = c
		return err
	}
	return cmd
}
