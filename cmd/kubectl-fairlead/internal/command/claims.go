// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/claimfile"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

func (a *app) claims() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "claims",
		Short: "Carry the addresses of Services out of a cluster, and back into one",
	}
	cmd.AddCommand(a.claimsExport(), a.claimsImport())
	return cmd
}

func (a *app) claimsExport() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write who holds which address, for claims import",
		Long: "Write every IPClaim that somebody holds, or that is kept for somebody, in the form that claims import reads.\n" +
			"Changes nothing.",
		Example: "  kubectl fairlead claims export > claims.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.Fairlead.Claims().List(cmd.Context(), metav1.ListOptions{})
			if err != nil {
				return fmt.Errorf("list IPClaims: %w", err)
			}
			return a.printList(claimfile.Export(list.Items), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return cmd
}

// printList writes claims as one List.
func (a *app) printList(claims []v1alpha1.IPClaim, format string) error {
	items := make([]any, 0, len(claims))
	for i := range claims {
		fields, err := manifest.Encode(&claims[i])
		if err != nil {
			return err
		}
		items = append(items, fields)
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
	switch format {
	case "yaml":
		return manifest.Write(a.env.Out, []map[string]any{list})
	case "json":
		enc := json.NewEncoder(a.env.Out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(list); err != nil {
			return fmt.Errorf("write claims: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("output format %q: want yaml or json", format)
	}
}

func (a *app) claimsImport() *cobra.Command {
	var files []string
	var retainFor time.Duration
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import -f FILE",
		Short: "Keep addresses for the Services that a file names",
		Long: "Create the IPClaims of a file in phase Retained: each address is kept for the Service of the namespace and name in\n" +
			"the claim, which takes it over, or until the deadline. What the Service has already is skipped; claims that are\n" +
			"there are never changed. May be repeated. Exit code 1 when an address belongs to another or was refused.",
		Example: "  kubectl fairlead claims import -f claims.yaml --retain-for 72h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if retainFor != 0 && (retainFor < time.Second || retainFor > 8760*time.Hour) {
				return fmt.Errorf("--retain-for %s: want 1s to 8760h", retainFor)
			}
			claims, err := a.readClaims(files)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			lines := claimfile.Import(cmd.Context(), c.Fairlead.Claims(), claims,
				claimfile.Options{Now: a.env.Now(), RetainFor: retainFor, DryRun: dryRun})
			return a.reportImport(lines, dryRun)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or directory to read, - for standard input; may be given several times")
	cmd.Flags().DurationVar(&retainFor, "retain-for", 0, "how long each address waits for its Service (default: what the claim says, else 24h)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "let the API server judge everything and store nothing")
	return cmd
}

func (a *app) readClaims(files []string) ([]v1alpha1.IPClaim, error) {
	if len(files) == 0 {
		return nil, errors.New("name a file with -f, or -f - for standard input")
	}
	objects, err := manifest.Load(a.env.In, files)
	if err != nil {
		return nil, err
	}
	claims := make([]v1alpha1.IPClaim, 0, len(objects))
	for _, o := range objects {
		if o.APIVersion() != v1alpha1.SchemeGroupVersion().String() || o.Kind() != "IPClaim" {
			return nil, fmt.Errorf("%s: want an IPClaim of %s, not %s %s", o.Source, v1alpha1.SchemeGroupVersion(), o.APIVersion(), o.Kind())
		}
		var claim v1alpha1.IPClaim
		if err := manifest.Decode(o, &claim); err != nil {
			return nil, err
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

func (a *app) reportImport(lines []claimfile.Line, dryRun bool) error {
	suffix := ""
	if dryRun {
		suffix = " (dry run)"
	}
	for _, l := range lines {
		fmt.Fprintf(a.env.Out, "%s %s%s: %s\n", l.Claim, l.Outcome, suffix, l.Message)
	}
	count := func(o claimfile.Outcome) int { return claimfile.Count(lines, o) }
	fmt.Fprintf(a.env.Out, "%d imported, %d skipped, %d in conflict, %d failed%s\n",
		count(claimfile.Imported), count(claimfile.Skipped), count(claimfile.Conflict), count(claimfile.Failed), suffix)
	if count(claimfile.Conflict)+count(claimfile.Failed) > 0 {
		a.code = exitError
	}
	return nil
}
