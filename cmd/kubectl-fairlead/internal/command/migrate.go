// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/metallb"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// metallbNamespace is the one that MetalLB's manifests use.
const metallbNamespace = "metallb-system"

func (a *app) migrate() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Come to Fairlead from another load balancer"}
	cmd.AddCommand(a.migrateMetalLB())
	return cmd
}

func (a *app) migrateMetalLB() *cobra.Command {
	var files []string
	var withClaims, claimsOnly bool
	var retainFor time.Duration
	cmd := &cobra.Command{
		Use:   "metallb [-f FILE|DIR|-]...",
		Short: "Print a MetalLB configuration as Fairlead's objects",
		Long: "Print a MetalLB configuration (metallb.io objects, or the ConfigMap of MetalLB before 0.13) as Fairlead's objects on\n" +
			"standard output, and name on standard error everything that they cannot say. Without -f it reads the cluster, there\n" +
			"namespace metallb-system unless -n names another; objects of other namespaces do not count for MetalLB. For\n" +
			"every address that a Service of type LoadBalancer shows there is an IPClaim that keeps it. Changes nothing.\n\n" +
			"Exit code 0: all was carried over. 3: something was not, and is named. 1: an error, the output is not to be used.",
		Example: "  kubectl fairlead migrate metallb > fairlead.yaml\n" +
			"  kubectl fairlead migrate metallb -f metallb/ -f services.yaml > fairlead.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if retainFor < time.Second || retainFor > 8760*time.Hour {
				return fmt.Errorf("--retain-for %s: want 1s to 8760h", retainFor)
			}
			namespace := cmp.Or(a.overrides.Context.Namespace, metallbNamespace)
			objects, err := a.metallbObjects(cmd.Context(), files, namespace)
			if err != nil {
				return err
			}
			result := metallb.Convert(objects, metallb.Options{
				Namespace: namespace, Claims: withClaims, RetainFor: retainFor,
				RetainUntil: metav1.NewTime(a.env.Now().Add(retainFor).UTC().Truncate(time.Second)),
			})
			if claimsOnly {
				result = metallb.Result{Claims: result.Claims, Services: result.Services, Remarks: result.Remarks}
			}
			if err := a.printResult(&result); err != nil {
				return err
			}
			a.remark(&result)
			if result.Lost() {
				a.code = exitIncomplete
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or directory to read instead of the cluster, - for standard input; may be given several times")
	cmd.Flags().BoolVar(&withClaims, "with-claims", true, "print IPClaims that keep the addresses which Services show")
	cmd.Flags().BoolVar(&claimsOnly, "claims-only", false, "print nothing but those IPClaims, for pools that Fairlead mirrors")
	cmd.MarkFlagsMutuallyExclusive("with-claims", "claims-only")
	cmd.Flags().DurationVar(&retainFor, "retain-for", v1alpha1.DefaultRetainFor, "how long those addresses wait for their Services")
	return cmd
}

func (a *app) metallbObjects(ctx context.Context, files []string, namespace string) ([]manifest.Object, error) {
	if len(files) > 0 {
		return manifest.Load(a.env.In, files)
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	return cluster.MetalLB(ctx, c, namespace)
}

func (a *app) printResult(r *metallb.Result) error {
	var out []map[string]any
	err := errors.Join(
		encodeAll(&out, r.Pools), encodeAll(&out, r.Advertisements),
		encodeAll(&out, r.Profiles), encodeAll(&out, r.Communities), encodeAll(&out, r.Secrets), encodeAll(&out, r.Peers), encodeAll(&out, r.BGPAdvertisements),
		encodeAll(&out, r.Claims),
	)
	if err != nil {
		return err
	}
	return manifest.Write(a.env.Out, out)
}

func encodeAll[T any](out *[]map[string]any, objects []T) error {
	for i := range objects {
		fields, err := manifest.Encode(&objects[i])
		if err != nil {
			return err
		}
		*out = append(*out, fields)
	}
	return nil
}

// remark says on standard error what the output does not.
func (a *app) remark(r *metallb.Result) {
	lost := 0
	for _, m := range r.Remarks {
		word := "note"
		if m.Lost {
			word = "not carried over"
			lost++
		}
		fields := strings.Join(m.Fields, ", ")
		if m.Whole {
			fields = strings.TrimSuffix("all of it: "+fields, ": ")
		}
		fmt.Fprintf(a.env.Err, "%s: %s (%s)\n", word, m.Object, m.Source)
		for _, line := range [][2]string{{"what", fields}, {"why", m.Why}, {"do", m.Remedy}} {
			if line[1] != "" {
				fmt.Fprintf(a.env.Err, "  %-5s %s\n", line[0]+":", line[1])
			}
		}
	}
	for _, s := range r.Services {
		fmt.Fprintf(a.env.Err, "no change needed: Service %s: %s\n", s.Service, strings.Join(s.Read, ", "))
	}
	var counts []string
	for _, kind := range []struct {
		name   string
		n      int
		always bool
	}{
		{"pools", len(r.Pools), true},
		{"L2Advertisements", len(r.Advertisements), true},
		{"BGPPeers", len(r.Peers), false},
		{"BGPAdvertisements", len(r.BGPAdvertisements), false},
		{"BFDProfiles", len(r.Profiles), false},
		{"Communities", len(r.Communities), false},
		{"Secrets", len(r.Secrets), false},
		{"claims", len(r.Claims), true},
	} {
		if kind.always || kind.n > 0 {
			counts = append(counts, fmt.Sprintf("%s %d", kind.name, kind.n))
		}
	}
	fmt.Fprintf(a.env.Err, "carried over: %s; Services with MetalLB's annotations, read as they are: %d; not carried over: %d\n",
		strings.Join(counts, ", "), len(r.Services), lost)
}
