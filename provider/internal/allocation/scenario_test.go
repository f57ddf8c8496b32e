// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// scenario is one change to a world with several Services.
type scenario struct {
	name string
	// pool is a by default.
	pool *v1alpha1.IPAddressPool
	// before are ensured in order by a healthy leader.
	before []*corev1.Service
	// policy is set after before.
	policy *v1alpha1.ExternalIPPolicy
	// act is the change under which the leader dies.
	act func(t *testing.T, l *leader) error
	// want are the Services that live afterwards and the addresses that they list.
	want map[string][]string
	// phases are those of claims that are not bound any more.
	phases map[string]v1alpha1.ClaimPhase
}

func ensures(svc *corev1.Service) func(*testing.T, *leader) error {
	return func(t *testing.T, l *leader) error {
		t.Helper()
		_, err := l.ensure(t, svc.DeepCopy())
		if errors.Is(err, cloudprovider.ImplementedElsewhere) {
			return nil
		}
		return err
	}
}

func removes(svc *corev1.Service) func(*testing.T, *leader) error {
	return func(t *testing.T, l *leader) error {
		t.Helper()
		return l.remove(t, svc)
	}
}

func scenarios() []scenario {
	a, b := shares("a", 1, "k", 80), shares("b", 2, "k", 81)
	web, bridge := newService("web", 1, nil), shares("bridge", 3, "k", 82, dual)
	high := shares("high", 2, "k", 80, func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })
	external := newService("web", 1, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.9"} })
	return []scenario{
		{name: "join", before: []*corev1.Service{a}, act: ensures(b), want: map[string][]string{
			"a": {"192.0.2.0 AutoAssign"}, "b": {"192.0.2.0 Shared"},
		}},
		{name: "leave", before: []*corev1.Service{a, b}, act: removes(a), want: map[string][]string{"b": {"192.0.2.0 Shared"}}},
		{name: "misfit", before: []*corev1.Service{a, b}, act: ensures(shares("b", 2, "k", 80)), want: map[string][]string{
			"a": {"192.0.2.0 AutoAssign"}, "b": {"192.0.2.1 AutoAssign"},
		}},
		{
			name: "misfit that asks", before: []*corev1.Service{a, shares("b", 2, "k", 81, asks("192.0.2.0"))},
			act: ensures(shares("b", 2, "k", 80, asks("192.0.2.0"))), want: map[string][]string{"a": {"192.0.2.0 AutoAssign"}, "b": {}},
		},
		{
			name: "retain", pool: retaining("192.0.2.0/28"), before: []*corev1.Service{web}, act: removes(web),
			want: map[string][]string{}, phases: map[string]v1alpha1.ClaimPhase{"192.0.2.0": v1alpha1.ClaimRetained},
		},
		{name: "link", before: []*corev1.Service{a, high}, act: ensures(bridge), want: map[string][]string{
			"a": {"192.0.2.0 AutoAssign"}, "high": {"2001:db8:: AutoAssign"}, "bridge": {"192.0.2.0 Shared", "2001:db8:: Shared"},
		}},
		{name: "unlink", before: []*corev1.Service{a, high, bridge}, act: removes(bridge), want: map[string][]string{
			"a": {"192.0.2.0 AutoAssign"}, "high": {"2001:db8:: AutoAssign"},
		}},
		{
			name: "external IP", before: []*corev1.Service{web}, policy: grant("default", "192.0.2.9/32"), act: ensures(external),
			want: map[string][]string{"web": {"192.0.2.0 AutoAssign", "192.0.2.9 ExternalIP"}},
		},
		{
			name: "external IP joins", before: []*corev1.Service{plain("other", 81, "192.0.2.9")}, policy: grant("default", "192.0.2.9/32"),
			act: func(t *testing.T, l *leader) error {
				t.Helper()
				return errors.Join(ensures(plain("other", 81, "192.0.2.9"))(t, l), ensures(plain("web", 80, "192.0.2.9"))(t, l))
			}, want: map[string][]string{"web": {"192.0.2.9 ExternalIP"}, "other": {"192.0.2.9 ExternalIP"}},
		},
		{
			name: "count up", before: []*corev1.Service{web}, act: ensures(newService("web", 1, annotate(v1alpha1.AnnotationAddressCount, "3"))),
			want: map[string][]string{"web": {"192.0.2.0 AutoAssign", "192.0.2.1 AutoAssign", "192.0.2.2 AutoAssign"}},
		},
		{
			name: "count down", before: []*corev1.Service{newService("web", 1, annotate(v1alpha1.AnnotationAddressCount, "3"))}, act: ensures(web),
			want: map[string][]string{"web": {"192.0.2.0 AutoAssign"}},
		},
		{
			name: "adopt", before: []*corev1.Service{web}, act: ensures(newService("web", 2, second)),
			want: map[string][]string{"web": {"192.0.2.0 Retained"}},
		},
	}
}

// The leader may die at any call of any change; the next one finishes it.
func TestCrashInEveryScenario(t *testing.T) { forBoth(t, testCrashInEveryScenario) }

func testCrashInEveryScenario(t *testing.T, k kind) {
	t.Helper()
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			for _, how := range []storetest.Outcome{storetest.FailBefore, storetest.FailAfter} {
				for n := 1; sc.dieAt(t, k, n, how); n++ {
					if n > 60 {
						t.Fatal("the scenario does not end")
					}
				}
			}
		})
	}
}

// dieAt reports whether the leader died, that is, whether it made n calls.
func (sc *scenario) dieAt(t *testing.T, k kind, n int, how storetest.Outcome) bool {
	t.Helper()
	api := storetest.New()
	if sc.pool != nil {
		api.PutPool(sc.pool)
	} else {
		api.PutPool(newPool("a", "192.0.2.0/28", "2001:db8::/120"))
	}
	one := newLeader(t, api, k)
	for _, svc := range sc.before {
		if err := ensures(svc)(t, one); err != nil {
			t.Fatal(err)
		}
	}
	if sc.policy != nil {
		api.PutPolicy(sc.policy)
	}
	hook, died := dieAt(n, how)
	api.OnCall(hook)
	_ = sc.act(t, one)
	api.OnCall(nil)
	one.crash()
	wasDead := died()
	two := newLeader(t, api, k)
	if err := sc.act(t, two); err != nil {
		t.Errorf("call %d: second leader: %v", n, err)
	}
	for _, svc := range sc.live(api) {
		if _, err := two.ensure(t, svc); err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
			t.Errorf("call %d: second leader, Service %s: %v", n, svc.Name, err)
		}
	}
	if err := sc.audit(api); err != nil {
		t.Errorf("call %d, outcome %d: %v", n, how, err)
	}
	return wasDead
}

func (sc *scenario) live(api *storetest.API) []*corev1.Service {
	var out []*corev1.Service
	for name := range sc.want {
		if svc := api.Service("default", name); svc != nil {
			out = append(out, svc)
		}
	}
	return out
}

func (sc *scenario) audit(api *storetest.API) error {
	errs := []error{check(api, sc.live(api)...)}
	for name, want := range sc.want {
		got := listed(api, name)
		if sc.name == "adopt" { // the claim does not tell a later leader how it was come by
			got = slices.Clone(got)
			for i := range got {
				got[i] = strings.Replace(got[i], "AutoAssign", "Retained", 1)
			}
		}
		if !slices.Equal(got, want) {
			errs = append(errs, fmt.Errorf("%s lists %q, want %q", name, got, want))
		}
	}
	for _, c := range api.AllClaims() {
		if want := sc.phases[c.Name]; want != "" && c.Spec.Phase != want {
			errs = append(errs, fmt.Errorf("claim %s is %s, want %s", c.Name, c.Spec.Phase, want))
		}
	}
	return errors.Join(errs...)
}
