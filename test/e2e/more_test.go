// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// together runs scenarios side by side on the one lab: each has its namespace and its
// pool, and most of their time is waiting. It ends when the last one has ended.
func together(t *testing.T, tests map[string]func(s *scenario)) {
	t.Helper()
	t.Run("together", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(&scenario{t: t})
			})
		}
	})
}

// service is a Service of type LoadBalancer in front of the scenario's pods, in the words
// of YAML: annotations and spec are flow-style maps' contents, ports defaults to TCP 80.
type service struct {
	name, annotations, ports, spec string
}

// manifest of the Service in the scenario's namespace.
func (s *scenario) manifest(svc service) string {
	if svc.ports == "" {
		svc.ports = "{port: 80, targetPort: 80}"
	}
	spec := "type: LoadBalancer, selector: {app: web}, ports: [" + svc.ports + "]"
	if svc.spec != "" {
		spec += ", " + svc.spec
	}
	return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + svc.name + ", namespace: " + s.name +
		", annotations: {" + svc.annotations + "}}\nspec: {" + spec + "}\n"
}

// create applies Services in this order.
func (s *scenario) create(services ...service) {
	s.t.Helper()
	var b strings.Builder
	for _, svc := range services {
		b.WriteString(s.manifest(svc))
	}
	s.apply(b.String())
}

// patch changes an object of the scenario's namespace by a merge patch.
func (s *scenario) patch(object, patch string) {
	s.t.Helper()
	s.kubectl("patch", "-n", s.name, object, "--type=merge", "-p", patch)
}

// patchPool changes the spec of the scenario's pool and waits until the controller goes by
// it: what is created next may be seen before the change else, by a watch of its own.
func (s *scenario) patchPool(spec string) {
	s.t.Helper()
	const kind = "ipaddresspool.fairlead.dev"
	s.patch(kind+"/"+s.name, `{"spec":`+spec+`}`)
	s.known(kind, s.name)
}

// patchAd is patchPool for the scenario's advertisement.
func (s *scenario) patchAd(spec string) {
	s.t.Helper()
	const kind = "l2advertisement.fairlead.dev"
	s.patch(kind+"/"+s.name, `{"spec":`+spec+`}`)
	s.known(kind, s.name)
}

// conditioned is any object whose conditions name the generation that they are about.
type conditioned struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

// known waits until the conditions of an object are about its present generation.
func (s *scenario) known(kind, name string) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		o, err := harness.Get[conditioned](ctx, lab, kind, name)
		if err != nil {
			return err
		}
		if len(o.Status.Conditions) == 0 {
			return fmt.Errorf("%s %s has no conditions yet", kind, name)
		}
		for _, c := range o.Status.Conditions {
			if c.ObservedGeneration < o.Metadata.Generation {
				return fmt.Errorf("condition %s of %s %s is about generation %d, not yet %d", c.Type, kind, name, c.ObservedGeneration, o.Metadata.Generation)
			}
		}
		return nil
	})
}

// has waits until a Service's status shows exactly these addresses, in this order.
func (s *scenario) has(service string, want ...string) time.Duration {
	s.t.Helper()
	return s.eventually(patience, func(ctx context.Context) error {
		svc, err := lab.Service(ctx, s.name, service)
		if err != nil {
			return err
		}
		if got := harness.Addresses(svc); !slices.Equal(got, want) {
			return fmt.Errorf("%s has %v, want %v", service, got, want)
		}
		return nil
	})
}

// refused waits until a Service has no address for one reason, told once by an event whose
// message holds every one of the words.
func (s *scenario) refused(service string, want reason.Reason, words ...string) {
	s.t.Helper()
	s.condition(service, v1alpha1.ConditionAllocated, want)
	s.told("Service", service, want, words...)
	svc, err := lab.Service(s.t.Context(), s.name, service)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := harness.Addresses(svc); len(got) != 0 {
		s.t.Errorf("%s has %v though it was refused with %s", service, got, want)
	}
}

// told waits for a Warning event about an object of the scenario's namespace: each message
// may come once, another message is another cause.
func (s *scenario) told(kind, name string, want reason.Reason, words ...string) {
	s.t.Helper()
	s.toldIn(s.name, kind, name, want, words...)
}

// toldIn is told for an object of any namespace; objects without one have theirs in default.
func (s *scenario) toldIn(namespace, kind, name string, want reason.Reason, words ...string) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		events, err := lab.Events(ctx, namespace, kind, name)
		if err != nil {
			return err
		}
		told := map[string]int{}
		for i := range events {
			if events[i].Reason == want.String() && events[i].Type == corev1.EventTypeWarning {
				told[events[i].Message] += occurrences(&events[i])
			}
		}
		if len(told) == 0 {
			return fmt.Errorf("no Warning event %s about %s %s", want, kind, name)
		}
		for message, n := range told {
			if n != 1 {
				return fmt.Errorf("%d events %s about %s %s say %q, want 1", n, want, kind, name, message)
			}
		}
		for _, w := range words {
			if !strings.Contains(strings.Join(slices.Collect(maps.Keys(told)), "\n"), w) {
				return fmt.Errorf("events %s about %s %s say %v, want %q in it", want, kind, name, told, w)
			}
		}
		return nil
	})
}

// rule waits until a Service's record says why it has an address.
func (s *scenario) rule(service, address string, want v1alpha1.AllocationRule) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		rec, err := lab.Record(ctx, s.name, service)
		if err != nil {
			return err
		}
		for _, a := range rec.Spec.Addresses {
			if a.Address == address {
				if a.Rule != want {
					return fmt.Errorf("%s has %s by rule %q, want %q", service, address, a.Rule, want)
				}
				return nil
			}
		}
		return fmt.Errorf("the record of %s has %v, want %s in it", service, rec.Spec.Addresses, address)
	})
}

// tenants waits until an address's claim names exactly these Services of the scenario.
func (s *scenario) tenants(address string, phase v1alpha1.ClaimPhase, want ...string) *v1alpha1.IPClaim {
	s.t.Helper()
	var claim *v1alpha1.IPClaim
	s.eventually(patience, func(ctx context.Context) (err error) {
		if claim, err = lab.Claim(ctx, address); err != nil {
			return err
		}
		var got []string
		for _, ref := range claim.Spec.Services {
			got = append(got, ref.Name)
		}
		slices.Sort(got)
		if claim.Spec.Phase != phase || !slices.Equal(got, want) {
			return fmt.Errorf("claim %s is %s for %v, want %s for %v", address, claim.Spec.Phase, got, phase, want)
		}
		return nil
	})
	return claim
}

// free waits until no claim holds an address.
func (s *scenario) free(address string) time.Duration {
	s.t.Helper()
	return s.eventually(patience, func(ctx context.Context) error {
		claims, err := lab.Claims(ctx)
		if err != nil {
			return err
		}
		for i := range claims {
			if c := &claims[i]; c.Name == address {
				return fmt.Errorf("claim %s (%s) is still there", c.Name, c.Spec.Phase)
			}
		}
		return nil
	})
}
