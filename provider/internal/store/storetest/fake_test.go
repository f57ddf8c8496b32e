// SPDX-License-Identifier: Apache-2.0

package storetest_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// The fake compares and swaps as the API server does, and fails as it is told.
func TestFake(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	ctx, claims := t.Context(), api.Claims()
	in := &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"}}
	first, err := claims.Create(ctx, in, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claims.Create(ctx, in, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	next := first.DeepCopy()
	next.Spec.Pool = "b"
	second, err := claims.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil || second.Generation != 2 {
		t.Errorf("update: generation %d, %v", second.Generation, err)
	}
	if _, err := claims.Update(ctx, next, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	old := &metav1.Preconditions{ResourceVersion: &first.ResourceVersion}
	if err := claims.Delete(ctx, in.Name, metav1.DeleteOptions{Preconditions: old}); !apierrors.IsConflict(err) {
		t.Errorf("delete of an old version: %v", err)
	}
	for _, how := range []storetest.Outcome{storetest.FailBefore, storetest.FailAfter} {
		api.OnCall(func(storetest.Call) storetest.Outcome { return how })
		if err := claims.Delete(ctx, in.Name, metav1.DeleteOptions{}); !apierrors.IsTimeout(err) {
			t.Errorf("outcome %d: %v", how, err)
		}
		api.OnCall(nil)
		_, err := claims.Get(ctx, in.Name, metav1.GetOptions{})
		if gone := apierrors.IsNotFound(err); gone != (how == storetest.FailAfter) {
			t.Errorf("outcome %d: afterwards %v", how, err)
		}
	}
}

// Held news comes in order, when it is delivered.
func TestHold(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	s := store.New(store.Options{API: api, Classes: convert.Classes{Classless: true}})
	api.Watch(s)
	api.Hold()
	if _, err := api.Claims().Create(t.Context(), &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s.Claim("192.0.2.1") != nil {
		t.Error("the news came early")
	}
	api.Deliver()
	if s.Claim("192.0.2.1") == nil {
		t.Error("the news never came")
	}
}
