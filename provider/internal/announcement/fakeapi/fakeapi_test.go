// SPDX-License-Identifier: Apache-2.0

package fakeapi_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
)

func claim() *v1alpha1.IPClaim {
	return &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.1"}, Spec: v1alpha1.IPClaimSpec{Address: "10.0.0.1", Pool: "p", Phase: v1alpha1.ClaimBound},
	}
}

func TestCompareAndSwap(t *testing.T) {
	ctx := t.Context()
	c := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{}).In("")
	first, err := c.Create(ctx, claim(), metav1.CreateOptions{})
	if err != nil || first.UID == "" || first.ResourceVersion == "" || first.Generation != 1 {
		t.Fatalf("created %+v, %v", first.ObjectMeta, err)
	}
	if _, err := c.Create(ctx, claim(), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v, want AlreadyExists", err)
	}
	changed := first.DeepCopy()
	changed.Spec.Pool = "q"
	second, err := c.Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil || second.Generation != 2 || second.ResourceVersion == first.ResourceVersion {
		t.Fatalf("updated %+v, %v", second, err)
	}
	if _, err := c.Update(ctx, changed, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v, want Conflict", err)
	}
	same, err := c.Update(ctx, second, metav1.UpdateOptions{})
	if err != nil || same.ResourceVersion != second.ResourceVersion {
		t.Errorf("update without a change: %+v, %v", same.ObjectMeta, err)
	}
	old := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &first.ResourceVersion}}
	if err := c.Delete(ctx, first.Name, old); !apierrors.IsConflict(err) {
		t.Errorf("delete of an old version: %v, want Conflict", err)
	}
	if err := c.Delete(ctx, first.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(ctx, first.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v, want NotFound", err)
	}
}

func TestApply(t *testing.T) {
	ctx := t.Context()
	s := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{})
	made := s.Put(t, claim())
	opts := metav1.PatchOptions{FieldManager: "m"}
	got, err := s.In("").Patch(ctx, made.Name, types.ApplyPatchType,
		[]byte(`{"metadata":{"uid":"`+string(made.UID)+`"},"spec":{"successors":["a"]}}`), opts)
	if err != nil || got.Spec.Pool != "p" || !cmp.Equal(got.Spec.Successors, []string{"a"}) {
		t.Errorf("applied spec %+v, %v", got.Spec, err)
	}
	got, err = s.In("").Patch(ctx, made.Name, types.ApplyPatchType,
		[]byte(`{"metadata":{"uid":"`+string(made.UID)+`"},"status":{"owner":{"node":"a","epoch":1}}}`), opts, "status")
	if err != nil || got.Status.Owner == nil || got.Generation != 2 {
		t.Errorf("applied status %+v, %v", got, err)
	}
	if _, err := s.In("").Patch(ctx, made.Name, types.ApplyPatchType, []byte(`{"metadata":{"uid":"x"}}`), opts); !apierrors.IsConflict(err) {
		t.Errorf("apply to a namesake: %v, want Conflict", err)
	}
	if diff := cmp.Diff([]string{"apply 10.0.0.1", "apply 10.0.0.1"}, s.Log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestFailWith(t *testing.T) {
	s := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{})
	injected := errors.New("injected")
	s.FailWith(func(verb, name string) error {
		if verb == "create" && name == "10.0.0.1" {
			return injected
		}
		return nil
	})
	if _, err := s.In("").Create(t.Context(), claim(), metav1.CreateOptions{}); !errors.Is(err, injected) {
		t.Errorf("create: %v, want the injected failure", err)
	}
	if _, found := s.Find("10.0.0.1"); found || len(s.Log()) != 0 {
		t.Error("a failed write was stored or logged")
	}
}

func TestInformerSeesEveryWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{})
		s.Put(t, claim())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait() })
		synctest.Wait()
		changed := claim()
		changed.Spec.Pool = "q"
		s.Put(t, changed)
		synctest.Wait()
		obj, found, err := s.Informer().GetStore().GetByKey("10.0.0.1")
		if c, ok := obj.(*v1alpha1.IPClaim); err != nil || !found || !ok || c.Spec.Pool != "q" {
			t.Errorf("cache has %+v, %t, %v", obj, found, err)
		}
		s.Remove("10.0.0.1")
		synctest.Wait()
		if n := len(s.Informer().GetStore().List()); n != 0 {
			t.Errorf("cache has %d objects after removal", n)
		}
	})
}
