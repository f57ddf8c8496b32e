// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/top"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

func (a *app) top() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what nodes forward: connections, packets and bytes",
		Long: "Show what nodes forward by IPVS, by node, Service or backend. Figures are the kernels' own: counts since the\n" +
			"node last programmed the port, rates over the last seconds. Asks the node agents through port-forwards to their\n" +
			"pods. Changes nothing.",
	}
	cmd.AddCommand(
		a.topBy("nodes", []string{"node", "no"}, "Show what each node forwards, and who forwards there",
			func(in top.Input) texter { return top.ByNode(in) }),
		a.topBy("services", []string{"service", "svc"}, "Show what goes to each port of each Service, on all nodes together",
			func(in top.Input) texter { return top.ByService(in) }),
		a.topBy("backends", []string{"backend"}, "Show what goes to each backend, on all nodes together",
			func(in top.Input) texter { return top.ByBackend(in) }),
	)
	return cmd
}

func (a *app) topBy(what string, aliases []string, short string, by func(top.Input) texter) *cobra.Command {
	var output *string
	cmd := &cobra.Command{
		Use: what, Aliases: aliases, Short: short, Args: cobra.NoArgs,
		Example: "  kubectl fairlead top " + what + "\n  kubectl fairlead top " + what + " -n shop",
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := a.traffic(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(by(in), *output)
		},
	}
	output = outputFlag(cmd)
	return cmd
}

// askAgents asks the agents, or that of one node, for what they serve at a path.
func askAgents[T any](ctx context.Context, a *app, node, path string) ([]T, []agents.Gap, error) {
	cfg, err := a.config().ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS = -1
	cfg.UserAgent = "kubectl-fairlead/" + a.env.Version
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	return agents.Reports(ctx, kube, node, agents.PortForward[T](cfg, kube, path))
}

// traffic asks the agents. Only a namespace that is named on the command line counts: what
// nodes do is no matter of one namespace.
func (a *app) traffic(ctx context.Context) (top.Input, error) {
	reports, gaps, err := askAgents[traffic.Report](ctx, a, "", traffic.Path)
	if err != nil {
		return top.Input{}, err
	}
	return top.Input{Reports: reports, Gaps: gaps, Namespace: a.overrides.Context.Namespace}, nil
}
