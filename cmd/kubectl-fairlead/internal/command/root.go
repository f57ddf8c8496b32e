// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
)

// Exit codes other than 0.
const (
	// exitError: the command could not do what it was asked to, or not all of it.
	exitError = 1
	// exitIncomplete: `migrate metallb` could not carry everything over.
	exitIncomplete = 3
)

// Env is what a command has of the process around it.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	// Now returns the time from which deadlines count.
	Now func() time.Time
	// Version of this program.
	Version string
}

// app is shared by all commands.
type app struct {
	env       Env
	loader    *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
	// code is the exit code when no error says otherwise.
	code int
}

// Run executes one command line and returns its exit code.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{env: env, loader: clientcmd.NewDefaultClientConfigLoadingRules()}
	root := a.root() //nolint:contextcheck // commands get ctx from ExecuteContext
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(env.Err, "error:", err)
		return exitError
	}
	return a.code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-fairlead",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl fairlead"},
		Short:         "Explain and move the addresses of Fairlead's load balancers",
		Version:       a.env.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(a.env.In)
	root.SetOut(a.env.Out)
	root.SetErr(a.env.Err)
	flags := root.PersistentFlags()
	flags.StringVar(&a.loader.ExplicitPath, clientcmd.RecommendedConfigPathFlag, "", "path to the kubeconfig file")
	clientcmd.BindOverrideFlags(&a.overrides, flags, clientcmd.RecommendedConfigOverrideFlags(""))
	root.AddCommand(a.explain(), a.top(), a.bgp(), a.claims(), a.migrate())
	return root
}

func (a *app) config() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(a.loader, &a.overrides)
}

func (a *app) connect() (*cluster.Clients, error) {
	cfg, err := a.config().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// A few lists and, for an import, one write after the other: nothing to throttle.
	cfg.QPS = -1
	cfg.UserAgent = "kubectl-fairlead/" + a.env.Version
	return cluster.Connect(cfg)
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("output", "o", "", "yaml or json; the default is text for people")
}

// texter is a report that people can read.
type texter interface{ Text() string }

// print writes a report in the format asked for.
func (a *app) print(report texter, format string) error {
	var data []byte
	var err error
	switch format {
	case "":
		data = []byte(report.Text())
	case "yaml":
		data, err = yaml.Marshal(report)
	case "json":
		data, err = json.MarshalIndent(report, "", "  ")
		data = append(data, '\n')
	default:
		return fmt.Errorf("output format %q: want yaml or json", format)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if _, err := a.env.Out.Write(data); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

var errNotFound = errors.New("not found")
