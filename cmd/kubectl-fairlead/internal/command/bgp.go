// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/bgp"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
)

func (a *app) bgp() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bgp",
		Short: "Show the nodes' BGP sessions, and the routes that they tell",
		Long: "Show the nodes' BGP sessions, as their NodeAgents tell of them, and the routes that peers were told, for which the\n" +
			"agents are asked through port-forwards to their pods. Changes nothing.",
	}
	cmd.AddCommand(a.bgpPeers(), a.bgpRoutes())
	return cmd
}

// filterFlags adds --node and --peer.
func filterFlags(cmd *cobra.Command) *bgp.Filter {
	f := &bgp.Filter{}
	cmd.Flags().StringVar(&f.Node, "node", "", "of this node only")
	cmd.Flags().StringVar(&f.Peer, "peer", "", "with this BGPPeer only")
	return f
}

func (a *app) bgpPeers() *cobra.Command {
	var output *string
	var filter *bgp.Filter
	cmd := &cobra.Command{
		Use: "peers", Aliases: []string{"peer", "sessions"}, Short: "Show each node's sessions, and what is wrong with them", Args: cobra.NoArgs,
		Example: "  kubectl fairlead bgp peers\n  kubectl fairlead bgp peers --node worker-1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := a.sessions(cmd.Context(), *filter)
			if err != nil {
				return err
			}
			return a.print(report, *output)
		},
	}
	output, filter = outputFlag(cmd), filterFlags(cmd)
	return cmd
}

func (a *app) sessions(ctx context.Context, f bgp.Filter) (bgp.Peers, error) {
	c, err := a.connect()
	if err != nil {
		return bgp.Peers{}, err
	}
	agents, err := c.Fairlead.NodeAgents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return bgp.Peers{}, fmt.Errorf("list NodeAgents: %w", err)
	}
	peers, err := c.Fairlead.BGPPeers().List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err):
		report := bgp.ForPeers(agents.Items, nil, f)
		report.Notes = append(report.Notes, "the cluster has no BGPPeers: its Fairlead is of an earlier version")
		return report, nil
	case err != nil:
		report := bgp.ForPeers(agents.Items, nil, f)
		report.Notes = append(report.Notes, fmt.Sprintf("cannot read BGPPeers (%v): those that no node has a session with are not named", err))
		return report, nil
	}
	return bgp.ForPeers(agents.Items, peers.Items, f), nil
}

func (a *app) bgpRoutes() *cobra.Command {
	var output *string
	var filter *bgp.Filter
	cmd := &cobra.Command{
		Use: "routes", Aliases: []string{"route"}, Short: "Show the routes that peers were told, and what is told to nobody", Args: cobra.NoArgs,
		Example: "  kubectl fairlead bgp routes\n  kubectl fairlead bgp routes --node worker-1 --peer spine",
		RunE: func(cmd *cobra.Command, _ []string) error {
			reports, gaps, err := askAgents[told.Report](cmd.Context(), a, filter.Node, told.Path)
			if err != nil {
				return err
			}
			return a.print(bgp.ForRoutes(reports, gaps, *filter), *output)
		},
	}
	output, filter = outputFlag(cmd), filterFlags(cmd)
	return cmd
}
