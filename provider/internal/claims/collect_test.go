// SPDX-License-Identifier: Apache-2.0

package claims_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// What becomes of a bound claim of one Service, by what the Service is.
func TestCollect(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(w *world)
		after   time.Duration
		want    v1alpha1.ClaimPhase
		left    []string
	}{
		{
			name: "Service and record use it",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", address))
				w.records.Put(w.t, recordOf("svc1"))
			},
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
		},
		{
			name:    "only the Service's status uses it",
			prepare: func(w *world) { w.services.Put(w.t, service("svc1", address)) },
			after:   time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
		},
		{
			name:  "the Service was deleted by force",
			after: 500 * time.Millisecond, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) { w.records.Put(w.t, recordOf("svc1")) },
		},
		{
			name:  "a namesake took the Service's place and may take the address over",
			after: 59 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) { w.services.Put(w.t, namesake()) },
		},
		{
			name:  "a namesake took the Service's place and never took the address over",
			after: 61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) { w.services.Put(w.t, namesake()) },
		},
		{
			name:  "a namesake that another controller serves",
			after: 500 * time.Millisecond, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) {
				s := namesake()
				s.Spec.LoadBalancerClass = new("example.com/other")
				w.services.Put(w.t, s)
			},
		},
		{
			name:  "a namesake that is being deleted",
			after: 500 * time.Millisecond, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) {
				s := namesake()
				now := metav1.Now()
				s.DeletionTimestamp, s.Finalizers = &now, []string{"example.com/f"}
				w.services.Put(w.t, s)
			},
		},
		{
			name:  "the Service is of another type now, with its record and status forgotten, and may be released yet",
			after: 59 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				s := service("svc1", address)
				s.Spec.Type = corev1.ServiceTypeClusterIP
				w.services.Put(w.t, s)
				w.records.Put(w.t, recordOf("svc1"))
			},
		},
		{
			name:  "the Service is of another class now, with its record and status forgotten",
			after: 61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) {
				s := service("svc1", address)
				s.Spec.LoadBalancerClass = new("example.com/other")
				w.services.Put(w.t, s)
				w.records.Put(w.t, recordOf("svc1"))
			},
		},
		{
			name:  "the Service has no class and such are no longer served, but its record keeps the address",
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				w.classed = true
				w.services.Put(w.t, service("svc1"))
				w.records.Put(w.t, recordOf("svc1"))
			},
		},
		{
			name:  "a namesake without a class, and such are not served",
			after: 500 * time.Millisecond, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) {
				w.classed = true
				w.services.Put(w.t, namesake())
			},
		},
		{
			name:  "the Service is of our class",
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				s := service("svc1", address)
				s.Spec.LoadBalancerClass = new(v1alpha1.DefaultLoadBalancerClass)
				w.services.Put(w.t, s)
			},
		},
		{
			name:  "the Service is being deleted, and its release is allocation's",
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				s := service("svc1", address)
				now := metav1.Now()
				s.DeletionTimestamp, s.Finalizers = &now, []string{"example.com/f"}
				w.services.Put(w.t, s)
			},
		},
		{
			name:  "an external IP of a ClusterIP Service",
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				w.services.Put(w.t, external("svc1", address))
				w.records.Put(w.t, recordOf("svc1"))
			},
		},
		{
			name:  "an external IP that left the spec but not the record",
			after: 61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) {
				w.services.Put(w.t, external("svc1", "198.51.100.1"))
				w.records.Put(w.t, recordOf("svc1"))
			},
		},
		{
			name:  "an external IP in the spec that no record has",
			after: 61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
			prepare: func(w *world) { w.services.Put(w.t, external("svc1", address)) },
		},
		{
			name:  "the cache lags behind the server",
			after: 30 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				w.getService = func(string, string) (*corev1.Service, error) { return service("svc1", address), nil }
			},
		},
		{
			name:  "the server does not answer",
			after: time.Hour, want: v1alpha1.ClaimBound, left: []string{"svc1"},
			prepare: func(w *world) {
				w.getService = func(string, string) (*corev1.Service, error) { return nil, errors.New("injected") }
			},
		},
		{
			name:    "unused, not long enough",
			prepare: func(w *world) { w.services.Put(w.t, service("svc1")) },
			after:   59 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1"},
		},
		{
			name:    "unused for a minute",
			prepare: func(w *world) { w.services.Put(w.t, service("svc1")) },
			after:   61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
		},
		{
			name: "the record of the losing leader's claim names another address",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", "172.20.255.201"))
				r := recordOf("svc1")
				r.Spec.Addresses[0].Claim = "172.20.255.201"
				w.records.Put(w.t, r)
			},
			after: 61 * time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, func(w *world) {
					tc.prepare(w)
					// A live owner keeps a claim that became Releasing in sight.
					w.nodes.Put(t, node(corev1.ConditionTrue))
					w.agents.Put(t, agent(metav1.ConditionTrue))
					w.claims.Put(t, claim(v1alpha1.ClaimBound, "worker", "svc1"))
				})
				wait(t, tc.after-500*time.Millisecond)
				w.wantPhase(t, tc.want)
				w.wantServices(t, tc.left...)
			})
		})
	}
}

func (w *world) wantServices(t *testing.T, want ...string) {
	t.Helper()
	c, _ := w.claims.Find(address)
	var got []string
	for _, s := range c.Spec.Services {
		got = append(got, s.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services of the claim (-want +got):\n%s", diff)
	}
}

// One of two sharers is gone: the other keeps the address.
func TestCollectKeepsTheOtherSharer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.services.Put(t, service("svc2", address))
			w.claims.Put(t, claim(v1alpha1.ClaimBound, "", "svc1", "svc2"))
		})
		wait(t, time.Second)
		w.wantPhase(t, v1alpha1.ClaimBound)
		w.wantServices(t, "svc2")
	})
}

// A claim that is used again in time is not collected, and its minute begins anew.
func TestUnusedMinuteBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.services.Put(t, service("svc1"))
			w.claims.Put(t, claim(v1alpha1.ClaimBound, "", "svc1"))
		})
		wait(t, 50*time.Second)
		w.records.Put(t, recordOf("svc1"))
		wait(t, time.Second)
		w.records.Remove("default/svc1")
		wait(t, 50*time.Second)
		w.wantPhase(t, v1alpha1.ClaimBound)
		wait(t, 11*time.Second)
		w.wantPhase(t, v1alpha1.ClaimReleasing)
	})
}
