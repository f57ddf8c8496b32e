// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// fieldManager owns what the store writes.
const fieldManager = "fairlead-allocation"

// CreateClaim writes a new claim. When one of that name exists already, it fetches it:
// if that one says the same, an earlier attempt of ours got through and it is returned,
// else the error is ErrConflict: it may be another's, or of an older version of the Service.
func (s *Store) CreateClaim(ctx context.Context, c *v1alpha1.IPClaim) (*v1alpha1.IPClaim, error) {
	got, err := s.api.Claims().Create(ctx, c, metav1.CreateOptions{FieldManager: fieldManager})
	if err == nil {
		s.ObserveClaim(got)
		return got, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create claim %s: %w", c.Name, err)
	}
	got, err = s.refreshClaim(ctx, c.Name)
	switch {
	case err != nil:
		return nil, err
	case got != nil && sameTerms(got.Spec, c.Spec):
		return got, nil
	default:
		return nil, fmt.Errorf("create claim %s: %w", c.Name, ErrConflict)
	}
}

// sameTerms compares claims but for what is put right later, by whoever.
func sameTerms(a, b v1alpha1.IPClaimSpec) bool {
	a.Group, a.Successors = b.Group, b.Successors
	return equality.Semantic.DeepEqual(a, b)
}

// refreshClaim fetches a claim uncached; nil when it is gone.
func (s *Store) refreshClaim(ctx context.Context, name string) (*v1alpha1.IPClaim, error) {
	// Asked before: the answer tells nothing of a claim made since.
	known := s.Claim(name)
	got, err := s.api.Claims().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		s.ObserveClaim(got)
		return got, nil
	case apierrors.IsNotFound(err):
		if known != nil {
			s.ForgetClaim(known)
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("get claim %s: %w", name, err)
	}
}

// RefreshClaims fetches those claims of a record that the store does not know.
func (s *Store) RefreshClaims(ctx context.Context, r *v1alpha1.LoadBalancer) error {
	for _, ra := range r.Spec.Addresses {
		if s.Claim(ra.Claim) != nil {
			continue
		}
		if _, err := s.refreshClaim(ctx, ra.Claim); err != nil {
			return err
		}
	}
	return nil
}

// UpdateClaim writes a changed copy of a claim, which carries the version it came from.
func (s *Store) UpdateClaim(ctx context.Context, c *v1alpha1.IPClaim) (*v1alpha1.IPClaim, error) {
	if known := s.Claim(c.Name); known == nil || known.UID == c.UID && known.ResourceVersion != c.ResourceVersion {
		return nil, fmt.Errorf("update claim %s: %w", c.Name, ErrConflict) // lost before it was tried
	}
	got, err := s.api.Claims().Update(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager})
	if err == nil {
		s.ObserveClaim(got)
		return got, nil
	}
	if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("update claim %s: %w", c.Name, err)
	}
	if _, err := s.refreshClaim(ctx, c.Name); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("update claim %s: %w", c.Name, ErrConflict)
}

// ReleaseClaim takes a Service off a claim. The claim of nobody else becomes Retained,
// if that was asked for, or Releasing, as of now. A claim that is gone, or does not hold
// it, is fine.
func (s *Store) ReleaseClaim(ctx context.Context, c *v1alpha1.IPClaim, uid types.UID, now time.Time) error {
	if !Holds(c, uid) {
		return nil
	}
	next := c.DeepCopy()
	next.Spec.Services = slices.DeleteFunc(next.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == uid })
	switch {
	case len(next.Spec.Services) > 0:
	case c.Spec.RetainFor != nil:
		until := metav1.NewTime(now.Add(c.Spec.RetainFor.Duration))
		next.Spec.Services = c.Spec.Services
		next.Spec.Phase, next.Spec.RetainUntil = v1alpha1.ClaimRetained, &until
		next.Spec.Group = c.Name
	default:
		since := metav1.NewTime(now)
		next.Spec.Services = c.Spec.Services
		next.Spec.Phase, next.Spec.ReleasingSince = v1alpha1.ClaimReleasing, &since
	}
	_, err := s.UpdateClaim(ctx, next)
	return err
}

// DeleteClaim deletes exactly the version given, for a claim that was just made and
// that no node has taken over. ErrConflict means that it has changed since.
func (s *Store) DeleteClaim(ctx context.Context, c *v1alpha1.IPClaim) error {
	err := s.api.Claims().Delete(ctx, c.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &c.UID, ResourceVersion: &c.ResourceVersion},
	})
	switch {
	case err == nil, apierrors.IsNotFound(err):
		s.ForgetClaim(c)
		return nil
	case apierrors.IsConflict(err):
		if _, err := s.refreshClaim(ctx, c.Name); err != nil {
			return err
		}
		return fmt.Errorf("delete claim %s: %w", c.Name, ErrConflict)
	default:
		return fmt.Errorf("delete claim %s: %w", c.Name, err)
	}
}

// CreateRecord writes a new record; ErrConflict when there is one of that name.
func (s *Store) CreateRecord(ctx context.Context, r *v1alpha1.LoadBalancer) (*v1alpha1.LoadBalancer, error) {
	got, err := s.api.Records(r.Namespace).Create(ctx, r, metav1.CreateOptions{FieldManager: fieldManager})
	return s.recordWritten(ctx, "create", r, got, err)
}

// UpdateRecord writes a changed copy of a record, which carries the version it came from.
func (s *Store) UpdateRecord(ctx context.Context, r *v1alpha1.LoadBalancer) (*v1alpha1.LoadBalancer, error) {
	got, err := s.api.Records(r.Namespace).Update(ctx, r, metav1.UpdateOptions{FieldManager: fieldManager})
	return s.recordWritten(ctx, "update", r, got, err)
}

func (s *Store) recordWritten(ctx context.Context, verb string, r, got *v1alpha1.LoadBalancer, err error) (*v1alpha1.LoadBalancer, error) {
	if err == nil {
		s.ObserveRecord(got)
		return got, nil
	}
	gone := verb == "update" && apierrors.IsNotFound(err)
	if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !gone {
		return nil, fmt.Errorf("%s record %s/%s: %w", verb, r.Namespace, r.Name, err)
	}
	if _, err := s.RefreshRecord(ctx, r.Namespace, r.Name); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s record %s/%s: %w", verb, r.Namespace, r.Name, ErrConflict)
}

// RefreshRecord fetches a record uncached; nil when there is none.
func (s *Store) RefreshRecord(ctx context.Context, namespace, name string) (*v1alpha1.LoadBalancer, error) {
	known := s.Record(loadbalancer.ServiceKey{Namespace: namespace, Name: name}) // as with claims
	got, err := s.api.Records(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		s.ObserveRecord(got)
		return got, nil
	case apierrors.IsNotFound(err):
		if known != nil {
			s.ForgetRecord(known)
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("get record %s/%s: %w", namespace, name, err)
	}
}

// DeleteRecord deletes a record, whatever version it has by now; one that is gone is fine.
func (s *Store) DeleteRecord(ctx context.Context, r *v1alpha1.LoadBalancer) error {
	err := s.api.Records(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &r.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete record %s/%s: %w", r.Namespace, r.Name, err)
	}
	s.ForgetRecord(r)
	return nil
}
