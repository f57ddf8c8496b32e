// SPDX-License-Identifier: Apache-2.0

// Package claimfile carries IPClaims out of a cluster and back: Export turns claims into
// what may be imported, Import creates them in phase Retained, from where the controller
// gives each address back to the Service of the namespace and name in the claim. It
// writes nothing but new claims, never changes or deletes one, and reads no files. The
// plugin's commands `claims export` and `claims import` call it.
package claimfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Client is what Import needs of the API; loadbalancer/client's Claims is one.
type Client interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.IPClaim, error)
	Create(ctx context.Context, claim *v1alpha1.IPClaim, opts metav1.CreateOptions) (*v1alpha1.IPClaim, error)
}

// Export returns claims as Import wants them: who holds which address of which pool, and
// nothing that only the cluster they come from knows (group, owner, successors, ports).
// Claims that are being released are left out: nobody holds them. The order is that of
// the addresses.
func Export(claims []v1alpha1.IPClaim) []v1alpha1.IPClaim {
	out := make([]v1alpha1.IPClaim, 0, len(claims))
	for i := range claims {
		spec := &claims[i].Spec
		if spec.Phase == v1alpha1.ClaimReleasing || claims[i].DeletionTimestamp != nil {
			continue
		}
		out = append(out, v1alpha1.IPClaim{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion().String(), Kind: "IPClaim"},
			ObjectMeta: metav1.ObjectMeta{Name: claims[i].Name},
			Spec: v1alpha1.IPClaimSpec{
				Address: spec.Address, Pool: spec.Pool, Group: claims[i].Name, SharingKey: spec.SharingKey,
				Services: references(spec.Services), Phase: v1alpha1.ClaimRetained, RetainFor: spec.RetainFor,
			},
		})
	}
	slices.SortFunc(out, byAddress)
	return out
}

func byAddress(a, b v1alpha1.IPClaim) int {
	x, errX := v1alpha1.ParseClaimName(a.Name)
	y, errY := v1alpha1.ParseClaimName(b.Name)
	if errX != nil || errY != nil {
		return cmp.Compare(a.Name, b.Name)
	}
	return x.Compare(y)
}

func references(in []v1alpha1.ServiceReference) []v1alpha1.ServiceReference {
	out := make([]v1alpha1.ServiceReference, 0, len(in))
	for _, s := range in {
		out = append(out, v1alpha1.ServiceReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID})
	}
	slices.SortFunc(out, func(a, b v1alpha1.ServiceReference) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return out
}

// Options of an import.
type Options struct {
	// Now is the time from which RetainFor counts.
	Now time.Time
	// RetainFor is how long an address waits for its Service; 0 is what the claim says,
	// or [v1alpha1.DefaultRetainFor].
	RetainFor time.Duration
	// DryRun asks the API server to judge everything and to store nothing.
	DryRun bool
}

// Outcome is what became of one claim.
type Outcome string

// The outcomes.
const (
	// Imported: created, or it would be in a dry run.
	Imported Outcome = "imported"
	// Skipped: the address is held by, or kept for, the same Service already.
	Skipped Outcome = "skipped"
	// Conflict: the address is somebody else's, or it cannot be had now.
	Conflict Outcome = "conflict"
	// Failed: the claim is invalid or the API server refused it.
	Failed Outcome = "failed"
)

// Line is the report on one claim.
type Line struct {
	Claim   string
	Outcome Outcome
	Message string
}

// Import creates claims, each by itself: one that conflicts or fails stops no other. It
// may be repeated.
func Import(ctx context.Context, c Client, claims []v1alpha1.IPClaim, opts Options) []Line {
	sorted := slices.Clone(claims)
	slices.SortStableFunc(sorted, byAddress)
	out := make([]Line, 0, len(sorted))
	for i := range sorted {
		outcome, message := importOne(ctx, c, &sorted[i], opts)
		out = append(out, Line{Claim: sorted[i].Name, Outcome: outcome, Message: message})
	}
	return out
}

func importOne(ctx context.Context, c Client, in *v1alpha1.IPClaim, opts Options) (Outcome, string) {
	claim, err := retained(in, opts)
	if err != nil {
		return Failed, err.Error()
	}
	var create metav1.CreateOptions
	if opts.DryRun {
		create.DryRun = []string{metav1.DryRunAll}
	}
	// The claim may be gone again when its holder is asked for: then it is free.
	for range 3 {
		_, err = c.Create(ctx, claim, create)
		if err == nil {
			return Imported, fmt.Sprintf("%s, kept for %s until %s", claim.Spec.Address, names(claim.Spec.Services), claim.Spec.RetainUntil.UTC().Format(time.RFC3339))
		}
		if !apierrors.IsAlreadyExists(err) {
			break
		}
		holder, getErr := c.Get(ctx, claim.Name, metav1.GetOptions{})
		if getErr == nil {
			return compare(claim, holder)
		}
		if err = getErr; !apierrors.IsNotFound(err) {
			break
		}
	}
	return Failed, err.Error()
}

// retained returns the claim to create.
func retained(in *v1alpha1.IPClaim, opts Options) (*v1alpha1.IPClaim, error) {
	addr, err := v1alpha1.ParseClaimName(in.Name)
	switch {
	case err != nil:
		return nil, err
	case in.Spec.Address != addr.String():
		return nil, fmt.Errorf("spec.address is %q, the name says %s", in.Spec.Address, addr)
	case in.Spec.Pool == "":
		return nil, errors.New("spec.pool is empty")
	case len(in.Spec.Services) == 0:
		return nil, errors.New("spec.services is empty: nobody to keep the address for")
	}
	keep := opts.RetainFor
	if keep == 0 && in.Spec.RetainFor != nil {
		keep = in.Spec.RetainFor.Duration
	}
	if keep == 0 {
		keep = v1alpha1.DefaultRetainFor
	}
	until := metav1.NewTime(opts.Now.Add(keep).UTC().Truncate(time.Second))
	out := &v1alpha1.IPClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion().String(), Kind: "IPClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: in.Name, Labels: in.Labels, Annotations: in.Annotations},
		Spec: v1alpha1.IPClaimSpec{
			Address: in.Spec.Address, Pool: in.Spec.Pool, Group: in.Name, SharingKey: in.Spec.SharingKey,
			Services: references(in.Spec.Services), Phase: v1alpha1.ClaimRetained,
			RetainFor: &metav1.Duration{Duration: keep}, RetainUntil: &until,
		},
	}
	for i, s := range out.Spec.Services {
		if s.Namespace == "" || s.Name == "" {
			return nil, errors.New("spec.services names a Service without namespace or name")
		}
		// Only namespace and name count for a retained claim, but entries differ by UID.
		if s.UID == "" {
			out.Spec.Services[i].UID = types.UID(fmt.Sprintf("imported-%d", i))
		}
	}
	return out, nil
}

// compare says what a claim that is there already means for the one in the file.
func compare(want, have *v1alpha1.IPClaim) (Outcome, string) {
	same := slices.ContainsFunc(want.Spec.Services, func(w v1alpha1.ServiceReference) bool {
		return slices.ContainsFunc(have.Spec.Services, func(h v1alpha1.ServiceReference) bool {
			return h.Namespace == w.Namespace && h.Name == w.Name
		})
	})
	holders := names(have.Spec.Services)
	switch {
	case have.Spec.Phase == v1alpha1.ClaimReleasing || have.DeletionTimestamp != nil:
		return Conflict, fmt.Sprintf("%s is just being released by %s; repeat the import in a minute", want.Spec.Address, holders)
	case !same:
		return Conflict, fmt.Sprintf("%s belongs to %s, the file says %s", want.Spec.Address, holders, names(want.Spec.Services))
	case have.Spec.Phase == v1alpha1.ClaimRetained:
		return Skipped, fmt.Sprintf("%s is kept for %s already", want.Spec.Address, holders)
	default:
		return Skipped, fmt.Sprintf("%s is held by %s already", want.Spec.Address, holders)
	}
}

func names(in []v1alpha1.ServiceReference) string {
	var out []string
	for _, s := range in {
		out = append(out, s.Namespace+"/"+s.Name)
	}
	return strings.Join(out, ", ")
}

// Count counts the lines of one outcome.
func Count(lines []Line, o Outcome) int {
	n := 0
	for _, l := range lines {
		if l.Outcome == o {
			n++
		}
	}
	return n
}
