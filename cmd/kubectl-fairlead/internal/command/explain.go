// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/explain"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

func (a *app) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why a Service has its addresses, or why it has none",
		Long: "Say why a Service has its addresses, or why it has none; who has an address; what a pool gives to whom.\n" +
			"Reads the cluster and asks the same allocator that the controller asks. Changes nothing.",
	}
	cmd.AddCommand(a.explainService(), a.explainAddress(), a.explainPool())
	return cmd
}

func (a *app) state(ctx context.Context) (*cluster.State, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	return cluster.Read(ctx, c)
}

func (a *app) explainService() *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:     "service NAME",
		Aliases: []string{"svc", "services"},
		Short:   "Say why a Service has its addresses, or why it has none",
		Example: "  kubectl fairlead explain service web -n shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, _, err := a.config().Namespace()
			if err != nil {
				return fmt.Errorf("read kubeconfig: %w", err)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			s, err := cluster.Read(cmd.Context(), c)
			if err != nil {
				return err
			}
			if local(s, namespace, args[0]) {
				cluster.ReadEndpoints(cmd.Context(), c, s, namespace, args[0])
			}
			report, ok := explain.Service(s, namespace, args[0])
			if !ok {
				return fmt.Errorf("service %s/%s: %w", namespace, args[0], errNotFound)
			}
			return a.print(report, *output)
		},
	}
	output = outputFlag(cmd)
	return cmd
}

// local says whether it matters on which nodes a Service has its targets: where BGP tells
// its addresses from there only.
func local(s *cluster.State, namespace, name string) bool {
	return slices.ContainsFunc(s.Records, func(r v1alpha1.LoadBalancer) bool {
		return r.Namespace == namespace && r.Name == name && r.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal &&
			slices.ContainsFunc(r.Spec.Advertisements, func(a v1alpha1.AdvertisementReference) bool { return a.Kind == v1alpha1.KindBGPAdvertisement })
	})
}

func (a *app) explainAddress() *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:     "address ADDRESS",
		Aliases: []string{"ip", "addresses"},
		Short:   "Say who has an address, or why nobody can have it",
		Example: "  kubectl fairlead explain address 172.20.255.200",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil || addr.Zone() != "" {
				return fmt.Errorf("%q is not an IP address", args[0])
			}
			s, err := a.state(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(explain.ForAddress(s, addr.Unmap()), *output)
		},
	}
	output = outputFlag(cmd)
	return cmd
}

func (a *app) explainPool() *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use:     "pool NAME",
		Aliases: []string{"ipaddresspool", "pools"},
		Short:   "Say what a pool gives to whom, and who has its addresses",
		Example: "  kubectl fairlead explain pool first",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.state(cmd.Context())
			if err != nil {
				return err
			}
			report, ok := explain.ForPool(s, args[0])
			if !ok {
				return fmt.Errorf("IPAddressPool %s: %w", args[0], errNotFound)
			}
			return a.print(report, *output)
		},
	}
	output = outputFlag(cmd)
	return cmd
}
