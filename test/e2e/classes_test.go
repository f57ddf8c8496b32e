// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// stockFinalizer is the one of the stock service controller, for Services without a class.
const stockFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// served is the life of a Service of one load balancer class: with and without one it
// must be the same. Four addresses are needed.
func served(s *scenario, name, addresses, class string) {
	t := s.t
	s.begin(name, addresses)
	pool, err := pool(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	first, last := bounds(pool)
	spec, finalizer := "", stockFinalizer
	if class != "" {
		spec, finalizer = "loadBalancerClass: "+class, v1alpha1.FinalizerService
	}
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(
		service{name: "web", spec: spec},
		service{name: "asks", annotations: `fairlead.dev/addresses: "` + last + `"`, spec: spec},
		service{name: "outside", annotations: `fairlead.dev/addresses: "172.20.250.1"`, spec: spec},
	)
	s.has("web", first)
	s.owner(first)
	s.answers(first)
	svc, err := lab.Service(t.Context(), s.name, "web")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(svc.Finalizers, []string{finalizer}) {
		t.Errorf("finalizers %v, want %s alone", svc.Finalizers, finalizer)
	}
	s.has("asks", last)
	s.create(service{name: "late", annotations: `fairlead.dev/addresses: "` + last + `"`, spec: spec})
	s.refused("late", reason.AddressInUse, s.name+"/asks")
	s.refused("outside", reason.AddressNotInPool)
	s.eventually(patience, func(ctx context.Context) error {
		if e := s.events(ctx, "web"); e["AddressAllocated"] != 1 || e["Announcing"] != 1 {
			return errors.New("web has not one event AddressAllocated and one Announcing")
		}
		return nil
	})

	// A deletion frees the address, also for who asks for it.
	s.kubectl("delete", "svc", "-n", s.name, "asks", "--timeout=60s")
	s.has("late", last)

	// Kubernetes lets a class come and go with the type only.
	s.patch("svc/web", `{"spec":{"type":"ClusterIP","loadBalancerClass":null}}`)
	s.free(first)
	s.silent(first)
	s.eventually(patience, func(ctx context.Context) error {
		svc, err := lab.Service(ctx, s.name, "web")
		if err == nil && len(svc.Finalizers)+len(svc.Status.LoadBalancer.Ingress) > 0 {
			err = errors.New("as ClusterIP it has a finalizer or an address")
		}
		return err
	})
	back := `{"spec":{"type":"LoadBalancer"}}`
	if class != "" {
		back = `{"spec":{"type":"LoadBalancer","loadBalancerClass":"` + class + `"}}`
	}
	s.patch("svc/web", back)
	s.has("web", first)
	s.owner(first)
	s.answers(first)
}

// bounds are the ends of a pool's one range.
func bounds(p *v1alpha1.IPAddressPool) (first, last string) {
	r := p.Spec.Addresses[0]
	for i := range r {
		if r[i] == '-' {
			return r[:i], r[i+1:]
		}
	}
	return r, r
}

// foreignClass leaves another load balancer's Services alone.
func foreignClass(s *scenario) {
	t := s.t
	s.begin("foreign", "172.20.249.110/32")
	s.create(service{name: "theirs", spec: "loadBalancerClass: example.com/other"})
	// Ours comes later and is served, so the controller has seen theirs.
	s.create(service{name: "ours"})
	s.has("ours", "172.20.249.110")
	svc, err := lab.Service(t.Context(), s.name, "theirs")
	if err != nil {
		t.Fatal(err)
	}
	records, err := lab.Records(t.Context(), s.name)
	if err != nil {
		t.Fatal(err)
	}
	if got := harness.Addresses(svc); len(got)+len(svc.Finalizers) != 0 || len(records) != 1 {
		t.Errorf("theirs has addresses %v and finalizers %v, and there are %d records; want none, none and 1", got, svc.Finalizers, len(records))
	}
	if e := s.events(t.Context(), "theirs"); len(e) != 0 {
		t.Errorf("events %v about theirs, want none", e)
	}
}
