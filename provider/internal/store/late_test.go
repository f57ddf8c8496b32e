// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// slowAPI lets something happen between the server's answer to a read and its arrival.
type slowAPI struct {
	*storetest.API
	meanwhile func()
}

func (a slowAPI) Claims() store.Claims { return slowClaims{a.API.Claims(), a.meanwhile} }
func (a slowAPI) Records(namespace string) store.Records {
	return slowRecords{a.API.Records(namespace), a.meanwhile}
}

type slowClaims struct {
	store.Claims
	meanwhile func()
}

func (c slowClaims) Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.IPClaim, error) {
	got, err := c.Claims.Get(ctx, name, opts)
	c.meanwhile()
	return got, err
}

type slowRecords struct {
	store.Records
	meanwhile func()
}

func (r slowRecords) Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.LoadBalancer, error) {
	got, err := r.Records.Get(ctx, name, opts)
	r.meanwhile()
	return got, err
}

// That there was no claim, or no record, is no news of the one that was made since: taken
// for its end, it would hide it for ever, and its address would be chosen again and again.
func TestLateAbsenceBuriesNothing(t *testing.T) {
	t.Parallel()
	fake := storetest.New()
	var s *store.Store
	s = store.New(store.Options{API: slowAPI{fake, func() {
		s.ForgetClaim(claim("0", nil)) // an informer tells of the old one's end
		fresh := claim("", func(c *v1alpha1.IPClaim) { c.UID, c.Spec.Services[0].UID = "c2", "other" })
		if _, err := s.CreateClaim(t.Context(), fresh); err != nil {
			t.Error(err)
		}
	}}, Classes: convert.Classes{Classless: true}})
	s.ObserveClaim(claim("0", nil))
	if _, err := s.UpdateClaim(t.Context(), claim("0", nil)); err == nil {
		t.Error("a claim that is gone was updated")
	}
	if s.Claim("192.0.2.1") == nil {
		t.Error("the new claim is not known")
	}
}

// The same of records.
func TestLateAbsenceOfARecord(t *testing.T) {
	t.Parallel()
	fake := storetest.New()
	var s *store.Store
	s = store.New(store.Options{API: slowAPI{fake, func() {
		r := &v1alpha1.LoadBalancer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		if _, err := s.CreateRecord(t.Context(), r); err != nil {
			t.Error(err)
		}
	}}, Classes: convert.Classes{Classless: true}})
	if _, err := s.RefreshRecord(t.Context(), "default", "web"); err != nil {
		t.Error(err)
	}
	if s.Record(web()) == nil {
		t.Error("the new record is not known")
	}
}
