// SPDX-License-Identifier: Apache-2.0

package externalippolicy_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
	"github.com/fairlead-lb/fairlead/provider/internal/externalippolicy"
)

type policies = fakeapi.Store[*v1alpha1.ExternalIPPolicy]

// start runs a controller over a store until the end of the test.
func start(t *testing.T, prepare func(*policies)) *policies {
	t.Helper()
	s := fakeapi.NewStore("externalippolicies", &v1alpha1.ExternalIPPolicy{})
	if prepare != nil {
		prepare(s)
	}
	c, err := externalippolicy.New(externalippolicy.Options{Policies: s.In(""), Informer: s.Informer()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	wait(t, time.Minute)
	return s
}

// wait lets the bubble's time pass.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
	synctest.Wait()
}

func granted() *v1alpha1.ExternalIPPolicy {
	return &v1alpha1.ExternalIPPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ExternalIPPolicyName},
		Spec: v1alpha1.ExternalIPPolicySpec{Grants: []v1alpha1.ExternalIPGrant{
			{Namespaces: []string{"shop"}, Ranges: []string{"192.0.2.0/24"}},
		}},
	}
}

func TestMadeWhenAbsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, nil)
		p, found := s.Find(v1alpha1.ExternalIPPolicyName)
		if !found || len(p.Spec.Grants) != 0 {
			t.Fatalf("policy %v, found %v; want one without grants", p, found)
		}
		s.Remove(v1alpha1.ExternalIPPolicyName)
		wait(t, time.Second)
		if _, found := s.Find(v1alpha1.ExternalIPPolicyName); !found {
			t.Error("it did not come back after its deletion")
		}
	})
}

func TestGrantsAreLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(s *policies) { s.Put(t, granted()) })
		s.Put(t, granted())
		wait(t, time.Minute)
		if log := s.Log(); len(log) != 0 {
			t.Errorf("writes %v, want none", log)
		}
	})
}

func TestTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		s := start(t, func(s *policies) {
			s.FailWith(func(string, string) error {
				tries++
				if tries < 3 {
					return errors.New("the API server is away")
				}
				return nil
			})
		})
		if tries != 3 || !slices.Equal(s.Log(), []string{"create " + v1alpha1.ExternalIPPolicyName}) {
			t.Errorf("%d tries, want a third one after two failures", tries)
		}
	})
}

// The informer may be late, and an administrator quicker.
func TestSomebodyElseIsQuicker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		start(t, func(s *policies) {
			s.FailWith(func(_, name string) error {
				tries++
				return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "externalippolicies"}, name)
			})
		})
		if tries != 1 {
			t.Errorf("%d tries, want one: what somebody else made is as good", tries)
		}
	})
}

func TestOptionsAreRequired(t *testing.T) {
	t.Parallel()
	s := fakeapi.NewStore("externalippolicies", &v1alpha1.ExternalIPPolicy{})
	for _, o := range []externalippolicy.Options{{Policies: s.In("")}, {Informer: s.Informer()}} {
		if _, err := externalippolicy.New(o); err == nil {
			t.Errorf("New(%+v) succeeds", o)
		}
	}
}
