// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// dieAt returns a hook that kills the process at its nth write: that call fails one way
// or the other, and all later ones have no effect.
func dieAt(n int, how storetest.Outcome) (hook func(storetest.Call) storetest.Outcome, died func() bool) {
	var mu sync.Mutex
	dead, count := false, 0
	return func(storetest.Call) storetest.Outcome {
			mu.Lock()
			defer mu.Unlock()
			if dead {
				return storetest.FailBefore
			}
			if count++; count == n {
				dead = true
				return how
			}
			return storetest.Pass
		}, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return dead
		}
}

// A controller may die at any call; the next one finishes the work, and nothing is
// leaked or held twice.
func TestCrashAtEveryStep(t *testing.T) { forBoth(t, testCrashAtEveryStep) }

func testCrashAtEveryStep(t *testing.T, k kind) {
	t.Helper()
	dualStack := func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	first := newService("web", 1, nil)
	scenarios := []struct {
		name   string
		before *corev1.Service
		after  *corev1.Service
		remove bool
		want   int
	}{
		{name: "create", after: first, want: 1},
		{name: "create dual stack", after: newService("web", 1, dualStack), want: 2},
		{name: "move", before: first, after: newService("web", 1, annotate("fairlead.dev/addresses", "192.0.2.5")), want: 1},
		{name: "add a family", before: first, after: newService("web", 1, dualStack), want: 2},
		{name: "drop a family", before: newService("web", 1, dualStack), after: first, want: 1},
		{name: "namesake", before: first, after: newService("web", 1, func(s *corev1.Service) { s.UID = "second-uid" }), want: 1},
		{name: "impossible", after: newService("web", 1, annotate("fairlead.dev/pool", "none"))},
		{name: "delete", before: newService("web", 1, dualStack), after: first, remove: true},
	}
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			for _, how := range []storetest.Outcome{storetest.FailBefore, storetest.FailAfter} {
				for n := 1; ; n++ {
					if n > 50 {
						t.Fatal("the scenario does not end")
					}
					if !crashOnce(t, k, sc.before, sc.after, sc.remove, sc.want, n, how) {
						break
					}
				}
			}
		})
	}
}

// crashOnce reports whether the process died, that is, whether it made n calls.
func crashOnce(t *testing.T, k kind, before, after *corev1.Service, remove bool, want, n int, how storetest.Outcome) bool {
	t.Helper()
	before, after = before.DeepCopy(), after.DeepCopy() // scenarios have some in common
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/28", "2001:db8::/120"))
	one := newLeader(t, api, k)
	if before != nil {
		if _, err := one.ensure(t, before); err != nil {
			t.Fatal(err)
		}
	}
	act := func(l *leader) error {
		if remove {
			return l.alloc.Delete(quiet(t), after)
		}
		_, err := l.ensure(t, after)
		return err
	}
	hook, died := dieAt(n, how)
	api.OnCall(hook)
	err := act(one)
	api.OnCall(nil)
	one.crash()
	wasDead := died()
	if wasDead && err == nil {
		t.Errorf("call %d failed and nobody noticed", n)
	}
	two := newLeader(t, api, k)
	err = act(two)
	live := []*corev1.Service{after}
	if remove {
		live = nil
	}
	if want == 0 && !remove {
		if err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // upstream compares it bare
			t.Errorf("call %d: second leader: %v", n, err)
		}
	} else if err != nil {
		t.Errorf("call %d: second leader: %v", n, err)
	}
	if err := check(api, live...); err != nil {
		t.Errorf("call %d, outcome %d: %v", n, how, err)
	}
	if got := boundOf(api, after.UID); got != want {
		t.Errorf("call %d, outcome %d: %d bound claims, want %d", n, how, got, want)
	}
	return wasDead
}

func boundOf(api *storetest.API, uid types.UID) int {
	n := 0
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimBound && c.Spec.Services[0].UID == uid {
			n++
		}
	}
	return n
}

// Two leaders that see nothing of each other agree in the end: no address twice, none
// leaked, and both show the same.
func TestTwoLeaders(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	leaders := []*leader{newLeader(t, api, kind{}), newLeader(t, api, kind{})}
	api.Hold() // caches lag from here on
	services := make([]*corev1.Service, 40)
	for i := range services {
		services[i] = newService(fmt.Sprintf("s%02d", i), i, nil)
		for _, l := range leaders {
			l.store.ObserveService(services[i])
		}
	}
	var wg sync.WaitGroup
	for n, l := range leaders {
		for i := range services {
			if n == 1 { // the other way round, so that they meet
				i = len(services) - 1 - i
			}
			wg.Go(func() {
				if _, err := l.alloc.Ensure(quiet(t), services[i]); err != nil {
					t.Errorf("leader %d, service %d: %v", n, i, err)
				}
			})
		}
	}
	wg.Wait()
	api.Deliver()
	for _, svc := range services {
		a, errA := leaders[0].alloc.Ensure(quiet(t), svc)
		b, errB := leaders[1].alloc.Ensure(quiet(t), svc)
		if errA != nil || errB != nil || fmt.Sprint(ips(a)) != fmt.Sprint(ips(b)) {
			t.Errorf("%s: %v, %v; %v, %v", svc.Name, ips(a), errA, ips(b), errB)
		}
	}
	if err := check(api, services...); err != nil {
		t.Error(err)
	}
}

// Services come, change and go under two leaders with failing calls and lagging caches;
// once that ends, one quiet round puts everything right.
func TestRandomHistory(t *testing.T) { forBoth(t, testRandomHistory) }

func testRandomHistory(t *testing.T, k kind) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/29", "2001:db8::/125"))
		leaders := []*leader{newLeader(t, api, k), newLeader(t, api, k)}
		defer func() {
			for _, l := range leaders {
				l.crash()
			}
		}()
		alive := make(map[string]*corev1.Service)
		for step := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "lag") {
				api.Hold()
			} else {
				api.Deliver()
			}
			l := leaders[rapid.IntRange(0, len(leaders)-1).Draw(rt, "leader")]
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "service")
			hook, _ := dieAt(rapid.IntRange(1, 8).Draw(rt, "fail at"), rapid.SampledFrom([]storetest.Outcome{storetest.Pass, storetest.FailBefore, storetest.FailAfter}).Draw(rt, "how"))
			failing := rapid.Bool().Draw(rt, "failing")
			if failing {
				api.OnCall(hook)
			}
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				if svc := alive[name]; svc != nil {
					if err := l.alloc.Delete(quiet(t), svc); err == nil {
						api.DeleteService(svc)
						delete(alive, name)
					}
				}
			case 1:
				l.crash()
				api.OnCall(nil)
				leaders = append(leaders[:0], append(without(leaders, l), newLeader(t, api, k))...)
			default:
				svc := alive[name]
				if svc == nil {
					svc = newService(name, step, func(s *corev1.Service) { s.UID = types.UID(fmt.Sprintf("%s-%d", name, step)) })
				} else {
					svc = svc.DeepCopy()
				}
				if rapid.Bool().Draw(rt, "asks") {
					annotate("fairlead.dev/addresses", fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 8).Draw(rt, "address")))(svc)
				}
				if rapid.Bool().Draw(rt, "dual") {
					svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
				}
				alive[name] = svc
				_, err := l.ensure(t, svc)
				if err != nil && !failing && !apierrors.IsConflict(err) && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
					rt.Fatalf("Ensure failed on a healthy server: %v", err)
				}
			}
			api.OnCall(nil)
		}
		api.Deliver()
		last := newLeader(t, api, k)
		defer last.crash()
		for _, svc := range alive {
			if _, err := last.ensure(t, svc); err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
				rt.Fatalf("the last leader: %v", err)
			}
		}
		if k.class != "" {
			// A stale cache of one leader may have outlived the Service.
			api.CollectGarbage()
		}
		if err := errors.Join(checkHeld(api)...); err != nil {
			rt.Fatal(err)
		}
		for _, r := range api.AllRecords() {
			if svc := alive[r.Name]; svc == nil || svc.UID != r.Spec.ServiceUID {
				rt.Fatalf("record %s is left over", r.Name)
			}
		}
	})
}

func without(in []*leader, l *leader) []*leader {
	var out []*leader
	for _, o := range in {
		if o != l {
			out = append(out, o)
		}
	}
	return out
}
