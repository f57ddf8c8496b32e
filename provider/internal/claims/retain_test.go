// SPDX-License-Identifier: Apache-2.0

package claims_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// keptFor has a claim retained for that long once its last Service is gone.
func keptFor(c *v1alpha1.IPClaim, d time.Duration) *v1alpha1.IPClaim {
	c.Spec.RetainFor = &metav1.Duration{Duration: d}
	return c
}

// until sets the deadline that long from now; negative: in the past.
func until(c *v1alpha1.IPClaim, d time.Duration) *v1alpha1.IPClaim {
	t := metav1.NewTime(time.Now().Add(d))
	c.Spec.RetainUntil = &t
	return c
}

// How long an address is kept for a namesake, by what its claim says.
func TestRetain(t *testing.T) {
	for _, tc := range []struct {
		name  string
		claim func() *v1alpha1.IPClaim
		// kept is a time at which the claim must be Retained, over one at which it must be
		// Releasing; 0: not looked at.
		kept, over time.Duration
	}{
		{
			name:  "an orphan with retainFor is kept that long",
			claim: func() *v1alpha1.IPClaim { return keptFor(claim(v1alpha1.ClaimBound, "worker", "svc1"), time.Hour) },
			kept:  time.Hour - 2*time.Second, over: time.Hour + 2*time.Second,
		},
		{
			name:  "a deadline to come",
			claim: func() *v1alpha1.IPClaim { return until(claim(v1alpha1.ClaimRetained, "worker", "svc1"), 30*time.Hour) },
			kept:  30*time.Hour - 2*time.Second, over: 30*time.Hour + 2*time.Second,
		},
		{
			name:  "a deadline that passed while no controller ran",
			claim: func() *v1alpha1.IPClaim { return until(claim(v1alpha1.ClaimRetained, "worker", "svc1"), -time.Hour) },
			over:  time.Second,
		},
		{
			name:  "made by hand without a deadline",
			claim: func() *v1alpha1.IPClaim { return claim(v1alpha1.ClaimRetained, "worker", "svc1") },
			kept:  24*time.Hour - 2*time.Second, over: 24*time.Hour + 2*time.Second,
		},
		{
			name: "made by hand without a deadline but with retainFor",
			claim: func() *v1alpha1.IPClaim {
				return keptFor(claim(v1alpha1.ClaimRetained, "worker", "svc1"), time.Minute)
			},
			kept: 58 * time.Second, over: 62 * time.Second,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, func(w *world) {
					// A live owner keeps a claim that became Releasing in sight.
					w.nodes.Put(t, node(corev1.ConditionTrue))
					w.agents.Put(t, agent(metav1.ConditionTrue))
					w.claims.Put(t, tc.claim())
				})
				if tc.kept > 0 {
					wait(t, tc.kept-500*time.Millisecond)
					w.wantPhase(t, v1alpha1.ClaimRetained)
					w.wantServices(t, "svc1")
				}
				wait(t, tc.over-tc.kept)
				w.wantPhase(t, v1alpha1.ClaimReleasing)
				c, _ := w.claims.Find(address)
				if c.Spec.RetainUntil != nil || c.Spec.ReleasingSince == nil {
					t.Errorf("retainUntil %v, releasingSince %v on a claim being released", c.Spec.RetainUntil, c.Spec.ReleasingSince)
				}
				if n := len(w.claims.Log()); n > 2 {
					t.Errorf("%d writes", n)
				}
			})
		})
	}
}

// The deadline moves while the controller waits for it, as when an administrator edits
// it or the clock is set.
func TestDeadlineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.nodes.Put(t, node(corev1.ConditionTrue))
			w.agents.Put(t, agent(metav1.ConditionTrue))
			w.claims.Put(t, until(claim(v1alpha1.ClaimRetained, "worker", "svc1"), time.Hour))
		})
		c, _ := w.claims.Find(address)
		w.claims.Put(t, until(c, 3*time.Hour))
		wait(t, 2*time.Hour)
		w.wantPhase(t, v1alpha1.ClaimRetained)
		c, _ = w.claims.Find(address)
		w.claims.Put(t, until(c, time.Minute))
		wait(t, 61*time.Second)
		w.wantPhase(t, v1alpha1.ClaimReleasing)
	})
}

// A Service that took a retained address back keeps it beyond the old deadline.
func TestTakenBackIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, func(w *world) {
			w.claims.Put(t, until(claim(v1alpha1.ClaimRetained, "", "svc1"), time.Minute))
		})
		w.services.Put(t, namesake())
		r := recordOf("svc1")
		r.Spec.ServiceUID = "another"
		w.records.Put(t, r)
		c, _ := w.claims.Find(address)
		c.Spec.Phase, c.Spec.RetainUntil, c.Spec.Services[0].UID = v1alpha1.ClaimBound, nil, "another"
		w.claims.Put(t, c)
		wait(t, time.Hour)
		w.wantPhase(t, v1alpha1.ClaimBound)
	})
}

// Who stays on a shared claim, by what has become of its Services.
func TestCollectShared(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(w *world)
		after   time.Duration
		want    v1alpha1.ClaimPhase
		left    []string
	}{
		{
			name:    "one is gone",
			prepare: func(w *world) { w.services.Put(w.t, service("svc2", address)) },
			after:   time.Second, want: v1alpha1.ClaimBound, left: []string{"svc2"},
		},
		{
			name: "one has another address and its reference was forgotten",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", "172.20.255.201"))
				w.services.Put(w.t, service("svc2", address))
			},
			after: 61 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc2"},
		},
		{
			name: "one has another address, not for long",
			prepare: func(w *world) {
				w.services.Put(w.t, service("svc1", "172.20.255.201"))
				w.services.Put(w.t, service("svc2", address))
			},
			after: 59 * time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1", "svc2"},
		},
		{
			name: "one was replaced by a namesake, which can join",
			prepare: func(w *world) {
				w.services.Put(w.t, namesake())
				w.services.Put(w.t, service("svc2", address))
			},
			after: time.Second, want: v1alpha1.ClaimBound, left: []string{"svc2"},
		},
		{
			name: "all were replaced, as by a restore: the first takes over, the others join",
			prepare: func(w *world) {
				w.services.Put(w.t, namesake())
				s := service("svc2", address)
				s.UID = "another2"
				w.services.Put(w.t, s)
			},
			after: time.Second, want: v1alpha1.ClaimBound, left: []string{"svc1"},
		},
		{
			name:    "all are gone",
			prepare: func(*world) {},
			after:   time.Second, want: v1alpha1.ClaimReleasing, left: []string{"svc1", "svc2"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, func(w *world) {
					tc.prepare(w)
					w.nodes.Put(t, node(corev1.ConditionTrue))
					w.agents.Put(t, agent(metav1.ConditionTrue))
					w.claims.Put(t, claim(v1alpha1.ClaimBound, "worker", "svc1", "svc2"))
				})
				wait(t, tc.after-500*time.Millisecond)
				w.wantPhase(t, tc.want)
				w.wantServices(t, tc.left...)
			})
		})
	}
}
