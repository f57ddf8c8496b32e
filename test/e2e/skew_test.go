// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// todaysOverlay is what the lab installs.
	todaysOverlay = "deploy/kustomize/overlays/lab"
	// skewKey is the annotation of the sharers.
	skewKey = "fairlead.dev/sharing-key: k"
)

// TestSkew runs the previous release's agents under today's controller, then the previous
// controller over today's agents: what the previous release can do goes on working, nobody
// loses an address, and today's controller puts right what the previous one forgot.
func TestSkew(t *testing.T) {
	dir := t.TempDir()
	if err := lab.Previous(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	const keeps, shared = "172.20.249.180", "172.20.249.181"
	s := newScenario(t, "skew", "172.20.249.180-172.20.249.189")
	t.Cleanup(func() {
		// Whatever happened: the tests that follow are about this release.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		defer cancel()
		if _, err := lab.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", todaysOverlay); err != nil {
			t.Error(err)
		}
	})
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(
		service{name: "keeps", annotations: `fairlead.dev/addresses: "` + keeps + `"`},
		service{name: "one", annotations: skewKey + `, fairlead.dev/addresses: "` + shared + `"`},
	)
	s.has("one", shared)
	s.create(service{name: "two", annotations: skewKey, ports: "{port: 8080, targetPort: 80}"})
	s.unchanged(keeps, shared)

	// The previous agents: two at a time, so that both releases gossip with each other.
	s.kubectl("patch", "daemonset", "-n", harness.Namespace, "fairlead-node-agent",
		"-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":2}}}}`)
	s.agents(filepath.Join(dir, "previous-node-agent"))
	s.takenBack(keeps, shared)
	s.unchanged(keeps, shared)
	s.life("old-agents", keeps)
	s.create(
		service{name: "three", annotations: "fairlead.dev/sharing-key: m, fairlead.dev/address-count: \"2\""},
		service{name: "four", annotations: "fairlead.dev/sharing-key: m", ports: "{port: 8080, targetPort: 80}"},
	)
	s.has("three", "172.20.249.182", "172.20.249.183")
	s.has("four", "172.20.249.182")
	if first, second := s.owner("172.20.249.182"), s.owner("172.20.249.183"); first != second {
		t.Errorf("%s and %s announce the addresses of one Service, want one node", first, second)
	}
	s.kubectl("delete", "svc", "-n", s.name, "three")
	s.answers("172.20.249.182:8080")
	s.agents(todaysOverlay)
	s.unchanged(keeps, shared)
	s.answers("172.20.249.182:8080")

	previousController(t, s, dir, keeps, shared)
}

// previousController is the second half: today's agents, and the controller of before with
// the configuration that it knows.
func previousController(t *testing.T, s *scenario, dir, keeps, shared string) {
	t.Helper()
	s.controller(filepath.Join(dir, "previous-controller"))
	s.unchanged(keeps, shared)
	s.life("old-controller", keeps)
	s.kubectl("annotate", "svc", "-n", s.name, "one", "two", "keeps", "example.com/touched=1")
	s.unchanged(keeps, shared)

	// Back again: sharing works as before, also for one more.
	s.controller(todaysOverlay)
	s.unchanged(keeps, shared)
	s.create(service{name: "five", annotations: skewKey, ports: "{port: 9090, targetPort: 80}"})
	s.has("five", shared)
	claim := s.tenants(shared, v1alpha1.ClaimBound, "five", "one", "two")
	if claim.Spec.SharingKey != "k" {
		t.Errorf("the claim's sharing key is %q, want k", claim.Spec.SharingKey)
	}
	s.answers(shared + ":9090")
	s.rule("keeps", keeps, v1alpha1.RuleRequested)
}

// takenBack waits until previous agents announce what today's left to the kernels: an
// address of the node itself in their eyes, which answers, and is nobody's to announce,
// until its lifetime is over.
func (s *scenario) takenBack(addresses ...string) {
	s.t.Helper()
	for _, a := range addresses {
		s.answers(a)
	}
	s.eventually(patience, func(ctx context.Context) error {
		for _, a := range addresses {
			if _, err := lab.OneMAC(ctx, "mypc", a); err != nil {
				return err
			}
			if _, err := lab.Owner(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// unchanged checks that the Services from before have their addresses and answer.
func (s *scenario) unchanged(keeps, shared string) {
	s.t.Helper()
	want := map[string]string{"keeps": keeps, "one": shared, "two": shared}
	s.eventually(patience, func(ctx context.Context) error {
		services, err := lab.Services(ctx, s.name)
		if err != nil {
			return err
		}
		var problems []error
		for i := range services {
			if a := want[services[i].Name]; a != "" && !slices.Equal(harness.Addresses(&services[i]), []string{a}) {
				problems = append(problems, fmt.Errorf("%s has %v, want %s", services[i].Name, harness.Addresses(&services[i]), a))
			}
		}
		return errors.Join(problems...)
	})
	s.answers(keeps)
	s.answers(shared)
	s.answers(shared + ":8080")
	s.owner(shared)
}

// life is a Service that comes, is served and goes.
func (s *scenario) life(name, not string) {
	s.t.Helper()
	s.create(service{name: name})
	a := s.address(name)
	if a == not {
		s.t.Fatalf("%s has %s, which is another Service's", name, a)
	}
	s.owner(a)
	s.answers(a)
	s.kubectl("delete", "svc", "-n", s.name, name, "--timeout=60s")
	s.free(a)
	s.silent(a)
}

// agents applies a kustomization and waits until every node's agent is its.
func (s *scenario) agents(kustomization string) {
	s.t.Helper()
	s.kubectl("apply", "--server-side", "--force-conflicts", "-k", kustomization)
	s.kubectl("rollout", "status", "-n", harness.Namespace, "daemonset/fairlead-node-agent", "--timeout=180s")
	s.wholeCluster()
}

// controller applies a kustomization and waits until all controllers are its, and one leads.
func (s *scenario) controller(kustomization string) {
	s.t.Helper()
	before, err := lab.Leader(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.kubectl("apply", "--server-side", "--force-conflicts", "-k", kustomization)
	s.kubectl("rollout", "status", "-n", harness.Namespace, "deployment/fairlead-controller", "--timeout=180s")
	// The one that led is gone: nobody needs to wait until its lease has run out.
	s.kubectl("delete", "lease", "-n", harness.Namespace, harness.ControllerLease)
	s.eventually(patience, func(ctx context.Context) error {
		now, err := lab.Leader(ctx)
		if err == nil && now.Identity == before.Identity {
			err = fmt.Errorf("%s still leads", now.Identity)
		}
		return err
	})
}
